package emulator_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// limit is how long a boot may take on a machine that does much else.
const limit = 60 * time.Second

var program struct {
	sync.Once
	bytes []byte
	err   error
}

// guestProgram builds testdata/guest, a static program, once.
func guestProgram(t testing.TB) []byte {
	t.Helper()
	program.Do(func() {
		dir, err := os.MkdirTemp("", "guest")
		if err != nil {
			program.err = err
			return
		}
		defer os.RemoveAll(dir)
		name := filepath.Join(dir, "guest")
		cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", name, "./emulator/testdata/guest")
		cmd.Dir = oracle.Root(t)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			program.err = fmt.Errorf("%w\n%s", err, out)
			return
		}
		program.bytes, program.err = os.ReadFile(name)
	})
	if program.err != nil {
		t.Fatalf("build the guest: %v", program.err)
	}
	return program.bytes
}

// file is a file of an archive.
type file struct {
	name string
	mode uint32
	data []byte
}

// cpio is an archive in the "newc" form.
func cpio(files ...file) []byte {
	var b bytes.Buffer
	for i, f := range append(files, file{name: "TRAILER!!!"}) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			i+1, f.mode, 0, 0, 1, 0, len(f.data), 0, 0, 0, 0, len(f.name)+1, 0, f.name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(f.data)
		b.Write(make([]byte, -b.Len()&3))
	}
	return b.Bytes()
}

// initrd writes an archive with the guest as /init, an empty /dev and /proc, and files.
func initrd(t testing.TB, files ...file) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "initrd")
	all := []file{{"dev", 0o40755, nil}, {"proc", 0o40755, nil}, {"init", 0o100755, guestProgram(t)}}
	if err := os.WriteFile(name, cpio(append(all, files...)...), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// image makes a disk with an ext4 that holds the guest as /sbin/init, by Debian's
// mke2fs.
func image(t testing.TB, files ...file) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	all := []file{{"sbin/init", 0o755, guestProgram(t)}, {"dev/.keep", 0o644, nil}, {"proc/.keep", 0o644, nil}, {"mnt/.keep", 0o644, nil}}
	for _, f := range append(all, files...) {
		name := filepath.Join(root, f.name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.data, os.FileMode(f.mode&0o777)); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "disk.img")
	oracle.Run(t, "mke2fs", "-q", "-t", "ext4", "-d", root, name, "32M")
	return name
}

// clean fails the test unless e2fsck finds nothing to say about a disk.
func clean(t testing.TB, name string) {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fn", name).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}

// disk makes a file of zeros.
func disk(t testing.TB, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return name
}

// boot runs a machine to its end and returns what it printed, without carriage
// returns, and its exit status.
func boot(t testing.TB, words ...string) (string, int) {
	t.Helper()
	out, status := guest.Output(t, limit, append([]string{guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + t.TempDir()}, words...)...)
	return strings.ReplaceAll(out, "\r\n", "\n"), status
}

// want fails the test unless out holds each text.
func want(t testing.TB, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("not in the output: %q", text)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s", out)
	}
}
