package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// disks makes base.img, and disk.cow over it that holds half of it; want is what a machine
// sees.
func disks(t *testing.T, dir string) (base, cow string, want []byte) {
	t.Helper()
	base, cow = filepath.Join(dir, "base.img"), filepath.Join(dir, "disk.cow")
	want = bytes.Repeat([]byte("backing file.123"), 4<<20/16)
	if err := os.WriteFile(base, want, 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(want); off += 64 << 10 {
		copy(want[off:off+32<<10], bytes.Repeat([]byte{byte(off >> 16), 1}, 16<<10))
		if _, err := d.WriteAt(want[off:off+32<<10], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return base, cow, want
}

func wantFile(t *testing.T, what, path string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %s is not what it should be, %v", what, path, err)
	}
}

// A signal ends a merge in one line, with nothing lost and nothing left but the mark of a
// merge in place; done again, it ends as if nothing had been.
func TestSignals(t *testing.T) {
	for _, inPlace := range []bool{false, true} {
		dir := t.TempDir()
		base, cow, want := disks(t, dir)
		out, args, says := filepath.Join(dir, "new.img"), []string{cow, filepath.Join(dir, "new.img")}, "uml_moo: interrupted; no image was made\n"
		if inPlace {
			out, args, says = base, []string{"-d", cow}, "uml_moo: interrupted; run it again to finish the merge\n"
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		var stderr bytes.Buffer
		if status := run(ctx, args, &stderr); status != 1 || stderr.String() != says {
			t.Errorf("%q: status %d, %q", args, status, &stderr)
		}
		for _, inject := range []string{"copy_file_range,pwrite64:signal=SIGINT:when=1", "fsync,fdatasync,sync_file_range:signal=SIGTERM", "linkat,renameat,renameat2,rename,unlinkat,unlink:signal=SIGHUP"} {
			cmd := exec.Command(oracle.Tool(t, "strace"), append([]string{"-f", "-qq", "-o", "/dev/null", "-e", "inject=" + inject, os.Args[0]}, args...)...)
			cmd.Env = append(os.Environ(), "RUN_UML_MOO=1")
			stderr.Reset()
			cmd.Stderr = &stderr
			_ = cmd.Run()
			status := cmd.ProcessState.ExitCode()
			// A merge that was through, or nearly, is as good as one that was not disturbed.
			if status != 0 && (status != 1 || stderr.String() != says) || status == 0 && stderr.String() != "" {
				t.Errorf("%q, %s: status %d, %q", args, inject, status, &stderr)
			}
			if left, _ := os.ReadDir(dir); len(left) > 3 || len(left) == 3 && left[2].Name() != "new.img" && left[1].Name() != "base.img.merging" {
				t.Errorf("%q, %s leaves %v", args, inject, left)
			}
			if status == 0 {
				wantFile(t, inject, out, want)
			}
		}
		stderr.Reset()
		if status := run(t.Context(), args, &stderr); status != 0 || stderr.String() != "" {
			t.Errorf("%q again: status %d, %q", args, status, &stderr)
		}
		wantFile(t, "again", out, want)
		if left, _ := os.ReadDir(dir); len(left) > 3 || inPlace && len(left) != 2 {
			t.Errorf("%q leaves %v", args, left)
		}
		if inPlace {
			checkEmptied(t, cow, want)
		}
	}
}

// On a terminal a merge shows how far it is, and takes that away again.
func TestProgressOnTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var o ubdfmt.MergeOptions
	clear := showProgress(terminal, &o)
	if o.Progress == nil {
		t.Fatal("nothing is told of the progress")
	}
	o.Progress(1<<20, 4<<20)
	clear()
	terminal.Close()
	// Behind what was written the other end fails.
	shown, err := io.ReadAll(master)
	if err != nil && !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	if text := string(shown); !strings.Contains(text, "merging") || !strings.Contains(text, "25%") || !strings.HasSuffix(text, "\r") {
		t.Errorf("the terminal shows %q", text)
	}
	// A merge tells of it.
	_, cow, _ := disks(t, t.TempDir())
	told := int64(0)
	if err := ubdfmt.Merge(t.Context(), cow, cow+".img", ubdfmt.MergeOptions{Progress: func(done, total int64) {
		if done < told || done > total {
			t.Errorf("%d of %d behind %d", done, total, told)
		}
		told = done
	}}); err != nil || told == 0 {
		t.Errorf("progress ends at %d, %v", told, err)
	}
}

// A user who may not read or write what the merge needs, and a full host: one line, status
// 1, nothing lost and nothing left.
func TestNoPermission(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	base, cow, want := disks(t, dir)
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && info.Mode().Perm()&0o5 != 0o5 {
			if err := os.Chmod(d, info.Mode().Perm()|0o5); err != nil {
				t.Fatal(err)
			}
		}
	}
	program := filepath.Join(dir, "uml_moo")
	oracle.Run(t, "cp", os.Args[0], program)
	oracle.Run(t, "chmod", "755", program)
	moo := func(argv ...string) (int, string) {
		t.Helper()
		cmd := exec.Command(oracle.Tool(t, argv[0]), argv[1:]...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "RUN_UML_MOO=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		_ = cmd.Run()
		return cmd.ProcessState.ExitCode(), stderr.String()
	}
	other := []string{"setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", program}
	for _, args := range [][]string{{"disk.cow", "new.img"}, {"-d", "disk.cow"}, {"--keep", "-d", "disk.cow"}} {
		if status, stderr := moo(append(other, args...)...); status != 1 || !strings.Contains(stderr, ": permission denied") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: status %d, %q", args, status, stderr)
		}
	}
	for _, name := range []string{cow, base} {
		oracle.Run(t, "chmod", "600", name)
		if status, stderr := moo(append(other, "disk.cow", "/dev/null")...); status != 1 || !strings.Contains(stderr, "permission denied") {
			t.Errorf("with %s closed: status %d, %q", name, status, stderr)
		}
		oracle.Run(t, "chmod", "644", name)
	}
	small := filepath.Join(dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
	t.Cleanup(func() { oracle.Unmount(t, small) })
	old := filepath.Join(small, "old.img")
	if err := os.WriteFile(old, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{"small/new.img", "small/old.img"} {
		if status, stderr := moo(program, "disk.cow", out); status != 1 || !strings.HasSuffix(stderr, ": no space left on device\n") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("into %s: status %d, %q", out, status, stderr)
		}
	}
	if left, _ := os.ReadDir(small); len(left) != 1 {
		t.Errorf("left are %v", left)
	}
	wantFile(t, "a full host", old, []byte("old"))
	if status, stderr := moo(program, "disk.cow", "new.img"); status != 0 {
		t.Errorf("at last: %s", stderr)
	}
	wantFile(t, "at last", filepath.Join(dir, "new.img"), want)
}
