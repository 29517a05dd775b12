package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// inLog says which of the device's bytes are the journal's.
func inLog(fs *FS) func(off int64) bool {
	return func(off int64) bool {
		return slices.ContainsFunc(fs.jnl.blocks, func(r run) bool {
			return off >= int64(r.start)<<fs.bsBits && off < int64(r.end())<<fs.bsBits
		})
	}
}

// A log that was left unfinished, with nothing of it home, is replayed by the engine, by
// e2fsck and by the host's kernel: byte for byte the same, but for what the superblocks
// count. Blocks that start with the journal's magic number are among it.
func TestReplaysAgree(t *testing.T) {
	const magic = "\xC0\x3B\x39\x98"
	for _, f := range []struct {
		name string
		args []string
		v2   bool
	}{
		{"4k", formArgs("4k"), false},
		{"32bit", formArgs("32bit"), false},
		{"nocsum", formArgs("nocsum"), false},
		{"ext3", formArgs("ext3"), false},
		{"v2", formArgs("4k"), true},
		{"v2 32bit", formArgs("32bit"), true},
	} {
		t.Run(f.name, func(t *testing.T) {
			path := makeImage(t, 16<<20, f.args...)
			if f.v2 {
				fs := openFS(t, path, Options{ReadOnly: true})
				fs.jnl.super.FeatureIncompat |= format.JournalIncompatCsumV2
				fs.jnl.super.ChecksumType = format.JournalChecksumCRC32C
				check(t, fs.jnl.writeSuper())
			}
			image := must(os.ReadFile(path))
			c := newCrashRun(t, image, DataOrdered, 3, 40)
			c.named = true // e2fsck and the kernel free orphans at once
			root := must(c.fs.Root())
			defer root.unref()
			check(t, must(root.Create("escaped", NewInode{Mode: format.ModeSymlink | 0o777, Target: magic + strings.Repeat("t", 100)})).Put())
			c.change(func(s cstate) {
				s[99] = &cnode{typ: format.ModeSymlink, perm: 0o777, target: magic + strings.Repeat("t", 100)}
				s.edit(croot, func(n *cnode) { n.children["escaped"] = 99 })
			})
			c.next = 100
			for range 250 {
				c.step()
			}
			check(t, c.fs.Sync())
			if got := c.fs.jnl.super.FeatureIncompat&format.JournalIncompatCsumV2 != 0; got != f.v2 {
				t.Fatalf("journal features %#x", c.fs.jnl.super.FeatureIncompat)
			}
			log := inLog(c.fs)
			r := rand.New(rand.NewPCG(9, 9))
			compared := 0
			for i := range 4 {
				crashed := slices.Clone(image)
				cut := len(c.d.log)
				if i > 0 {
					cut = cut/2 + r.IntN(cut/2)
				}
				for _, e := range c.d.log[:cut] {
					if e.off >= 0 && (log(e.off) || e.off == format.SuperblockOffset && len(e.data) == format.SuperblockSize) {
						copy(crashed[e.off:], e.data)
					}
				}
				if replaysAgree(t, crashed, log, fmt.Sprintf("cut at %d of %d", cut, len(c.d.log))) {
					compared++
				}
			}
			if compared < 2 {
				t.Errorf("only %d were without orphans", compared)
			}
		})
	}
}

func replaysAgree(t *testing.T, crashed []byte, log func(int64) bool, what string) (compared bool) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		writeSparse(t, path, crashed)
		return path
	}
	ours := file("ours")
	fs := openFS(t, ours, Options{ReadOnly: true, Logf: func(string, ...any) {}})
	orphans := fs.sb.LastOrphan
	check(t, fs.Close())
	want := must(os.ReadFile(ours))
	if bytes.Equal(want, crashed) {
		t.Fatalf("%s: nothing was replayed", what)
	}

	if orphans != 0 {
		return false
	}
	theirs := file("e2fsck")
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-y", "-E", "journal_only", theirs).CombinedOutput()
	if ee, ok := err.(*exec.ExitError); err != nil && (!ok || ee.ExitCode() > 1) {
		t.Fatalf("%s: e2fsck: %v\n%s", what, err, out)
	}
	sameImages(t, what+": e2fsck", must(os.ReadFile(theirs)), want, log)
	mounted := file("kernel")
	_, umount := mount(t, mounted, "noinit_itable") // read-only the loop device would be as well
	umount()
	sameImages(t, what+": kernel", must(os.ReadFile(mounted)), want, log)
	return true
}

// sameImages compares all but the journal, and of the superblock what counts.
func sameImages(t *testing.T, what string, got, want []byte, log func(int64) bool) {
	t.Helper()
	type facts struct {
		free            uint64
		inodes, orphan  uint32
		state           uint16
		incompat        format.IncompatFeatures
		compat          format.CompatFeatures
		ro              format.RoCompatFeatures
		label, journals [16]byte
	}
	read := func(b []byte) facts {
		var s format.Superblock
		check(t, s.Decode(b[format.SuperblockOffset:]))
		return facts{s.FreeBlocksCount(), s.FreeInodesCount, s.LastOrphan, s.State, s.FeatureIncompat, s.FeatureCompat, s.FeatureRoCompat, s.VolumeName, s.JournalUUID}
	}
	if g, w := read(got), read(want); g != w {
		t.Errorf("%s: superblock has %+v, ours %+v", what, g, w)
	}
	for off := 0; off < len(want); off += 512 {
		if off >= format.SuperblockOffset && off < format.SuperblockOffset+format.SuperblockSize || log(int64(off)) {
			continue
		}
		if !bytes.Equal(got[off:off+512], want[off:off+512]) {
			t.Errorf("%s: differs from ours at byte %d", what, off)
			return
		}
	}
}
