package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"rsc.io/script"
	"rsc.io/script/scripttest"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// TestMain is uml_moo itself when the scripts run it.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_UML_MOO") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestScripts(t *testing.T) {
	engine := script.NewEngine()
	engine.Cmds = scripttest.DefaultCmds()
	for name, path := range map[string]string{
		"uml_moo": os.Args[0], "debian_moo": oracle.Tool(t, "uml_moo"), "uml_mkcow": oracle.Tool(t, "uml_mkcow"),
		"touch": oracle.Tool(t, "touch"), "truncate": oracle.Tool(t, "truncate"), "dd": oracle.Tool(t, "dd"), "ln": oracle.Tool(t, "ln"),
	} {
		engine.Cmds[name] = script.Program(path, nil, 10*time.Second)
	}
	scripttest.Test(t, t.Context(), engine, append(os.Environ(), "RUN_UML_MOO=1"), "testdata/*.txt")
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args string
		want command
		err  string
	}{
		{"c n", command{cow: "c", output: "n"}, ""},
		{"-d c", command{cow: "c", inPlace: true}, ""},
		{"c -d", command{cow: "c", inPlace: true}, ""},
		{"-b x -d c", command{cow: "c", backing: "x", inPlace: true}, ""},
		{"-d -b x c", command{cow: "c", backing: "x", inPlace: true}, ""},
		{"c -bx n", command{cow: "c", backing: "x", output: "n"}, ""},
		{"-db x c", command{cow: "c", backing: "x", inPlace: true}, ""},
		{"-d c --keep", command{cow: "c", inPlace: true, keep: true}, ""},
		{"--keep c n", command{}, "--keep goes with -d"},
		{"c --no-sync n", command{cow: "c", output: "n", noSync: true}, ""},
		{"--no-sync -d c", command{}, "--no-sync goes with a new file"},
		{"--no-sync -d --keep c", command{}, "--no-sync goes with a new file"},
		{"-b x c n", command{cow: "c", backing: "x", output: "n"}, ""},
		{"-- -d -b", command{cow: "-d", output: "-b"}, ""},
		{"c -", command{cow: "c", output: "-"}, ""},
		{"", command{}, "help"},
		{"--help", command{}, "help"},
		{"-d", command{}, "help"},
		{"c", command{}, "a new file is missing"},
		{"-d c n", command{}, `not "n"`},
		{"a b c", command{}, `one file too many: "c"`},
		{"-x c n", command{}, "unknown option -x"},
		{"--force c n", command{}, "unknown option --force"},
		{"c n -b", command{}, "-b needs"},
	} {
		got, err := parse(strings.Fields(test.args))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: error %v, want %q", test.args, err, test.err)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("%q: %+v, %v; want %+v", test.args, got, err, test.want)
		}
	}
}

func TestStatus(t *testing.T) {
	var stderr bytes.Buffer
	if got := run(context.Background(), nil, &stderr); got != 1 || stderr.String() != usage {
		t.Errorf("without arguments: status %d, stderr %q", got, &stderr)
	}
	stderr.Reset()
	none := filepath.Join(t.TempDir(), "none")
	want := "COW file open: open " + none + ": no such file or directory\n"
	if got := run(context.Background(), []string{none, none + "2"}, &stderr); got != 1 || stderr.String() != want {
		t.Errorf("without a COW file: status %d, stderr %q", got, &stderr)
	}

	// What a header says does not steer the terminal.
	stderr.Reset()
	header, err := ubdfmt.Header{Dialect: ubdfmt.V3, Backing: "/no\n\x1b[2Jne", Size: 512, SectorSize: 512, Alignment: 4096}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(none, header, 0o644); err != nil {
		t.Fatal(err)
	}
	want = `Stating backing file: stat /no\x0a\x1b[2Jne: no such file or directory` + "\n"
	if got := run(context.Background(), []string{none, none + "2"}, &stderr); got != 1 || stderr.String() != want {
		t.Errorf("a header with control characters: status %d, stderr %q", got, &stderr)
	}
}

