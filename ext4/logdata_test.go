package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
)

// onlyLog gives what a crash leaves when nothing but the log and the superblock got to
// the disk: what a replay makes of it came through the log.
func onlyLog(image []byte, d *recorder, log func(int64) bool) []byte {
	crashed := slices.Clone(image)
	for _, e := range d.log {
		if e.off >= 0 && (log(e.off) || e.off == format.SuperblockOffset && len(e.data) == format.SuperblockSize) {
			copy(crashed[e.off:], e.data)
		}
	}
	return crashed
}

// With data=journal the content of files is in the log, blocks that look like the log's
// own included, and comes out of it by our replay, e2fsck's and the kernel's. So does that
// of one file with chattr +j on an ordered mount, and of no other.
func TestDataInLog(t *testing.T) {
	magic := append([]byte("\xC0\x3B\x39\x98"), bytes.Repeat([]byte("m"), 9000)...)
	for _, form := range []string{"4k", "default", "ext3", "nocsum"} {
		for _, mode := range []DataMode{DataJournal, DataOrdered} {
			t.Run(fmt.Sprint(form, " ", mode), func(t *testing.T) {
				image := must(os.ReadFile(makeImage(t, 16<<20, formArgs(form)...)))
				d := &recorder{data: slices.Clone(image)}
				fs := must(Open(d, Options{Data: mode, CommitEvery: time.Hour}))
				root := must(fs.Root())
				n := must(root.Create("f", regular))
				other := must(root.Create("other", regular))
				if mode == DataOrdered {
					check(t, n.SetAttr(AttrFlags, Attr{Flags: format.FlagJournalData}))
				}
				want := make([]byte, 50_000)
				write := func(p []byte, off int) {
					must(n.WriteAt(p, int64(off)))
					copy(want[off:], p)
				}
				write(fill(1, 0, len(want)), 0)
				must(other.WriteAt(want, 0))
				check(t, fs.Sync())
				write(magic, 8192) // the transaction before must be replayed before this one
				write([]byte("within one block"), 30_001)
				check(t, n.Punch(20_000, 9000))
				clear(want[20_000:29_000])
				check(t, n.Truncate(49_000))
				want = want[:49_000]
				check(t, n.Sync(true)) // data of the transaction is what fdatasync waits for
				sameFile(t, n, want)

				crashed := onlyLog(image, d, inLog(fs))
				after := must(Open(&recorder{data: slices.Clone(crashed)}, Options{}))
				again := must(after.Root())
				f := must(again.Lookup("f"))
				sameFile(t, f, want)
				check(t, f.Put())
				o := must(again.Lookup("other"))
				got := make([]byte, 50_000)
				must(o.ReadAt(got, 0))
				if logged := bytes.Equal(got, fill(1, 0, len(got))); logged != (mode == DataJournal) {
					t.Errorf("the data of another file came from the log: %v", logged)
				}
				check(t, o.Put())
				check(t, again.Put())
				check(t, after.Close())
				if !replaysAgree(t, crashed, inLog(fs), "crashed") {
					t.Error("nothing was compared")
				}
				check(t, n.Put())
				check(t, other.Put())
				check(t, root.Put())
				check(t, fs.Close())
			})
		}
	}
}

// What the log holds of a file's blocks must not come back at a replay once they are
// written in place: freed and used by a file that is not journaled, or its own after
// chattr -j.
func TestLoggedDataStaysGone(t *testing.T) {
	image := must(os.ReadFile(makeImage(t, 8<<20, formArgs("4k")...)))
	size := 1 << 20
	for _, way := range []string{"removed", "truncated", "punched", "chattr -j"} {
		t.Run(way, func(t *testing.T) {
			d := &recorder{data: slices.Clone(image)}
			fs := must(Open(d, Options{CommitEvery: time.Hour}))
			root := must(fs.Root())
			n := must(root.Create("f", regular))
			check(t, n.SetAttr(AttrFlags, Attr{Flags: format.FlagJournalData}))
			must(n.WriteAt(fill(1, 0, size), 0))
			check(t, fs.Sync())
			switch way {
			case "removed":
				check(t, root.Unlink("f"))
				check(t, n.Put())
			case "truncated":
				check(t, n.Truncate(0))
				check(t, n.Put())
			case "punched":
				check(t, n.Punch(0, int64(size)))
				check(t, n.Put())
			case "chattr -j":
				check(t, n.SetAttr(AttrFlags, Attr{}))
				must(n.WriteAt(fill(2, 0, size), 0))
			}
			check(t, fs.Sync())
			if way != "chattr -j" { // fill the disk, in place
				n = must(root.Create("full", regular))
				free := fs.Statfs().Free
				size = int(free)<<fs.bsBits - 64<<fs.bsBits
				must(n.WriteAt(fill(2, 0, size), 0))
			}
			check(t, fs.Sync())
			crash := must(Open(&recorder{data: slices.Clone(d.data)}, Options{})) // the log is still full
			again := must(crash.Root())
			name := "full"
			if way == "chattr -j" {
				name = "f"
			}
			f := must(again.Lookup(name))
			sameFile(t, f, fill(2, 0, size))
			check(t, f.Put())
			check(t, again.Put())
			check(t, crash.Close())
			check(t, n.Put())
			check(t, root.Put())
			check(t, fs.Close())
		})
	}
}

