package qcow2

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// FuzzOpen opens whatever bytes as an image and reads what it shows, up to a few MiB.
// Nothing may panic, hang or take memory out of proportion.
func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	raw := filepath.Join(dir, "raw")
	small := bytes.Repeat([]byte("abcdefgh"), 1024)
	if err := os.WriteFile(raw, append(small, make([]byte, 56<<10)...), 0o644); err != nil {
		f.Fatal(err)
	}
	for _, form := range []string{
		"cluster_size=512", "compat=0.10,cluster_size=512", "extended_l2=on,cluster_size=16k",
		"-c cluster_size=4k", "-c compression_type=zstd,cluster_size=4k", "-b cluster_size=512",
	} {
		image := filepath.Join(dir, "image")
		os.Remove(image)
		options := strings.TrimPrefix(strings.TrimPrefix(form, "-c "), "-b ")
		args := []string{"convert", "-f", "raw", "-O", "qcow2", "-o", options, raw, image}
		switch form[:2] {
		case "-c":
			args = append([]string{"convert", "-c"}, args[1:]...)
		case "-b":
			args = []string{"create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "base", "-o", options, image, "64k"}
		}
		oracle.Run(f, "qemu-img", args...)
		f.Add(read(f, image))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "base"), []byte("of the backing file"), 0o644); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "image")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		// No name of the header may lead out of the test's directory.
		if h, err := DecodeHeader(b); err == nil && h.Backing != "" && h.Backing != "base" {
			return
		}
		im, err := Open(path, ubdfmt.Options{})
		if err != nil {
			return
		}
		defer im.Close()
		const most = 4 << 20
		want := make([]byte, min(im.Size(), most))
		n, err := im.ReadAt(want, 0)
		if err != nil && err != io.EOF && n == len(want) {
			t.Errorf("all is read, and %v", err)
		}
		// In parts it is the same.
		for off := 0; off < n; off += 1000 {
			p := make([]byte, min(1000, n-off))
			if _, err := im.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
				t.Errorf("at %d: %v", off, err)
				break
			}
		}
		at, steps := int64(0), 0
		err = im.Extents(0, im.Size(), func(e ubdfmt.Extent) bool {
			if e.Offset != at || e.Length <= 0 {
				t.Errorf("extent at %d of %d bytes, want one at %d", e.Offset, e.Length, at)
			}
			at += e.Length
			steps++
			return steps < 10000
		})
		if err == nil && steps < 10000 && at != im.Size() {
			t.Errorf("the extents end at %d of %d", at, im.Size())
		}
	})
}
