package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// recorder is a Device in memory that remembers every write and where the syncs were.
type recorder struct {
	mu   sync.Mutex
	data []byte
	log  []event
}

// event is a write, a trim (zero data), a sync (off < 0), or what makes the write before
// it stable alone.
type event struct {
	off  int64
	data []byte
	mark int // what the test had made stable when this was recorded
	trim bool

	alone bool // it is stable
}

const alone = -3 // off of an event

func (d *recorder) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(p, d.data[off:]), nil
}

func (d *recorder) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	d.log = append(d.log, event{off: off, data: bytes.Clone(p)})
	return len(p), nil
}

func (d *recorder) Size() int64 { return int64(len(d.data)) }

func (d *recorder) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, event{off: -1})
	return nil
}

func (d *recorder) WriteStable(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	d.log = append(d.log, event{off: off, data: bytes.Clone(p)}, event{off: alone})
	return len(p), nil
}

func (d *recorder) Trim(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	d.log = append(d.log, event{off: off, data: make([]byte, n), trim: true})
	return nil
}

func (d *recorder) mark(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, event{off: -2, mark: n})
}

// A crash at any write, with any of the writes since the last sync lost, leaves what
// replay makes clean for e2fsck, with everything that was made stable.
func TestCrash(t *testing.T) {
	cuts := 8 // TestCrashModel has many more
	if testing.Short() {
		cuts = 4
	}
	for _, f := range []string{"4k", "default", "nocsum", "32bit", "ext3", "orphan_file", "quota", "mkfs"} {
		t.Run(f, func(t *testing.T) {
			args := append([]string{"-t", "ext4"}, quotaForms[2]...)
			for _, g := range forms {
				if g.name == f {
					args = g.args
				}
			}
			image := makeImage(t, 40<<20, args...)
			if f == "mkfs" {
				image = mkfsImage(t, 40<<20, []string{"orphan_file", "quota", "project", "ea_inode", "fast_commit"}, nil)
			}
			base := must(os.ReadFile(image))
			d := &recorder{data: bytes.Clone(base)}
			stable := crashWork(t, d)
			r := rand.New(rand.NewPCG(3, uint64(len(f))))
			var syncs []int
			for i, e := range d.log {
				if e.off == -1 {
					syncs = append(syncs, i)
				}
			}
			for i := range cuts {
				cut := r.IntN(len(d.log))
				if i%4 < 2 { // just before a sync the most can be lost
					cut = syncs[r.IntN(len(syncs))]
				}
				got, marks := replayTo(base, d.log[:cut], r, i%2 == 0)
				crashCheck(t, got, stable[:marks], fmt.Sprintf("cut %d of %d", cut, len(d.log)), i%8 == 0)
			}
		})
	}
}

// synced is a file that was made stable, with what it held then.
type synced struct {
	name string
	data []byte
}

// crashWork makes changes of all kinds, and some of them stable.
func crashWork(t *testing.T, d *recorder) []synced {
	fs, err := Open(d, Options{Logf: t.Logf, Discard: true})
	check(t, err)
	root := must(fs.Root())
	dir := must(root.Create("dir", NewInode{Mode: format.ModeDir | 0o755}))
	r := rand.New(rand.NewPCG(5, 6))
	var list []synced
	for i := range 60 {
		name := fmt.Sprintf("stable-%d", i)
		n := must(dir.Create(name, NewInode{Mode: format.ModeRegular | 0o644}))
		p := bytes.Repeat([]byte{byte(i + 1)}, 1+r.IntN(30000))
		must(n.WriteAt(p, 0))
		check(t, n.Sync(i%2 == 0))
		list = append(list, synced{name, p})
		d.mark(len(list))
		check(t, n.Put())
		for k := range 30 {
			name := fmt.Sprintf("loose-%d-%d", i, k)
			n := must(dir.Create(name, NewInode{Mode: format.ModeRegular | 0o644, UID: uint32(i * k)}))
			must(n.WriteAt(bytes.Repeat([]byte{0xEE}, 1+r.IntN(20000)), int64(r.IntN(50000))))
			check(t, n.SetXattr("user.k", bytes.Repeat([]byte("v"), r.IntN(300)), XattrFlags{}))
			if fs.hasEAInode && k%4 == 0 {
				check(t, n.SetXattr("user.large", value(r.IntN(5), 5000+r.IntN(9)), XattrFlags{}))
			}
			check(t, n.Put())
			old := fmt.Sprintf("loose-%d-%d", r.IntN(i+1), r.IntN(30))
			switch r.IntN(5) {
			case 0, 1:
				_ = dir.Unlink(old)
			case 2:
				_ = fs.Rename(dir, old, root, old, RenameFlags{})
			case 3:
				if n, err := dir.Lookup(old); err == nil {
					check(t, n.Truncate(int64(r.IntN(10000))))
					check(t, n.Put())
				}
			case 4:
				sub := must(dir.Create(fmt.Sprintf("sub-%d-%d", i, k), NewInode{Mode: format.ModeDir | 0o755}))
				check(t, sub.Put())
				if r.IntN(2) == 0 {
					check(t, dir.Rmdir(fmt.Sprintf("sub-%d-%d", i, k)))
				}
			}
		}
		if i%10 == 9 {
			n := must(dir.Create(fmt.Sprintf("open-%d", i), NewInode{Mode: format.ModeRegular | 0o644}))
			must(n.WriteAt(make([]byte, 100000), 0))
			check(t, dir.Unlink(fmt.Sprintf("open-%d", i))) // and stays open to the end
			check(t, fs.Sync())
		}
	}
	check(t, dir.Put())
	check(t, root.Put())
	check(t, fs.Close())
	return list
}

