package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// Whoever may not is told so, and nothing is left.
func TestNoPermission(t *testing.T) {
	oracle.NeedsRoot(t)
	umlimg := guest.Binary(t, "umlimg")
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	disks(t, dir, 8<<20)
	if err := os.WriteFile(filepath.Join(dir, "secret.img"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"info", "secret.img"}, 1}, {[]string{"map", "secret.img"}, 1}, {[]string{"check", "secret.img"}, 1}, {[]string{"bench", "secret.img"}, 1},
		{[]string{"compare", "old.img", "secret.img"}, 2}, {[]string{"measure", "secret.img"}, 1}, {[]string{"cow", "create", "out/x.cow", "secret.img"}, 1},
		{[]string{"cow", "create", "x.cow", "old.img"}, 1}, {[]string{"diff", "old.img", "new.img", "-o", "x.cow"}, 1}, {[]string{"diff", "old.img", "secret.img", "-o", "out/x.cow"}, 1},
		{[]string{"commit", "disk.cow"}, 1}, {[]string{"cow", "rebase", "--unsafe", "disk.cow"}, 1}, {[]string{"check", "-r", "disk.cow"}, 0},
		{[]string{"serve", "--nbd", "unix:out/sock", "old.img"}, 1}, {[]string{"serve", "--read-only", "--nbd", "unix:out/sock", "secret.img"}, 1},
		{[]string{"serve", "--read-only", "--nbd", "unix:sock", "disk.cow"}, 1},
		{[]string{"bench", "-w", "disk.cow"}, 1}, {[]string{"map", "--svg", "x.svg", "disk.cow"}, 1},
		{[]string{"info", "secret.img#1"}, 1}, {[]string{"check", "secret.img#1"}, 1}, {[]string{"sparsify", "old.img"}, 1}, {[]string{"sparsify", "secret.img"}, 1},
		{[]string{"resize", "old.img", "+1M"}, 1}, {[]string{"resize", "--disk-only", "old.img", "+1M"}, 1}, {[]string{"resize", "old.img#1", "+1M"}, 1},
		{[]string{"partition", "list", "secret.img"}, 1}, {[]string{"partition", "create", "--force", "old.img"}, 1}, {[]string{"convert", "old.img", "x.img"}, 1},
		{[]string{"convert", "secret.img", "out/x.img"}, 1}, {[]string{"create", "--blank", "x.img"}, 1}, {[]string{"create", "--blank", "--force", "old.img"}, 1},
		{[]string{"cp", "secret.img:/f", "out"}, 1}, {[]string{"cp", "secret.img", "old.img:/f"}, 1}, {[]string{"tar-out", "old.img:/", "x.tar"}, 1}, {[]string{"mkdir", "old.img:/d"}, 1},
		{[]string{"put", "secret.img", "old.img:/f"}, 1}, {[]string{"tar-in", "secret.img", "old.img:/"}, 1}, {[]string{"edit", "old.img:/f"}, 1}, {[]string{"cp", "-r", "old.img:/", "d"}, 1},
		{[]string{"ls", "old.img"}, 0}, {[]string{"df", "old.img"}, 0},
		// What only looks may look at what may only be read.
		{[]string{"info", "disk.cow"}, 0}, {[]string{"map", "disk.cow"}, 0}, {[]string{"check", "disk.cow"}, 0}, {[]string{"compare", "disk.cow", "new.img"}, 0},
		{[]string{"bench", "-q", "-c", "10", "disk.cow"}, 0}, {[]string{"cow", "create", "out/x.cow", "old.img"}, 0},
	} {
		cmd := ordinary(t, out, append([]string{umlimg}, c.args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "TMPDIR="+out)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		if exit, ok := err.(*exec.ExitError); (err != nil && !ok) || cmd.ProcessState.ExitCode() != c.want || c.want != 0 && (!strings.Contains(stderr.String(), "permission denied") || strings.Count(stderr.String(), "\n") != 1) {
			t.Errorf("%q: %v, want %d: %s", c.args, exit, c.want, &stderr)
		}
	}
	if err := os.Remove(filepath.Join(out, "x.cow")); err != nil {
		t.Error(err)
	}
	if err := os.Chown(out, 0, 0); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(out); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	delete(before, out)
	after, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	delete(after, out)
	for name, state := range after {
		if before[name] != state {
			t.Errorf("%s: before %q, after %q", name, before[name], state)
		}
	}
}

