package mkfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

// file is a Device over a host file.
type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }

// newFile makes a sparse file.
func newFile(t testing.TB, size int64) (file, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return file{f, size}, path
}

// fixed are options that make the same bytes every time.
func fixed() Options {
	return Options{
		UUID: [16]byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4d, 0xef, 0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef},
		Time: time.Unix(1700000000, 123456789),
	}
}

func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// header returns dumpe2fs's lines by their names.
func header(t testing.TB, path string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	for _, line := range strings.Split(oracle.Run(t, "dumpe2fs", "-h", path), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			lines[name] = strings.TrimSpace(value)
		}
	}
	return lines
}

var sizes = []int64{
	1 << 20, 2<<20 + 5000, 4 << 20, 7 << 20, 8 << 20, 9 << 20, 9<<20 + 512, 10<<20 + 4095, 12345678, 33 << 20, 64 << 20, 100 << 20, 127 << 20, 128 << 20, 129 << 20,
	130<<20 + 4096*7, 256 << 20, 511 << 20, 512 << 20, 1 << 30, 2<<30 + 3<<20, 16 << 30, 129 << 30, 1 << 40,
}

// TestFormatAgreesWithMke2fs makes empty filesystems as mke2fs makes them.
func TestFormatAgreesWithMke2fs(t *testing.T) {
	for _, blockSize := range []int{1024, 2048, 4096} {
		for _, size := range sizes {
			if blockSize == 1024 && size > 100<<30 {
				continue // mke2fs writes gigabytes of descriptors there
			}
			t.Run(fmt.Sprintf("%d/%d", blockSize, size), func(t *testing.T) {
				dev, path := newFile(t, size)
				o := fixed()
				o.BlockSize = blockSize
				if err := Format(dev, o); err != nil {
					t.Fatal(err)
				}
				oracle.Fsck(t, path)
				ours := header(t, path)

				peer := filepath.Join(t.TempDir(), "peer.img")
				if err := os.WriteFile(peer, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(peer, size); err != nil {
					t.Fatal(err)
				}
				oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(blockSize), "-E", "lazy_journal_init=1", peer)
				theirs := header(t, peer)
				for name, want := range theirs {
					switch name {
					case "Filesystem volume name", "Filesystem UUID", "Filesystem created", "Last write time", "Last checked",
						"Lifetime writes", "Directory Hash Seed", "Checksum":
						continue
					case "Free blocks":
						// lost+found differs with 1 KiB blocks, and a long journal's map may.
						continue
					}
					if name == "Reserved block count" && ours["Blocks per group"] != fmt.Sprint(8*blockSize) {
						continue // mke2fs 1.47.0 shrinks it each time it tries smaller groups
					}
					if ours[name] != want {
						t.Errorf("%s: %q, mke2fs has %q", name, ours[name], want)
					}
				}
				for name := range ours {
					if _, ok := theirs[name]; !ok {
						t.Errorf("%s: %q, mke2fs has none", name, ours[name])
					}
				}
			})
		}
	}
}
