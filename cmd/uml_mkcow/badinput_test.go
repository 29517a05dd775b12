package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/badcow"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// Whatever is given as a COW file or a backing file: one line, status 1, and no file is
// made or touched.
func TestBadInput(t *testing.T) {
	f := badcow.Make(t)
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, length := range map[string]int{"empty": 0, "half-header": 2000, "cut-bitmap": 8200} {
		f.Write(name, f.Good[:length])
	}
	f.Write("letter", []byte("no image, but dear\n"))
	f.Write("qcow2", append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 504)...))
	f.Write("no\nname\xff", nil)
	if err := unix.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("dir", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"dangling": "missing", "nowhere": "no/where", "symloop": "symloop", "full": "/dev/full"} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	// What backing files may not be: those that exist and hold no disk, or one of another kind.
	backings := []string{
		"missing", "dangling", "symloop", "empty", "no\nname\xff", "fifo", "dir", "dir/", "good.img/x", "/dev/full", "/dev/null", "full", strings.Repeat("n", 300),
		"good.cow", "selfnamed", "loop1", "newline", "no-nul", "overflow", "version", "cut-bitmap", "/proc/self/mem",
	}
	// Where no COW file may be made, with -f or without, and what only -f replaces.
	places := []string{"fifo", "dir", "dir/", "symloop", "nowhere", "good.img/x", "no/where", "good.img", "letter", "qcow2", "/dev/full", "/dev/null", "full", strings.Repeat("n", 300)}
	taken := []string{"good.cow", "selfnamed", "loop1", "newline", "no-nul", "overflow", "version", "half-header", "cut-bitmap", "empty", "dangling"}
	var cases [][]string
	for _, base := range backings {
		cases = append(cases, []string{"new.cow", base}, []string{"-f", "new.cow", base}, []string{"-f", "good.cow", base})
	}
	for _, cow := range places {
		cases = append(cases, []string{cow, "good.img"}, []string{"-f", cow, "good.img"})
	}
	for _, cow := range taken {
		cases = append(cases, []string{cow, "good.img"}, []string{"-f", cow, cow})
	}
	before := oracle.State(t, dir)
	for _, args := range cases {
		var stderr bytes.Buffer
		status := run(args, &stderr)
		if status != 1 || strings.Count(stderr.String(), "\n") != 1 || strings.Contains(stderr.String(), "\x1b") || !utf8.Valid(stderr.Bytes()) {
			t.Errorf("%q: status %d, %q", args, status, &stderr)
		}
		if after := oracle.State(t, dir); after != before {
			t.Fatalf("%q: before\n%s\nafter\n%s", args, before, after)
		}
	}
	// With -f, whatever begins as a COW file does is replaced by a sound one.
	for _, cow := range taken {
		var stderr bytes.Buffer
		if status := run([]string{"-f", cow, "good.img"}, &stderr); status != 0 {
			t.Errorf("-f %s: status %d, %q", cow, status, &stderr)
		}
		if r, err := ubdfmt.Check(cow, ubdfmt.CheckOptions{}); err != nil || r.Held != 0 || len(r.Problems) != 0 {
			t.Errorf("-f %s: %+v, %v", cow, r, err)
		}
	}
}

// mkcow runs uml_mkcow in a process of its own, by a command that has it as its last
// arguments.
func mkcow(t *testing.T, dir string, command ...string) (status int, stderr string) {
	t.Helper()
	cmd := exec.Command(oracle.Tool(t, command[0]), command[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "RUN_UML_MKCOW=1", "MKCOW="+os.Args[0])
	var text bytes.Buffer
	cmd.Stderr = &text
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), text.String()
}