// TestKilled kills uml_moo at random moments, merging in place and into a new file: the
// same command done again gives the same bytes, and in place a COW file that shows them
// still and holds nothing; a new image is there whole or not at all.
func TestKilled(t *testing.T) {
	const size = 48 << 20
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	dir := t.TempDir()
	base, cow, out := filepath.Join(dir, "base.img"), filepath.Join(dir, "disk.cow"), filepath.Join(dir, "out.img")
	content := bytes.Repeat([]byte("backing file.123"), size/16)
	if err := os.WriteFile(base, content, 0o644); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(base, old, old); err != nil {
		t.Fatal(err)
	}
	d, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(content)
	for off := 0; off < size; off += 24 << 10 {
		b := bytes.Repeat([]byte("the COW file.123"), 512)
		copy(want[off:], b)
		if _, err := d.WriteAt(want[off:min(size, off+len(b))], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Trim(size/2, 1<<20); err != nil {
		t.Fatal(err)
	}
	clear(want[size/2 : size/2+1<<20])
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	cowBytes, err := os.ReadFile(cow)
	if err != nil {
		t.Fatal(err)
	}

	moo := func(kill time.Duration, args ...string) error {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "RUN_UML_MOO=1")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kill > 0 {
			timer := time.AfterFunc(kill, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, &stderr)
		}
		return nil
	}
	check := func(what, path string, want []byte) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s is not what it should be", what)
		}
	}
	// A kill comes within the time that the fastest merge took: one that was slow
	// because the host was busy says nothing about the next.
	whole := time.Hour
	timed := func(kill bool, args ...string) error {
		after := time.Duration(0)
		if kill {
			after = 1 + time.Duration(rand.Int64N(int64(whole)))
		}
		start := time.Now()
		err := moo(after, args...)
		if err == nil {
			whole = min(whole, time.Since(start))
		}
		return err
	}
	if err := timed(false, cow, out); err != nil {
		t.Fatal(err)
	}
	check("the new image", out, want)

	killed := 0
	for range rounds {
		if err := os.Remove(out); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if timed(true, cow, out) != nil {
			killed++
		}
		if _, err := os.Stat(out); err == nil {
			check("the new image of a killed merge", out, want)
		}
	}
	check("the backing file", base, content)
	if killed == 0 && rounds > 4 {
		t.Error("no merge was killed")
	}

	killed = 0
	for range rounds {
		if timed(true, "-d", cow) != nil {
			killed++
		}
		if _, err := os.Stat(base + ".merging"); err == nil {
			continue // to be gone on with
		}
		// Not begun, or done, whether or not it lived to say so.
		info, err := os.Stat(base)
		if err != nil {
			t.Fatal(err)
		}
		if info.ModTime().Unix() == old.Unix() {
			check("the backing file", base, content)
			continue
		}
		check("the backing file, merged", base, want)
		checkEmptied(t, cow, want)
		// The same file again, for the mark knows it by its place on the host.
		for path, b := range map[string][]byte{base: content, cow: cowBytes} {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(base, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if killed == 0 && rounds > 4 {
		t.Error("no merge in place was killed")
	}
	if err := moo(0, "-d", cow); err != nil {
		t.Fatal(err)
	}
	check("the backing file, merged", base, want)
	checkEmptied(t, cow, want)
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if n := name.Name(); n != "base.img" && n != "disk.cow" && n != "out.img" && canTmpfile(dir) {
			t.Errorf("left behind: %s", n)
		}
	}
}

// checkEmptied checks that a COW file that was merged in place holds nothing and shows what
// it did.
func checkEmptied(t *testing.T, cow string, want []byte) {
	t.Helper()
	r, err := ubdfmt.Check(cow, ubdfmt.CheckOptions{})
	if err != nil || r.Held != 0 || len(r.Problems) != 0 {
		t.Fatalf("the COW file: %+v, %v", r, err)
	}
	d, err := ubdfmt.Open(cow, "", ubdfmt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the emptied COW file shows another disk: %v", err)
	}
}

// canTmpfile tells whether files without a name can be made there; elsewhere a kill leaves
// a temporary one.
func canTmpfile(dir string) bool {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// Merged into a backing file of another name, the COW file names that one afterwards; into
// its own by another name, it keeps the name. What it shows stays.
func TestOtherBacking(t *testing.T) {
	dir := t.TempDir()
	base, other, alias, cow := filepath.Join(dir, "base.img"), filepath.Join(dir, "other.img"), filepath.Join(dir, "alias.img"), filepath.Join(dir, "disk.cow")
	content := bytes.Repeat([]byte("backing file.123"), 1<<16)
	old := time.Unix(1500000000, 0)
	for _, name := range []string{base, other} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(base, alias); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(content)
	for i, step := range []struct{ backing, named string }{{alias, base}, {other, other}} {
		d, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		text := bytes.Repeat([]byte{byte(i + 1)}, 4096)
		copy(want[i*100000&^4095:], text)
		if _, err := d.WriteAt(text, int64(i*100000&^4095)); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if step.backing == other { // a copy of what base.img is by now
			b, err := os.ReadFile(base)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(other, b, 0o644); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(base)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(other, info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
		}
		var stderr bytes.Buffer
		if status := run(t.Context(), []string{"-d", "-b", step.backing, cow}, &stderr); status != 0 {
			t.Fatalf("status %d, %s", status, &stderr)
		}
		h, err := ubdfmt.ReadHeader(cow)
		if err != nil || h.Backing != step.named {
			t.Errorf("merged into %s it names %q, %v", step.backing, h.Backing, err)
		}
		d, err = ubdfmt.Open(cow, "", ubdfmt.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("merged into %s it shows another disk, %v", step.backing, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManualPage(t *testing.T) {
	oracle.HoldsPage(t, "uml_moo", usage, func(option string) bool {
		_, err := parse([]string{option, "c", "n"})
		return err == nil || err == errHelp || !strings.Contains(err.Error(), "unknown option")
	})
}