// replayTo makes the disk that a crash after the last of these events leaves. With lose
// some of the blocks written since the last sync are missing, whole blocks as jbd2 takes
// for granted.
func replayTo(base []byte, log []event, r *rand.Rand, lose bool) (data []byte, marks int) {
	var s format.Superblock
	_ = s.Decode(base[format.SuperblockOffset:])
	unit := s.BlockSize()
	data = bytes.Clone(base)
	last := 0
	for i, e := range log {
		if e.off == -1 {
			last = i
		}
	}
	for i, e := range log {
		switch {
		case e.off == -2:
			marks = e.mark
		case e.off >= 0:
			if !lose || i <= last {
				copy(data[e.off:], e.data)
				continue
			}
			for at := 0; at < len(e.data); at += unit { // a write can be torn
				if r.IntN(2) == 0 {
					copy(data[e.off+int64(at):], e.data[at:min(at+unit, len(e.data))])
				}
			}
		}
	}
	return data, marks
}

// writeSparse writes a file and leaves out the zeros.
func writeSparse(t testing.TB, path string, data []byte) {
	t.Helper()
	f := must(os.Create(path))
	check(t, f.Truncate(int64(len(data))))
	zeros := make([]byte, 4096)
	for off := 0; off < len(data); off += 4096 {
		if p := data[off:min(off+4096, len(data))]; !bytes.Equal(p, zeros) {
			must(f.WriteAt(p, int64(off)))
		}
	}
	check(t, f.Close())
}

func crashCheck(t *testing.T, data []byte, stable []synced, what string, both bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "crashed.img")
	writeSparse(t, path, data)
	var theirs []string
	if both { // e2fsck's replay gives the same tree
		other := path + ".e2fsck"
		writeSparse(t, other, data)
		out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fp", other).CombinedOutput()
		if ee, ok := err.(*exec.ExitError); ok && ee.ExitCode() > 1 {
			t.Fatalf("%s: e2fsck -fp: %v\n%s", what, err, out)
		}
		fs := openFS(t, other, Options{ReadOnly: true, NoWrite: true})
		theirs = engineTree(t, fs)
		check(t, os.Remove(other))
	}
	fs, err := Open(openDevice(t, path), Options{})
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	if both {
		sameTrees(t, what+": our replay and e2fsck's", engineTree(t, fs), theirs)
	}
	if len(stable) > 0 {
		root := must(fs.Root())
		dir, err := root.Lookup("dir")
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, s := range stable {
			n, err := dir.Lookup(s.name)
			if err != nil {
				t.Fatalf("%s: stable file is lost: %v", what, err)
			}
			sameFile(t, n, s.data)
			check(t, n.Put())
		}
		check(t, dir.Put())
		check(t, root.Put())
	}
	if err := fs.Close(); err != nil {
		t.Fatalf("%s: close: %v", what, err)
	}
	cmd := exec.Command(oracle.Tool(t, "e2fsck"), "-fn", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: e2fsck -fn after replay: %v\n%.3000s", what, err, out)
	}
	check(t, os.Remove(path))
}

// A file of many extents is truncated and another removed in steps: a crash between two
// of them leaves the rest to the next mount, ours or e2fsck's.
func TestCrashTruncate(t *testing.T) {
	for _, f := range []string{"32bit", "default", "ext3", "orphan_file", "quota"} {
		t.Run(f, func(t *testing.T) {
			args := append([]string{"-t", "ext4"}, quotaForms[2]...)
			for _, g := range forms {
				if g.name == f {
					args = g.args
				}
			}
			image := makeImage(t, 40<<20, args...)
			fs := openFS(t, image, Options{})
			root := must(fs.Root())
			for _, name := range []string{"truncated", "removed"} {
				n := must(root.Create(name, NewInode{Mode: format.ModeRegular | 0o644}))
				for i := range 3000 {
					must(n.WriteAt([]byte{1}, int64(i)*int64(fs.bs)*2))
				}
				check(t, n.Put())
			}
			check(t, root.Put())
			closeFS(t, fs)
			base := must(os.ReadFile(image))
			d := &recorder{data: bytes.Clone(base)}
			fs, err := Open(d, Options{})
			check(t, err)
			fs.txn.limit = 24 // many small transactions
			if f == "ext3" {
				fs.txn.limit = 4
			}
			root = must(fs.Root())
			n := must(root.Lookup("truncated"))
			check(t, n.Truncate(5000))
			check(t, n.Put())
			check(t, root.Unlink("removed"))
			check(t, root.Put())
			check(t, fs.Close())
			r := rand.New(rand.NewPCG(1, uint64(len(f))))
			partly := 0
			for i := range 25 {
				cut := len(d.log) * (i + 1) / 26
				data, _ := replayTo(base, d.log[:cut], r, i%2 == 0)
				m := &recorder{data: bytes.Clone(data)}
				if fs, err := Open(m, Options{Logf: func(f string, a ...any) {
					if len(a) == 1 && a[0] == 1 {
						partly++
					}
				}}); err != nil {
					t.Fatal(err)
				} else {
					check(t, fs.Close())
				}
				crashCheck(t, data, nil, fmt.Sprintf("cut %d of %d", cut, len(d.log)), i%5 == 0)
			}
			if partly < 5 {
				t.Errorf("only %d cuts left an orphan: the test proves little", partly)
			}
		})
	}
}
