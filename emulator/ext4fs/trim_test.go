package ext4fs_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// allocated is how many bytes a host file takes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// TestRemovedFilesGiveTheirSpaceBack writes 64 MiB, removes them and looks at the
// host file after FITRIM, and with the option discard also without.
func TestRemovedFilesGiveTheirSpaceBack(t *testing.T) {
	for _, c := range []struct {
		name    string
		cow     bool
		options []string
		command []string
	}{
		{"trim", false, nil, []string{"discard", "/t/d", "64"}},
		{"trim of a COW file", true, nil, []string{"discard", "/t/d", "64"}},
		{"discard", false, []string{"rootflags=discard"}, []string{"fill", "/t/big", "64", "then", "remove", "/t/big"}},
		{"discard by the superblock", false, nil, []string{"fill", "/t/big", "64", "then", "remove", "/t/big"}},
		{"discard of a COW file", true, []string{"rootflags=discard"}, []string{"fill", "/t/big", "64", "then", "remove", "/t/big"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := newImage(t, "200M")
			file, disk := image, image
			if c.cow {
				file = filepath.Join(t.TempDir(), "disk.cow")
				disk = file + "," + image
			}
			if strings.HasSuffix(c.name, "superblock") {
				oracle.Run(t, "tune2fs", "-o", "discard", image)
			}
			ours(t, t.TempDir()).run(t, time.Minute, disk, c.options, c.command...)
			if n := allocated(t, file); n > 32<<20 {
				t.Errorf("the host file takes %d MiB after 64 MiB were removed", n>>20)
			}
			if !c.cow {
				oracle.Fsck(t, image)
			}
		})
	}
}

// TestManyFiles goes through more names than are kept in memory.
func TestManyFiles(t *testing.T) {
	image := newImage(t, "200M", "-b", "4096", "-N", "60000")
	ours(t, t.TempDir()).run(t, 3*time.Minute, image, nil, "many", "/t/d", "30000")
	oracle.Fsck(t, image)
}

// TestCrowd fills one directory, and gives one file as many names as it can have.
func TestCrowd(t *testing.T) {
	n, image := 10000, newImage(t, "200M", "-b", "4096", "-N", "120000")
	want := "crowd: 10000 10000 10000 \"\"\nlinks: 10000 ok 10000\n"
	if nightly {
		n = 100000
		want = "crowd: 100000 100000 100000 \"\"\nlinks: 65000 EMLINK 65000\nafter one is gone: ok ok EMLINK\n"
	}
	if got := ours(t, t.TempDir()).run(t, 10*time.Minute, image, nil, "crowd", "/t/d", strconv.Itoa(n)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	oracle.Fsck(t, image)
}
