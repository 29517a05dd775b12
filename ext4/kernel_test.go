package ext4

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

// An image copied while the host's kernel has it mounted needs its journal replayed.
// Our replay, in place and in memory, and e2fsck's give the same tree, and e2fsck finds
// nothing to repair after ours.
func TestKernelJournal(t *testing.T) {
	for _, f := range []string{
		"default", "4k", "nocsum", "32bit", "ext3", "orphan_file", "csum_seed", "mkfs",
		"nocsum,journal_checksum", "nocsum,journal_async_commit,data=writeback", // checksums version 1; one block commits
	} {
		t.Run(f, func(t *testing.T) {
			f, options, _ := strings.Cut(f, ",")
			image := ""
			if f == "mkfs" {
				image = mkfsImage(t, 96<<20, []string{"orphan_file"}, nil)
			} else {
				image = makeImage(t, 96<<20, formArgs(f)...)
			}
			m, umount := mount(t, image, "commit=1,"+options)
			for i := range 800 {
				check(t, os.WriteFile(filepath.Join(m, fmt.Sprintf("first-%d", i)), bytes.Repeat([]byte{byte(i)}, 3000), 0o644))
			}
			// Directories removed and their blocks used again: revoke records.
			for i := range 30 {
				d := filepath.Join(m, fmt.Sprintf("dir-%d", i))
				check(t, os.MkdirAll(d, 0o755))
				for k := range 40 {
					check(t, os.WriteFile(filepath.Join(d, fmt.Sprintf("x-%d", k)), nil, 0o644))
				}
			}
			unix.Sync()
			check(t, exec.Command("rm", "-rf", filepath.Join(m, "dir-1"), filepath.Join(m, "dir-2"), filepath.Join(m, "dir-3")).Run())
			for i := range 200 {
				check(t, os.WriteFile(filepath.Join(m, fmt.Sprintf("second-%d", i)), bytes.Repeat([]byte{byte(i)}, 9000), 0o644))
			}
			open := must(os.Create(filepath.Join(m, "orphan")))
			must(open.Write(make([]byte, 200000)))
			check(t, os.Remove(filepath.Join(m, "orphan")))
			dir := must(os.Open(m))
			check(t, unix.Syncfs(int(dir.Fd())))
			check(t, dir.Close())
			crashed := filepath.Join(t.TempDir(), "crashed.img")
			tool(t, "cp", "--sparse=always", image, crashed)
			check(t, open.Close())
			umount()

			sb := make([]byte, format.SuperblockSize)
			must(must(os.Open(crashed)).ReadAt(sb, format.SuperblockOffset))
			var s format.Superblock
			check(t, s.Decode(sb))
			if s.FeatureIncompat&format.IncompatRecover == 0 {
				t.Fatal("the copy needs no recovery: the test proves nothing")
			}

			theirs := crashed + ".e2fsck"
			tool(t, "cp", "--sparse=always", crashed, theirs)
			out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fy", theirs).CombinedOutput()
			if ee, ok := err.(*exec.ExitError); ok && ee.ExitCode() > 1 {
				t.Fatalf("e2fsck: %v\n%s", err, out)
			}
			fs := openFS(t, theirs, Options{ReadOnly: true, NoWrite: true})
			want := engineTree(t, fs)
			if len(want) < 1000 {
				t.Fatalf("only %d entries", len(want))
			}

			before := must(os.ReadFile(crashed))
			fs = openFS(t, crashed, Options{ReadOnly: true, NoWrite: true})
			sameTrees(t, "replayed in memory", engineTree(t, fs), want)
			closeFS(t, fs)
			if !bytes.Equal(before, must(os.ReadFile(crashed))) {
				t.Fatal("NoWrite wrote")
			}

			fs = openFS(t, crashed, Options{})
			sameTrees(t, "replayed", engineTree(t, fs), want)
			closeFS(t, fs)
			fsck(t, crashed)
		})
	}
}

// A journal that we left unfinished is replayed by the host's kernel.
func TestKernelReplaysOurs(t *testing.T) {
	for _, f := range []string{"default", "4k", "nocsum", "32bit", "mkfs"} {
		t.Run(f, func(t *testing.T) {
			var args []string
			for _, g := range forms {
				if g.name == f {
					args = g.args
				}
			}
			image := ""
			if f == "mkfs" {
				image = mkfsImage(t, 64<<20, []string{"fast_commit", "orphan_file"}, nil)
			} else {
				image = makeImage(t, 64<<20, args...)
			}
			// Home writes are lost: only the log has the changes.
			d := &logOnly{fileDevice: openDevice(t, image)}
			fs, err := Open(d, Options{Logf: t.Logf})
			check(t, err)
			for _, r := range fs.jnl.blocks {
				d.log = append(d.log, [2]int64{int64(r.start) << fs.bsBits, int64(r.end()) << fs.bsBits})
			}
			d.on = true
			root := must(fs.Root())
			for i := range 300 {
				n := must(root.Create(fmt.Sprintf("f-%d", i), NewInode{Mode: format.ModeRegular | 0o644}))
				check(t, n.SetXattr("user.i", []byte(fmt.Sprint(i)), XattrFlags{}))
				check(t, n.Put())
				if i%100 == 50 {
					check(t, fs.Sync())
					check(t, root.Unlink(fmt.Sprintf("f-%d", i)))
				}
			}
			check(t, fs.Sync())
			want := engineTree(t, fs)
			m, umount := mount(t, image, "")
			got := hostTree(t, m)
			umount()
			sameTrees(t, "replayed by the kernel", got, want)
			fsck(t, image)
		})
	}
}

// logOnly drops what is written outside the journal and the superblock.
type logOnly struct {
	*fileDevice
	on  bool
	log [][2]int64
}

func (d *logOnly) WriteAt(p []byte, off int64) (int, error) {
	keep := !d.on || off == format.SuperblockOffset && len(p) == format.SuperblockSize
	for _, r := range d.log {
		keep = keep || off >= r[0] && off+int64(len(p)) <= r[1]
	}
	if !keep {
		return len(p), nil
	}
	return d.fileDevice.WriteAt(p, off)
}
