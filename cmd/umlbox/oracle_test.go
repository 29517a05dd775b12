package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"golang.org/x/sys/unix"
)

// links makes a directory with a link for every applet, once.
var links = struct {
	sync.Once
	dir string
}{}

func appletDir(t testing.TB) string {
	t.Helper()
	box := guest.Binary(t, "umlbox")
	links.Do(func() {
		dir, err := os.MkdirTemp("", "umlbox-test")
		if err != nil {
			t.Fatal(err)
		}
		// Others than root start the applets too.
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range applets {
			if err := os.Symlink(box, filepath.Join(dir, applets[i].Name)); err != nil {
				t.Fatal(err)
			}
		}
		links.dir = dir
	})
	return links.dir
}

func TestMain(m *testing.M) {
	status := m.Run()
	if links.dir != "" {
		os.RemoveAll(links.dir)
	}
	os.Exit(status)
}

// world is the directory that scripts run in: the same for both sides.
func world(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	stamp := time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	write := func(name, text string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "one\ntwo\nthree\n", 0o644)
	write("b", "two\nthree\nfour\nno newline at the end", 0o600)
	write("empty", "", 0o644)
	write("exec", "#!/bin/sh\necho hi\n", 0o755)
	write("numbers", "10\n9\n-3\n1.5\n1e3\n0x10\n\n 7\n100\n10\n", 0o644)
	write("words", "Alpha beta\tgamma\n  indented line\nalpha BETA\n\ntail:of:fields\na:b:c:d\nx.y.z\n", 0o644)
	write("table", "apple 3 red\nbanana 20 yellow\ncherry 100 red\napple 1 green\n", 0o644)
	write("binary", string([]byte{0, 1, 2, 255, 254, 'h', 'e', 'l', 'l', 'o', 0, '\n', 0x80, 'w', 'o', 'r', 'l', 'd', 7}), 0o644)
	write("d/x", "in d\n", 0o644)
	write("d/y", "also\n", 0o640)
	write("d/e/z", "deep\n", 0o644)
	write("d/.hidden", "dot\n", 0o644)
	write("v1.9", "", 0o644)
	write("v1.10", "", 0o644)
	for name, target := range map[string]string{"link": "a", "dangling": "nowhere", "dlink": "d", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "b"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ts := unix.NsecToTimespec(stamp.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// outcome is what a script did.
type outcome struct {
	stdout   string
	status   int
	complain bool // it wrote to standard error
	tree     string
	stderr   string
}

// play runs a script with dash in a new world, with its programs from path.
func play(t *testing.T, path, script string) outcome {
	t.Helper()
	return playWith(t, oracle.Tool(t, "dash"), path, script)
}

// playWith runs a script with a shell.
func playWith(t *testing.T, shell, path, script string) outcome {
	t.Helper()
	dir := world(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + path, "LC_ALL=C", "TZ=UTC0", "HOME=/root", "TMPDIR=/tmp",
		"BLKID_FILE=/dev/null"} // its cache would answer for devices that are gone
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Stdin = strings.NewReader("line 1\nline 2\nline 3\n")
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", script, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s: did not end", script)
	}
	clean := func(s string) string { return strings.ReplaceAll(s, dir, "DIR") }
	return outcome{clean(stdout.String()), cmd.ProcessState.ExitCode(), stderr.Len() > 0, tree(t, dir), clean(stderr.String())}
}

// tree describes all files of a directory but their inode numbers. Times are
// compared where they are those of the world, or were set by the script.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	recent := time.Now().Add(-time.Hour)
	err := filepath.WalkDir(dir, func(path string, ent fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) {
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%s %o %d:%d %d %x", rel, st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev)
		switch ent.Type() {
		case 0:
			content, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrPermission) { // others than root cannot read all
				return err
			}
			fmt.Fprintf(&b, " %q", content)
		case fs.ModeSymlink:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&b, " -> %s", target)
		}
		if m := time.Unix(st.Mtim.Unix()); m.Before(recent) {
			fmt.Fprintf(&b, " @%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), dir, "DIR")
}

// same runs scripts with our applets and with Debian's programs, and fails
// where they differ in output, status, complaints or what they leave behind.
func same(t *testing.T, scripts ...string) {
	t.Helper()
	sameEach(t, true, scripts)
}

// sameInTurn is same for scripts that see each other, through devices.
func sameInTurn(t *testing.T, scripts ...string) {
	t.Helper()
	sameEach(t, false, scripts)
}

func sameEach(t *testing.T, sideBySide bool, scripts []string) {
	t.Helper()
	theirs := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	ours := appletDir(t)
	for _, script := range scripts {
		t.Run(strings.NewReplacer("/", "|", " ", "_").Replace(script), func(t *testing.T) {
			if sideBySide {
				t.Parallel()
			}
			want := play(t, theirs, script)
			got := play(t, ours, script)
			if got.stdout != want.stdout {
				t.Errorf("output\n%s\nwant\n%s", got.stdout, want.stdout)
			}
			if got.status != want.status {
				t.Errorf("status %d, want %d", got.status, want.status)
			}
			if got.complain != want.complain {
				t.Errorf("on standard error %q, want %q", got.stderr, want.stderr)
			}
			if got.tree != want.tree {
				t.Errorf("files\n%s\nwant\n%s", got.tree, want.tree)
			}
		})
	}
}

var testTime = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// waitFor waits until a condition holds.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 20 s")
		}
	}
}