// A write of many times the log's size goes through it in pieces, and reads see it whole
// at all times.
func TestLoggedDataExceedsLog(t *testing.T) {
	path := makeImage(t, 64<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")
	fs := openFS(t, path, Options{Data: DataJournal, Logf: func(f string, a ...any) {
		t.Errorf(f, a...) // a transaction that the log does not hold is a warning
	}})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	want := fill(3, 0, 20<<20)
	must(n.WriteAt(want, 0))
	sameFile(t, n, want)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		off := r.IntN(len(want))
		p := fill(i, off, min(1+r.IntN(1<<18), len(want)-off))
		copy(want[off:], p)
		must(n.WriteAt(p, int64(off)))
		got := make([]byte, len(p))
		if must(n.ReadAt(got, int64(off))); !bytes.Equal(got, p) {
			t.Fatalf("write %d at %d: reads otherwise", i, off)
		}
	}
	sameFile(t, n, want)
	check(t, n.Sync(true))
	if left := fs.logged.count.Load(); left != 0 {
		t.Errorf("%d blocks wait for their place after a commit", left)
	}
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, path)
	fs = openFS(t, path, Options{ReadOnly: true})
	root = must(fs.Root())
	n = must(root.Lookup("f"))
	sameFile(t, n, want)
	check(t, n.Put())
	check(t, root.Put())
	check(t, fs.Close())
}

// hooked is a Device on which a test does something in the middle of an operation.
type hooked struct {
	*memory
	onSync func()
	onRead func(off int64) // after it was read
}

func (d *hooked) Sync() error {
	if f := d.onSync; f != nil {
		f()
	}
	return nil
}

func (d *hooked) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.memory.ReadAt(p, off)
	if f := d.onRead; f != nil {
		f(off)
	}
	return n, err
}