// An ordinary user is told what is not allowed.
func TestFilesNotAllowed(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	image := smallImage(t, dir)
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "umlimg")
	oracle.Run(t, "cp", os.Args[0], binary)
	run := func(want string, args ...string) {
		t.Helper()
		cmd := ordinary(t, out, append([]string{binary}, args...)...)
		cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
		text, err := cmd.CombinedOutput()
		fails := want != "" && !strings.Contains(want, "is left out")
		if (err != nil) != fails || string(text) != want {
			t.Errorf("%q: %v: %q, want %q", args, err, text, want)
		}
	}
	run(fmt.Sprintf("umlimg: rm: %s: permission denied\n", image), "rm", image+":/etc/passwd")
	run("", "cp", image+":/etc/passwd", out)
	run(fmt.Sprintf("umlimg: cp: create %s/no: permission denied\n", dir), "cp", image+":/etc/passwd", dir+"/no")
	// All that may be kept is, and what may not is left out with a word.
	oracle.Run(t, "debugfs", "-w", "-R", "mknod dev b 8 1", image)
	run(fmt.Sprintf("umlimg: cp: %s/dev is left out: a device node, which only root makes, when attributes are kept\n", out), "cp", "-a", image+":/", out)
	if err := os.Chmod(image, 0); err != nil {
		t.Fatal(err)
	}
	run(fmt.Sprintf("umlimg: ls: %s: permission denied\n", image), "ls", image+":/")
}

// ordinary is a command of an ordinary user without capabilities, who may write to out.
func ordinary(t *testing.T, out string, argv ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		return exec.Command(argv[0], argv[1:]...)
	}
	if err := os.Chown(out, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	return exec.Command(oracle.Tool(t, "setpriv"), append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"}, argv...)...)
}

// An ordinary user keeps the owners of an archive, and says who owns a directory's
// files.
func TestOrdinaryUser(t *testing.T) {
	dir, archive := sources(t)
	umlimg := guest.Binary(t, "umlimg")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"tar":       {[]string{"--from", archive}, "User:  1234   Group:  5678"},
		"owner":     {[]string{"--from", dir, "--owner", "5:6"}, "User:     5   Group:     6"},
		"map":       {[]string{"--from", dir, "--map-users", fmt.Sprintf("%d:70:10", os.Geteuid()), "--map-groups", fmt.Sprintf("%d:80", os.Getegid())}, "User:    70   Group:    80"},
		"as it is":  {[]string{"--from", dir}, fmt.Sprintf("User: %5d   Group: %5d", os.Geteuid(), os.Getegid())},
		"userland":  {[]string{"--umlbox", guest.Binary(t, "umlbox")}, ""},
		"from pipe": {[]string{"--from", "-"}, "User:  1234   Group:  5678"},
	} {
		out := filepath.Join(filepath.Dir(archive), "out-"+strings.ReplaceAll(name, " ", "-"))
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(out, "disk.img")
		argv := append([]string{umlimg, "create", "--size", "64M", "--hostname", "plain", "--root-password", "pw"}, c.args...)
		cmd := ordinary(t, out, append(argv, image)...)
		if name == "from pipe" {
			f, err := os.Open(archive)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.Stdin = f
		}
		if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		oracle.Fsck(t, image)
		if got := oracle.Run(t, "debugfs", "-R", "cat /etc/hostname", image); !strings.Contains(got, "plain\n") {
			t.Errorf("%s: the host name is %q", name, got)
		}
		if got := oracle.Run(t, "debugfs", "-R", "stat /home/joe/file", image); c.want != "" && !strings.Contains(got, c.want) {
			t.Errorf("%s: want %q in\n%s", name, c.want, got)
		}
	}
}

// What cannot be read is named, and nothing is left.
func TestUnreadable(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("x"), 0) },
		"directory": func(path string) error { return os.Mkdir(path, 0) },
	} {
		dir, archive := sources(t)
		secret := filepath.Join(dir, "etc", "secret")
		if err := make(secret); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(filepath.Dir(archive), "out")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(out, "disk.img")
		text, err := ordinary(t, out, guest.Binary(t, "umlimg"), "create", "--from", dir, "--size", "64M", image).CombinedOutput()
		want := fmt.Sprintf("umlimg: create %s: open %s: permission denied\n", image, secret)
		if err == nil || string(text) != want {
			t.Errorf("%s: %v: %q, want %q", name, err, text, want)
		}
		if left, _ := os.ReadDir(out); len(left) != 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
}
