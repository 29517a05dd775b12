package nameless

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// begin begins a file that holds text.
func begin(t *testing.T, path, text string) *File {
	t.Helper()
	f, err := Create(path, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

// A file appears whole, replaces what is there only when asked to, and leaves nothing else,
// also where files have a name from the start.
func TestCommit(t *testing.T) {
	defer func(had func() bool) { haveProc = had }(haveProc)
	for _, nameless := range []bool{true, false} {
		haveProc = func() bool { return nameless }
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		f := begin(t, path, "one")
		if have := names(t, dir); nameless != (len(have) == 0) {
			t.Errorf("before the commit there are %q", have)
		}
		if err := f.Commit(false); err != nil {
			t.Fatal(err)
		}
		g := begin(t, path, "two")
		if err := g.Commit(false); !errors.Is(err, unix.EEXIST) {
			t.Errorf("a file that is there: %v", err)
		}
		g.Close()
		if text, _ := os.ReadFile(path); string(text) != "one" || !slices.Equal(names(t, dir), []string{"file"}) {
			t.Errorf("the file holds %q, and there are %q", text, names(t, dir))
		}
		h := begin(t, path, "three")
		if err := h.Commit(true); err != nil {
			t.Fatal(err)
		}
		if text, _ := os.ReadFile(path); string(text) != "three" || !slices.Equal(names(t, dir), []string{"file"}) {
			t.Errorf("the file holds %q, and there are %q", text, names(t, dir))
		}
		begin(t, filepath.Join(dir, "given up"), "x").Close()
		if !slices.Equal(names(t, dir), []string{"file"}) {
			t.Errorf("there are %q", names(t, dir))
		}
	}
}

// A link to a file that is not there yet leads to it afterwards.
func TestCreateThroughLinks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"a": "b", "b": "d/c", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := begin(t, filepath.Join(dir, "a"), "x").Commit(false); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "d", "c")); string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := Create(filepath.Join(dir, "loop"), 0o600); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	if _, err := Create(filepath.Join(dir, "no", "file"), 0o600); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no directory: %v", err)
	}
}
