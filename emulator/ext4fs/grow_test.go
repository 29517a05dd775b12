package ext4fs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// longer makes an image's file, not its filesystem, longer.
func longer(t testing.TB, image string, size int64) string {
	t.Helper()
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	return image
}

// header is what dumpe2fs says of an image, by name.
func header(t testing.TB, image string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	for _, line := range strings.Split(oracle.Run(t, "dumpe2fs", "-h", image), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			lines[name] = strings.TrimSpace(value)
		}
	}
	return lines
}

// TestGrowAsOnARealKernel grows the root filesystem of a running guest, in steps and with
// what must be refused, and compares every answer and the image with a real kernel's.
func TestGrowAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		args  []string
		sizes []string
	}{
		"4 KiB":            {[]string{"-b", "4096"}, []string{"20000", "25601", "25600", "50000", "131072", "132000", "200000", "262144", "300000"}},
		"1 KiB no room":    {[]string{"-b", "1024", "-O", "^resize_inode"}, []string{"110000", "300000", "1048576"}},
		"no checksums":     {[]string{"-b", "4096", "-O", "^metadata_csum,^64bit,^flex_bg"}, []string{"33000", "100000", "262144"}},
		"without journal":  {[]string{"-b", "1024", "-O", "^has_journal"}, []string{"110000", "1048576"}},
		"sparse_super2":    {[]string{"-b", "4096", "-O", "sparse_super2,^resize_inode"}, []string{"30000"}},
		"reserve of 2 GiB": {[]string{"-b", "1024", "-E", "resize=200000"}, []string{"200000", "700000"}},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := longer(t, newImage(t, "100M", c.args...), 1<<30)
			sizes := strings.Join(c.sizes, ",")
			want := realKernel(t, dir).run(t, 3*time.Minute, theirs, nil, "grow", "/t", sizes)
			image := longer(t, newImage(t, "100M", c.args...), 1<<30)
			sameLines(t, ours(t, dir).run(t, 3*time.Minute, image, nil, "grow", "/t", sizes), want, "linux", "real kernel")
			oracle.Fsck(t, image)
			// A real kernel is off without an unmount. It rounds the share of reserved
			// blocks down at every step; ours stays what it was, as resize2fs has it.
			oracle.Run(t, "sh", "-c", "e2fsck -fp "+theirs+" || test $? = 1")
			got, peer := header(t, image), header(t, theirs)
			for _, field := range []string{"Filesystem features", "Block count", "Inode count", "Free blocks", "Reserved GDT blocks", "First meta block group"} {
				if got[field] != peer[field] {
					t.Errorf("%s: %q, a real kernel has %q", field, got[field], peer[field])
				}
			}
			// What a real kernel made larger is used: more than it had room for before.
			mib := "150"
			if name == "sparse_super2" { // does not grow
				mib = "50"
			}
			ours(t, dir).run(t, time.Minute, theirs, nil, "stress", "/t/s", "7", "100", "2", "then", "fill", "/t/big", mib)
			oracle.Fsck(t, theirs)
		})
	}
}

// TestGrowBusy grows while files change, and kills the machine after it.
func TestGrowBusy(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"-b", "1024"}, {"-b", "4096", "-O", "^metadata_csum,^64bit"}} {
		image := longer(t, newImage(t, "60M", args...), 1<<30)
		bs := map[string]int{"1024": 1, "4096": 4}[args[1]]
		sizes := map[int][]string{1: {"100000", "300000", "700000", "1048576"}, 4: {"30000", "100000", "262144"}}[bs]
		out := ours(t, dir).run(t, 3*time.Minute, image, nil, "growbusy", "/t/d", strings.Join(sizes, ","))
		if strings.Count(out, ": ok") != len(sizes) || !strings.Contains(out, "true") {
			t.Errorf("%v: %s", args, out)
		}
		oracle.Fsck(t, image)
		if got, want := header(t, image)["Block count"], sizes[len(sizes)-1]; got != want {
			t.Errorf("%v: %s blocks, want %s", args, got, want)
		}
	}
}

// TestResize2fsInTheGuest runs resize2fs on the mounted root disk.
func TestResize2fsInTheGuest(t *testing.T) {
	tree := t.TempDir()
	for _, d := range []string{"dev", "proc", "sys", "tmp", "bin"} {
		if err := os.Mkdir(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put := func(from, to string) {
		to = filepath.Join(tree, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		oracle.Run(t, "cp", "-L", from, to)
	}
	put(oracle.Tool(t, "busybox"), "bin/busybox")
	resize2fs := oracle.Tool(t, "resize2fs")
	put(resize2fs, "bin/resize2fs")
	for _, word := range strings.Fields(oracle.Run(t, "ldd", resize2fs)) {
		if strings.HasPrefix(word, "/") {
			put(word, word)
		}
	}
	script := "#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n/bin/resize2fs /dev/ubda && echo grown\n/bin/busybox df -k /\n/bin/busybox poweroff -f\n"
	if err := os.WriteFile(filepath.Join(tree, "init"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "disk.img")
	oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, image, "100M")
	longer(t, image, 2<<30)
	m := ours(t, t.TempDir())
	out, _ := guest.Output(t, 2*time.Minute, append(m.argv, "con=null", "con0=null,fd:1", "ubd0="+image, "root=/dev/ubda", "rw", "init=/init")...)
	if !strings.Contains(out, "grown") || !strings.Contains(out, "is now 524288 (4k) blocks long") {
		t.Errorf("resize2fs says\n%s", out)
	}
	oracle.Fsck(t, image)
	if got := header(t, image)["Block count"]; got != "524288" {
		t.Errorf("%s blocks, want 524288", got)
	}
}