// A user who may not read the backing file, or may not write where the COW file is to be,
// and a host that is full: nothing is lost and nothing is left.
func TestNoPermission(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && info.Mode().Perm()&0o5 != 0o5 {
			if err := os.Chmod(d, info.Mode().Perm()|0o5); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, mode := range map[string]os.FileMode{"base.img": 0o644, "secret.img": 0o600} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"open", "closed"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := ubdfmt.CreateCOW(filepath.Join(dir, name, "old.cow"), filepath.Join(dir, "base.img"), ubdfmt.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o777); err != nil {
		t.Fatal(err)
	}
	// The test's program is where others may run it.
	program := filepath.Join(dir, "uml_mkcow")
	oracle.Run(t, "cp", os.Args[0], program)
	oracle.Run(t, "chmod", "755", program)
	before := oracle.State(t, filepath.Join(dir, "open")) + oracle.State(t, filepath.Join(dir, "closed"))
	for _, test := range []struct{ args, want string }{
		{"open/new.cow secret.img", "uml_mkcow: create open/new.cow: backing file: open secret.img: permission denied\n"},
		{"-f open/old.cow secret.img", "uml_mkcow: create open/old.cow: backing file: open secret.img: permission denied\n"},
		{"closed/new.cow base.img", "open COW file: Permission denied\n"},
		{"-f closed/new.cow base.img", "open COW file: Permission denied\n"},
		{"-f closed/old.cow base.img", "open COW file: Permission denied\n"},
		{"-f open/old.cow base.img", "open COW file: Permission denied\n"},
	} {
		status, stderr := mkcow(t, dir, append([]string{"setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", program}, strings.Fields(test.args)...)...)
		if status != 1 || stderr != test.want {
			t.Errorf("%s: status %d, %q", test.args, status, stderr)
		}
	}
	if after := oracle.State(t, filepath.Join(dir, "open")) + oracle.State(t, filepath.Join(dir, "closed")); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}

	small := filepath.Join(dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small)
	t.Cleanup(func() { oracle.Unmount(t, small) })
	if err := ubdfmt.CreateCOW(filepath.Join(small, "old.cow"), filepath.Join(dir, "base.img"), ubdfmt.Options{}); err != nil {
		t.Fatal(err)
	}
	before = oracle.State(t, small)
	for _, args := range []string{"small/new.cow base.img", "-f small/new.cow base.img", "-f small/old.cow base.img"} {
		status, stderr := mkcow(t, dir, append([]string{program}, strings.Fields(args)...)...)
		if status != 1 || stderr != "open COW file: No space left on device\n" {
			t.Errorf("%s on a full host: status %d, %q", args, status, stderr)
		}
	}
	if after := oracle.State(t, small); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// A signal at any step leaves the COW file that is wanted, or what was there, and no other
// file: also where the host has no files without a name, as without /proc, and where it
// has no hard links.
func TestSignals(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "base.img"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	cow := filepath.Join(dir, "disk.cow")
	for _, proc := range []string{"true", "mount -t tmpfs none /proc"} {
		for _, options := range []string{"", "-f"} {
			for _, inject := range []string{
				"pwrite64:signal=SIGINT", "fsync:signal=SIGTERM", "linkat,link:signal=SIGINT", "renameat,rename,renameat2:signal=SIGHUP", "unlinkat,unlink:signal=SIGINT",
				"renameat2:error=EINVAL", "renameat2,linkat,link:error=EINVAL",
			} {
				if strings.HasSuffix(inject, "link:error=EINVAL") {
					if proc == "true" {
						continue // a file without a name gets one by a link
					}
					inject = "renameat2:error=EINVAL -e inject=linkat,link:error=EPERM"
				}
				what := fmt.Sprintf("%q, %q, %q", proc, options, inject)
				if options == "" {
					_ = os.Remove(cow)
				} else if err := ubdfmt.ReplaceCOW(cow, filepath.Join(dir, "base.img"), ubdfmt.Options{}); err != nil {
					t.Fatal(err)
				}
				line := fmt.Sprintf("%s && exec strace -f -qq -o /dev/null -e inject=%s $MKCOW %s disk.cow base.img", proc, inject, options)
				if status, stderr := mkcow(t, dir, "unshare", "-m", "sh", "-c", line); status != 0 || stderr != "" {
					t.Errorf("%s: status %d, %q", what, status, stderr)
				}
				if r, err := ubdfmt.Check(cow, ubdfmt.CheckOptions{}); err != nil || len(r.Problems) != 0 {
					t.Errorf("%s: %+v, %v", what, r, err)
				}
				if left, _ := os.ReadDir(dir); len(left) != 2 {
					t.Errorf("%s leaves %v", what, left)
				}
			}
		}
	}
	// What is there is not replaced without -f, by whichever way.
	for _, inject := range []string{"read:delay_enter=0", "renameat2:error=EINVAL", "renameat2:error=EINVAL -e inject=linkat,link:error=EPERM"} {
		line := fmt.Sprintf("mount -t tmpfs none /proc && exec strace -f -qq -o /dev/null -e inject=%s $MKCOW disk.cow base.img", inject)
		if status, stderr := mkcow(t, dir, "unshare", "-m", "sh", "-c", line); status != 1 || stderr != "open COW file: File exists\n" {
			t.Errorf("%s: status %d, %q", inject, status, stderr)
		}
	}
}
