package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// wantJSON has a command print JSON, of these fields and no others than a kind has.
func wantJSON(t *testing.T, into any, args ...string) {
	t.Helper()
	status, stdout, stderr := call(args...)
	if status != 0 || stderr != "" {
		t.Fatalf("%q: status %d, %q", args, status, stderr)
	}
	dec := json.NewDecoder(strings.NewReader(stdout))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil || dec.More() {
		t.Fatalf("%q: %v in %s", args, err, stdout)
	}
}

// Commands that change files say what became of them.
func TestChangedJSON(t *testing.T) {
	dir := t.TempDir()
	image := smallImage(t, dir)
	t.Setenv("EDITOR", "echo more >>")
	word := filepath.Join(dir, "word")
	if err := os.WriteFile(word, []byte("word"), 0o644); err != nil {
		t.Fatal(err)
	}
	type file struct {
		path, kind, mode string
		uid              uint32
		size             int64
	}
	for _, c := range []struct {
		args []string
		want []file
	}{
		{[]string{"mkdir", "--json", "-p", "-m", "1777", image + ":/a/b", image + ":/c"}, []file{{"/a/b", "directory", "1777", 0, -1}, {"/c", "directory", "1777", 0, -1}}},
		{[]string{"put", "--json", "--owner", "12", word, image + ":/a/f"}, []file{{"/a/f", "file", "0644", 12, 4}}},
		{[]string{"ln", "--json", "-s", "b", image + ":/a/l"}, []file{{"/a/l", "symlink", "0777", 0, 1}}},
		{[]string{"ln", "--json", image + ":/a/f", image + ":/a/g"}, []file{{"/a/g", "file", "0644", 12, 4}}},
		{[]string{"chmod", "--json", "-R", "u=rx", image + ":/a/b", image + ":/a/f"}, []file{{"/a/b", "directory", "1577", 0, -1}, {"/a/f", "file", "0544", 12, 4}}},
		{[]string{"chown", "--json", "-R", "7", image + ":/home"}, []file{{"/home/joe/file", "file", "0644", 7, 1}, {"/home/joe", "directory", "0755", 7, -1}, {"/home", "directory", "0755", 7, -1}}},
		{[]string{"edit", "--json", image + ":/a/f"}, []file{{"/a/f", "file", "0544", 12, 9}}},
	} {
		var have []fileInfo
		wantJSON(t, &have, c.args...)
		if len(have) != len(c.want) {
			t.Errorf("%q tells of %+v", c.args, have)
			continue
		}
		for i, want := range c.want {
			h := have[i]
			if h.Image != image || h.Path != want.path || h.Type != want.kind || h.Mode != want.mode || h.UID != want.uid || want.size >= 0 && h.Size != want.size {
				t.Errorf("%q tells of %+v, not %+v", c.args, h, want)
			}
			// And so it is.
			var now []fileInfo
			wantJSON(t, &now, "stat", "--json", image+":"+h.Path)
			now[0].Xattrs = nil
			if now[0].Ctime != h.Ctime || now[0].Mode != h.Mode || now[0].Size != h.Size || now[0].Links != h.Links || now[0].Target != h.Target {
				t.Errorf("%q tells of %+v, and there is %+v", c.args, h, now[0])
			}
		}
	}
	var files []struct {
		fileInfo
		Content string `json:"content"`
	}
	wantJSON(t, &files, "cat", "--json", image+":/a/f", image+":/home/joe/file")
	for i, want := range []string{"wordmore\n", "x"} {
		if text, err := base64.StdEncoding.DecodeString(files[i].Content); err != nil || string(text) != want || files[i].Size != int64(len(want)) {
			t.Errorf("cat tells of %+v", files[i])
		}
	}
	// A failure prints none.
	for _, args := range [][]string{{"mkdir", "--json", image + ":/a"}, {"rm", "--json", image + ":/none"}, {"chmod", "--json", "755", image + ":/none"}, {"cp", "--json", word, image + ":/none/x"}} {
		if status, stdout, stderr := call(args...); status != 1 || stdout != "" || stderr == "" {
			t.Errorf("%q: status %d, %q, %q", args, status, stdout, stderr)
		}
	}
}

// Commands that work on many files count them.
func TestCountedJSON(t *testing.T) {
	dir := t.TempDir()
	image := smallImage(t, dir)
	tree := filepath.Join(dir, "src")
	for _, d := range []string{"", "d", "d/e"} {
		if err := os.Mkdir(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"a": "12345", "d/b": "123"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "big"), make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(tree, "a"), filepath.Join(tree, "d/second")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(tree, "l")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(tree, "d/e/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, archive := filepath.Join(dir, "out"), filepath.Join(dir, "a.tar")
	all := filesSummary{Files: 3, Directories: 3, Symlinks: 1, Others: 1, Bytes: 3<<20 + 8}
	inside := filesSummary{Files: 3, Directories: 2, Symlinks: 1, Others: 1, Bytes: 3<<20 + 8}
	for _, c := range []struct {
		want *filesSummary
		args []string
	}{
		{&all, []string{"cp", "-r", tree, image + ":/copy"}},
		{&inside, []string{"cp", "-r", tree + "/.", image + ":/home"}},
		{&all, []string{"cp", "-a", image + ":/copy", out}},
		{&filesSummary{Directories: 2, Left: 5}, []string{"cp", "-rnT", image + ":/copy", out}},
		{&filesSummary{Directories: 2, Left: 5}, []string{"cp", "-rnT", out, image + ":/copy"}},
		{&filesSummary{Files: 1, Bytes: 3}, []string{"cp", image + ":/copy/d/b", out}},
		{&all, []string{"tar-out", image + ":/copy", archive}},
		{&inside, []string{"tar-in", archive, image + ":/home"}},
		{&filesSummary{Files: 4, Directories: 3, Symlinks: 1, Others: 1}, []string{"rm", "-r", image + ":/copy"}},
		{&filesSummary{}, []string{"rm", "-rf", image + ":/copy"}},
	} {
		var have filesSummary
		wantJSON(t, &have, append([]string{c.args[0], "--json"}, c.args[1:]...)...)
		if have.Files != c.want.Files || have.Directories != c.want.Directories || have.Symlinks != c.want.Symlinks || have.Others != c.want.Others || have.Left != c.want.Left || have.Bytes != c.want.Bytes {
			t.Errorf("%q counts %+v, not %+v", c.args, &have, c.want)
		}
	}
	for _, args := range [][]string{{"cp", "--json", image + ":/etc/passwd", "-"}, {"tar-out", "--json", image + ":/"}} {
		if status, stdout, _ := call(args...); status != 2 || stdout != "" {
			t.Errorf("%q: status %d, %q", args, status, stdout)
		}
	}
}

// Every command that works on images has a --json.
func TestJSONEverywhere(t *testing.T) {
	for name, c := range commands(newApp(nil, nil, nil).Commands, "") {
		has := slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "json") })
		if own := name == "completion" || name == "help" || name == "version"; has == own {
			t.Errorf("%s: --json is there: %v", name, has)
		}
	}
}