// What is written while a commit writes the same block home stays, and so does what a
// commit brings home while it is being read.
func TestLoggedDataDuringCommit(t *testing.T) {
	image := must(os.ReadFile(makeImage(t, 16<<20, formArgs("4k")...)))
	d := &hooked{memory: &memory{base: image, pages: map[int64][]byte{}}}
	fs := must(Open(d, Options{Data: DataJournal, CommitEvery: time.Hour}))
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	must(n.WriteAt(fill(1, 0, 4096), 0))
	check(t, fs.Sync())
	must(n.WriteAt(fill(2, 0, 4096), 0))
	syncs := 0
	d.onSync = func() {
		if syncs++; syncs == 1 {
			must(n.WriteAt(fill(3, 0, 4096), 0))
		}
	}
	check(t, fs.Sync())
	if syncs < 2 {
		t.Fatalf("a commit of %d syncs", syncs)
	}
	d.onSync = nil
	sameFile(t, n, fill(3, 0, 4096))

	done := make(chan error, 1)
	d.onRead = func(off int64) {
		if d.onRead = nil; off == 0 {
			return
		}
		go func() { done <- fs.Sync() }()
		for range 20 { // it may not end before the read does
			if fs.logged.count.Load() == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	sameFile(t, n, fill(3, 0, 4096))
	check(t, <-done)
	sameFile(t, n, fill(3, 0, 4096))
	check(t, n.Put())
	check(t, root.Put())
	check(t, fs.Close())
}

// InPlace leaves out what waits in the log, and nothing after the commit.
func TestInPlace(t *testing.T) {
	fs := openFS(t, makeImage(t, 16<<20, formArgs("4k")...), Options{Data: DataJournal, CommitEvery: time.Hour})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	must(n.WriteAt(make([]byte, 10*4096), 0))
	check(t, fs.Sync())
	var e Extent
	check(t, n.Map(0, 10*4096, func(x Extent) bool { e = x; return false }))
	if e.Length != 10*4096 {
		t.Fatalf("extent %+v", e)
	}
	place := func(at, from, to int64) {
		t.Helper()
		gotFrom, gotTo := fs.InPlace(e.Disk, e.Disk+e.Length, e.Disk+at)
		if gotFrom-e.Disk != from || gotTo-e.Disk != to {
			t.Errorf("around %d: %d to %d, want %d to %d", at, gotFrom-e.Disk, gotTo-e.Disk, from, to)
		}
	}
	place(5*4096, 0, 10*4096)
	must(n.WriteAt([]byte("x"), 3*4096+5))
	must(n.WriteAt([]byte("x"), 7*4096))
	place(0, 0, 3*4096)
	place(5*4096, 4*4096, 7*4096)
	place(3*4096, 3*4096, 3*4096)
	place(9*4096, 8*4096, 10*4096)
	check(t, n.Sync(true))
	place(5*4096, 0, 10*4096)
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
}

// The superblock's default mode holds unless Options say otherwise.
func TestDataModeDefault(t *testing.T) {
	for _, f := range []struct {
		super string
		opt   DataMode
		want  DataMode
	}{
		{"", 0, DataOrdered},
		{"journal_data", 0, DataJournal},
		{"journal_data_ordered", 0, DataOrdered},
		{"journal_data_writeback", 0, DataWriteback},
		{"journal_data", DataOrdered, DataOrdered},
		{"journal_data_writeback", DataJournal, DataJournal},
	} {
		path := makeImage(t, 8<<20, "-t", "ext4")
		if f.super != "" {
			tool(t, "tune2fs", "-o", f.super, path)
		}
		fs := openFS(t, path, Options{Data: f.opt})
		if got := DataMode(fs.dataMode.Load()); got != f.want {
			t.Errorf("superblock %q, option %d: mode %d, want %d", f.super, f.opt, got, f.want)
		}
		closeFS(t, fs)
	}
}

// With data=writeback a commit does not wait for data: what is lost in a crash is the
// data and not the metadata that names its blocks. An fsync, and sync, wait for both. In
// the other modes nothing is lost at the same point.
func TestWritebackLeavesData(t *testing.T) {
	image := must(os.ReadFile(makeImage(t, 16<<20, formArgs("4k")...)))
	want := fill(1, 0, 20_000)
	for _, mode := range []DataMode{DataOrdered, DataJournal, DataWriteback} {
		for _, how := range []string{"commit", "fsync", "fdatasync", "sync"} {
			d := &recorder{data: slices.Clone(image)}
			fs := must(Open(d, Options{Data: mode, CommitEvery: time.Hour}))
			root := must(fs.Root())
			check(t, must(root.Create("first", regular)).Put())
			check(t, fs.Sync()) // the log's superblock is written
			n := must(root.Create("f", regular))
			must(n.WriteAt(want, 0))
			switch how {
			case "commit":
				check(t, fs.commitNow())
			case "sync":
				check(t, fs.Sync())
			default:
				check(t, n.Sync(how == "fdatasync"))
			}
			// All is lost that was not made stable.
			m := &memory{base: slices.Clone(image), pages: map[int64][]byte{}}
			var pending []event
			for _, e := range d.log {
				switch {
				case e.off == alone:
					pending[len(pending)-1].alone = true
				case e.off == -1:
					survivors(m, pending, loseNone, fs.bs, nil, nil)
					pending = nil
				default:
					pending = append(pending, e)
				}
			}
			survivors(m, pending, loseAll, fs.bs, nil, nil)
			after := must(Open(m, Options{}))
			again := must(after.Root())
			f := must(again.Lookup("f"))
			got := make([]byte, len(want))
			must(f.ReadAt(got, 0))
			if kept, keeps := bytes.Equal(got, want), mode != DataWriteback || how != "commit"; kept != keeps {
				t.Errorf("mode %d, %s: data survived: %v, want %v", mode, how, kept, keeps)
			}
			check(t, f.Put())
			check(t, again.Put())
			check(t, after.Close())
			check(t, n.Put())
			check(t, root.Put())
			check(t, fs.Close())
		}
	}
}
