package ext4fs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// content reads a file of an image with debugfs.
func content(t *testing.T, image, path string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "content")
	oracle.Run(t, "debugfs", "-R", "dump "+path+" "+out, image)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatalf("debugfs has no %s: %v", path, err)
	}
	return b
}

func wantContent(t *testing.T, image, path string, want []byte) {
	t.Helper()
	if got := content(t, image, path); !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes, not the %d it should have, or others", path, len(got), len(want))
	}
}

// TestPowerOffWithFilesInUse ends a machine whose processes have files open, mapped,
// changed and removed. The image is clean and has all of it.
func TestPowerOffWithFilesInUse(t *testing.T) {
	image := newImage(t, "100M")
	ours(t, t.TempDir()).run(t, time.Minute, image, nil, "leave", "/t")
	oracle.Fsck(t, image)
	wantContent(t, image, "/t/stored", bytes.Repeat([]byte("stored"), 65536/6+1)[:65536])
	wantContent(t, image, "/t/written", bytes.Repeat([]byte("written"), 10000))
}

// TestKill kills a machine. What was synced is there; and so is, after some seconds,
// what was not.
func TestKill(t *testing.T) {
	for _, wait := range []bool{false, true} {
		name := "at once"
		if wait {
			name = "after the writeback"
		}
		t.Run(name, func(t *testing.T) {
			image := newImage(t, "100M")
			seconds := "0"
			if wait {
				seconds = "12"
			}
			argv := append(ours(t, t.TempDir()).argv, "con=null", "con0=null,fd:1", "quiet", "ubd0="+image, "root=/dev/ubda", "rw", "init=/fscheck", "--", "lose", "/t", seconds)
			m := guest.StartCmd(t, exec.Command(argv[0], argv[1:]...))
			m.Expect(time.Minute, "synced")
			if wait {
				m.Expect(time.Minute, "waited")
			}
			m.Signal(syscall.SIGKILL)
			m.Wait(time.Minute)
			// Exit status 1 says that something was repaired, the journal's replay
			// included.
			out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fy", image).CombinedOutput()
			if err != nil && err.(*exec.ExitError).ExitCode() > 1 {
				t.Fatalf("e2fsck: %v\n%s", err, out)
			}
			want := bytes.Repeat([]byte("synced"), 10000)
			for _, path := range []string{"/t/synced", "/t/dir/synced", "/t/mapped"} {
				wantContent(t, image, path, want)
			}
			if wait {
				wantContent(t, image, "/t/stored", bytes.Repeat([]byte("stored"), 65536/6+1)[:65536])
			}
		})
	}
}

// TestRemountReadOnly kills a machine whose root was remounted read-only: the image is
// clean as it lies, no journal waits to be replayed.
func TestRemountReadOnly(t *testing.T) {
	var told []string
	var image string
	for _, kernel := range []machine{realKernel(t, t.TempDir()), ours(t, t.TempDir())} {
		image = newImage(t, "100M")
		argv := append(kernel.argv, "con=null", "con0=null,fd:1", "quiet", "ubd0="+image, "root=/dev/ubda", "rw", "init=/fscheck", "--", "readonly", "/t")
		m := guest.StartCmd(t, exec.Command(argv[0], argv[1:]...))
		out := m.Expect(time.Minute, "read-only")
		out = strings.ReplaceAll(out[strings.Index(out, "written to:"):], "\r", "")
		told = append(told, strings.ReplaceAll(out, "ext4: Unknown parameter 'nonsense'\n", ""))
		m.Signal(syscall.SIGKILL)
		m.Wait(time.Minute)
	}
	sameLines(t, told[1], told[0], "linux", "real kernel")
	oracle.Fsck(t, image)
	if out := oracle.Run(t, "dumpe2fs", "-h", image); strings.Contains(out, "needs_recovery") || !strings.Contains(out, "Filesystem state:         clean") {
		t.Errorf("the image is not clean:\n%s", out)
	}
	wantContent(t, image, "/t/file", []byte("written"))
	wantContent(t, image, "/t/stored", bytes.Repeat([]byte("stored"), 65536/6+1)[:65536])
}

// TestFreezeAsOnARealKernel freezes a second disk: changes wait, and the disk as it lies
// then is clean.
func TestFreezeAsOnARealKernel(t *testing.T) {
	run := func(m machine) string {
		second := filepath.Join(t.TempDir(), "b.img")
		oracle.Run(t, "mke2fs", "-q", "-t", "ext4", second, "50M")
		out := m.run(t, 2*time.Minute, newImage(t, "100M"), []string{"ubd1=" + second}, "freeze", "/dev/ubdb", "/mnt")
		oracle.Fsck(t, second)
		return out
	}
	sameLines(t, run(ours(t, t.TempDir())), run(realKernel(t, t.TempDir())), "linux", "real kernel")

	second := filepath.Join(t.TempDir(), "b.img")
	oracle.Run(t, "mke2fs", "-q", "-t", "ext4", second, "50M")
	argv := append(ours(t, t.TempDir()).argv, "con=null", "con0=null,fd:1", "quiet", "ubd0="+newImage(t, "100M"), "ubd1="+second, "root=/dev/ubda", "rw", "init=/fscheck", "--", "frozen", "/dev/ubdb", "/mnt")
	m := guest.StartCmd(t, exec.Command(argv[0], argv[1:]...))
	m.Expect(time.Minute, "frozen")
	oracle.Run(t, "cp", "--sparse=always", second, second+".copy") // while the machine lives
	m.Signal(syscall.SIGKILL)
	m.Wait(time.Minute)
	oracle.Fsck(t, second+".copy")
	if out := oracle.Run(t, "dumpe2fs", "-h", second+".copy"); strings.Contains(out, "needs_recovery") || !strings.Contains(out, "Filesystem state:         clean") {
		t.Errorf("the image is not clean:\n%s", out)
	}
	wantContent(t, second+".copy", "/stored", bytes.Repeat([]byte("stored"), 65536/6+1)[:65536])
}
