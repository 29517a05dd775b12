package ext4fs_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// hurt makes an image with the files that fscheck's damage uses, and damages each.
func hurt(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"inode", "sum", "attribute", "directory/file"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"extents", "mapped"} { // with holes, so that the map takes blocks
		f, err := os.Create(filepath.Join(tree, name))
		if err != nil {
			t.Fatal(err)
		}
		for i := range int64(20) {
			if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 4096), i*16384); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	argv := append([]string{"-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree}, args...)
	oracle.Run(t, "mke2fs", append(argv, image, "40M")...)
	value := filepath.Join(dir, "value")
	if err := os.WriteFile(value, bytes.Repeat([]byte("v"), 900), 0o644); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "debugfs", "-w", "-R", "ea_set -f "+value+" attribute user.large", image)
	number := func(pattern, command string) int64 {
		t.Helper()
		out := oracle.Run(t, "debugfs", "-R", command, image)
		m := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("debugfs %s: %s", command, out)
		}
		n, err := strconv.ParseInt(m[1], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put := func(off int64, s string) {
		if _, err := f.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	// The extra size of the inode; without checksums it is too large then.
	put(number(`located at block (\d+)`, "imap inode")*4096+number(`offset (0x[0-9a-f]+)`, "imap inode")+128, "\xFF\xFF")
	put(number(`located at block (\d+)`, "imap sum")*4096+number(`offset (0x[0-9a-f]+)`, "imap sum")+8, "\x01") // a time
	put(number(`\(ETB0\):(\d+)`, "stat extents")*4096, "\x00\x00")                                              // the magic number
	put(number(`File ACL: (\d+)`, "stat attribute")*4096, "\x00\x00")
	put(number(`\(0\):(\d+)`, "stat directory")*4096+4, "\xFF\xFF") // the length of an entry
	return image
}

// TestErrorsOfDamageAsOnARealKernel uses damaged files: programs get EUCLEAN, EBADMSG
// where a checksum tells, or EIO, as from a real kernel.
func TestErrorsOfDamageAsOnARealKernel(t *testing.T) {
	for name, args := range map[string][]string{
		"metadata_csum": {"-O", "metadata_csum"},
		"no checksums":  {"-O", "^metadata_csum"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run := func(m machine) string {
				out := m.run(t, time.Minute, newImage(t, "60M"), []string{"ubd1=" + hurt(t, args...)}, "damage", "/dev/ubdb", "/tmp/m")
				// Linux shows a directory with a damaged block as if nothing were in that,
				// and yet as not empty: we say what it is.
				return regexp.MustCompile(`(?m)^(rmdir directory|(list|lookup of nothing in|lookup in) directory): (ok|ENOENT|ENOTEMPTY|EFSCORRUPTED)$`).ReplaceAllString(out, "$1: damaged")
			}
			sameLines(t, run(ours(t, dir)), run(realKernel(t, dir)), "linux", "real kernel")
		})
	}
}

// TestMountErrorsOfDamageAsOnARealKernel mounts disks whose own structures are damaged.
func TestMountErrorsOfDamageAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	plain := []string{"-O", "^metadata_csum"}
	kinds := []struct {
		name string
		args []string
		off  int64
		put  string
	}{
		{"superblock checksum", nil, 1024 + 0x3FC, "\x01\x02\x03\x04"},
		{"superblock magic", nil, 1024 + 0x38, "\x00\x00"},
		{"block count", plain, 1024 + 0x04, "\x00\x00\xFF\x00"},
		{"inode size", plain, 1024 + 0x58, "\x11\x00"},
		{"block size", plain, 1024 + 0x18, "\x0F\x00\x00\x00"},
		{"inodes per group", plain, 1024 + 0x28, "\x00\x00\x00\x00"},
		{"descriptor checksum", nil, 4096 + 0x1E, "\x01\x02"},
		{"descriptor of a bitmap", plain, 4096, "\xFF\xFF\xFF\x00"},
	}
	run := func(m machine) string {
		var kernel, commands []string
		for i, k := range kinds {
			image := filepath.Join(t.TempDir(), "disk.img")
			oracle.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-t", "ext4", "-b", "4096"}, k.args...), image, "40M")...)
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte(k.put), k.off); err != nil {
				t.Fatal(err)
			}
			f.Close()
			kernel = append(kernel, fmt.Sprintf("ubd%d=%s", i+1, image))
			commands = append(commands, "then", "options", "/dev/ubd"+string(rune('b'+i)), "/tmp/m", "ext4", "errors=continue")
		}
		out := strings.Fields(strings.ReplaceAll(m.run(t, time.Minute, newImage(t, "60M"), kernel, commands[1:]...), "mount errors=continue: ", ""))
		for i, k := range kinds {
			if i < len(out) {
				out[i] = k.name + ": " + out[i]
			}
		}
		return strings.Join(out, "\n")
	}
	sameLines(t, run(ours(t, dir)), run(realKernel(t, dir)), "linux", "real kernel")
}
