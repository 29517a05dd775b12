package hostdir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs/tree"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, s *Source) (*tree.Tree, error) {
	t.Helper()
	t.Cleanup(func() { s.Close() })
	tr := tree.New()
	return tr, s.Fill(context.Background(), tr, nil)
}

func TestChangedWhileRead(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"written":  func(p string) error { return os.WriteFile(p, []byte("other text"), 0o644) },
		"cut":      func(p string) error { return os.Truncate(p, 1) },
		"touched":  func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(5, 5)) },
		"replaced": func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
		"a fifo":   func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
		"removed":  os.Remove,
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		must(t, os.WriteFile(path, []byte("text"), 0o644))
		tr, err := fill(t, &Source{Path: dir})
		must(t, err)
		must(t, change(path))
		if data, err := tr.Root.Child("file").Read(); err == nil {
			t.Errorf("%s before it is opened: reads %q", name, data)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the error names no file: %v", name, err)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	must(t, os.WriteFile(path, []byte("text"), 0o644))
	tr, err := fill(t, &Source{Path: dir})
	must(t, err)
	r, err := tr.Root.Child("file").Content.Open()
	must(t, err)
	must(t, os.WriteFile(path, []byte("TEXT, more"), 0o644))
	if err := r.Close(); !errors.Is(err, errChanged) {
		t.Errorf("written while it is open: %v", err)
	}
}

func TestManyDirectories(t *testing.T) {
	dir := t.TempDir()
	want := 0
	for i := range 40 {
		for j := range 10 {
			d := filepath.Join(dir, fmt.Sprint(i), fmt.Sprint(j), "x")
			must(t, os.MkdirAll(d, 0o755))
			must(t, os.WriteFile(filepath.Join(d, "f"), []byte("f"), 0o644))
			want += 3
		}
		want++
	}
	must(t, os.Link(filepath.Join(dir, "0/0/x/f"), filepath.Join(dir, "39/9/x/g")))
	want++
	for range 5 {
		tr, err := fill(t, &Source{Path: dir})
		must(t, err)
		got := 0
		must(t, tr.Walk(func(path string, _ *tree.Node, name string, n *tree.Node, _ bool) error {
			got++
			if n.IsRegular() {
				names := uint32(1)
				if path == "/0/0/x/f" || name == "g" {
					names = 2
				}
				if data, err := n.Read(); err != nil || string(data) != "f" || n.Names() != names {
					t.Errorf("%s: %q, %v, %d names", path, data, err, n.Names())
				}
			}
			return nil
		}))
		if got != want {
			t.Errorf("%d entries, want %d", got, want)
		}
	}
}

// A path may be longer than the kernel takes in one call.
func TestLongPaths(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	name := strings.Repeat("n", 250)
	for range 40 {
		must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	_, err = unix.Write(f, []byte("deep"))
	must(t, err)
	must(t, unix.Symlinkat("target", fd, "link"))
	unix.Close(f)
	unix.Close(fd)
	tr, err := fill(t, &Source{Path: dir})
	must(t, err)
	found := 0
	must(t, tr.Walk(func(path string, _ *tree.Node, name string, n *tree.Node, _ bool) error {
		switch name {
		case "file":
			data, err := n.Read()
			if err != nil || string(data) != "deep" || len(path) < 10000 {
				t.Errorf("%q, %v, at %d bytes", data, err, len(path))
			}
			found++
		case "link":
			found++
		}
		return nil
	}))
	if found != 2 {
		t.Errorf("%d of 2 were found", found)
	}
}

func TestMissing(t *testing.T) {
	dir := t.TempDir()
	if _, err := fill(t, &Source{Path: filepath.Join(dir, "nothing")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}

func TestSkip(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "image"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "other"), []byte("x"), 0o644))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "image"), &st))
	tr, err := fill(t, &Source{Path: dir, Skip: func(dev, ino uint64) bool { return dev == st.Dev && ino == st.Ino }})
	must(t, err)
	if tr.Root.Child("image") != nil || tr.Root.Child("other") == nil {
		t.Error("the wrong file is left out")
	}
}

// What the kernel mounts for itself is no data; other mounts are, unless they are not
// wanted.
func TestMounts(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	for _, name := range []string{"proc", "data"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "proc", "below"), nil, 0o644))
	for kind, at := range map[string]string{"proc": "proc", "tmpfs": "data"} {
		path := filepath.Join(dir, at)
		oracle.Run(t, "mount", "-t", kind, kind, path)
		t.Cleanup(func() { oracle.Unmount(t, path) })
	}
	must(t, os.WriteFile(filepath.Join(dir, "data", "file"), []byte("x"), 0o644))
	for _, one := range []bool{false, true} {
		tr, err := fill(t, &Source{Path: dir, OneFileSystem: one})
		must(t, err)
		if n := tr.Root.Child("proc"); n == nil || n.Len() != 0 {
			t.Errorf("one file system %v: proc arrives as %v", one, n)
		}
		if n := tr.Root.Child("data"); n == nil || (n.Len() == 0) != one {
			t.Errorf("one file system %v: data arrives as %v", one, n)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := &Source{Path: t.TempDir()}
	defer s.Close()
	// The directory may be read before anyone looks; then there is no error.
	if err := s.Fill(ctx, tree.New(), nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Reading leaves access times alone.
func TestAccessTimes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	must(t, os.WriteFile(path, []byte("text"), 0o644))
	old := time.Unix(1000000000, 7)
	for _, p := range []string{path, dir} {
		must(t, os.Chtimes(p, old, time.Unix(1000000001, 0)))
	}
	tr, err := fill(t, &Source{Path: dir})
	must(t, err)
	_, err = tr.Root.Child("file").Read()
	must(t, err)
	for _, p := range []string{path, dir} {
		var st unix.Stat_t
		must(t, unix.Stat(p, &st))
		if st.Atim.Sec != 1000000000 {
			t.Errorf("%s was accessed at %d", p, st.Atim.Sec)
		}
	}
	if !tr.Root.Child("file").Atime.Equal(old) {
		t.Errorf("the tree says %v", tr.Root.Child("file").Atime)
	}
}
