package ext4

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

// A disk that holds something else is refused by that name.
func TestWhatElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	fresh := func(size int64) *fileDevice {
		check(t, os.WriteFile(path, nil, 0o644))
		check(t, os.Truncate(path, size))
		return openDevice(t, path)
	}
	found := func(dev Device, want string) {
		t.Helper()
		_, err := Open(dev, Options{})
		var e *NotExtError
		if !errors.As(err, &e) || e.Found != want {
			t.Errorf("%v: should name %q", err, want)
		}
		wantErr(t, err, unix.EINVAL)
	}
	for _, m := range magics {
		dev := fresh(512 << 10)
		must(dev.WriteAt([]byte(m.magic), int64(m.off)))
		found(dev, m.name)
		check(t, os.Truncate(path, int64(m.off+len(m.magic)))) // to the end, and not beyond
		if size := int64(m.off + len(m.magic)); size >= 2048 {
			found(&fileDevice{dev.File, size}, m.name)
			found(&fileDevice{dev.File, 2048}, map[bool]string{true: m.name, false: "an empty disk"}[size <= 2048])
		}
		check(t, dev.Close())
	}
	dev := fresh(512 << 10)
	must(dev.WriteAt([]byte{0x0C, 0xB1, 0xBA, 0, 0, 0, 0, 0}, 0x20000+0x400*7))
	found(dev, "zfs")
	found(fresh(1<<20), "an empty disk")
	dev = fresh(1 << 20)
	must(dev.WriteAt([]byte{1}, 0))
	found(dev, "")

	// And what the tools make. blkid gives the same name.
	for _, c := range []struct {
		name string
		size int64
		argv []string
	}{
		{"xfs", 512 << 20, []string{"mkfs.xfs", "-q", path}},
		{"swap", 1 << 20, []string{"mkswap", path}},
	} {
		dev := fresh(c.size)
		tool(t, c.argv[0], c.argv[1:]...)
		found(dev, c.name)
		out, err := exec.Command(oracle.Tool(t, "blkid"), "-p", "-o", "value", "-s", "TYPE", path).Output()
		if err != nil || string(out) != c.name+"\n" {
			t.Errorf("blkid says %q, %v", out, err)
		}
	}
}
