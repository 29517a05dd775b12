package builtin

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs/tree"
)

func TestUserland(t *testing.T) {
	umlbox := guest.Binary(t, Program)
	tr := tree.New()
	s := &Source{Umlbox: umlbox}
	if err := s.Fill(t.Context(), tr, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(oracle.Run(t, umlbox, "--list")) {
		for _, dir := range []string{"/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/"} {
			if n, err := tr.Lookup(dir+name, true); err != nil || !n.IsRegular() || n.Mode&0o111 == 0 {
				t.Errorf("%s%s: %v", dir, name, err)
			}
		}
	}
	for path, mode := range map[string]uint32{"/tmp": unix.S_IFDIR | 0o1777, "/root": unix.S_IFDIR | 0o700, "/proc": unix.S_IFDIR | 0o555,
		"/etc/shadow": unix.S_IFREG | 0o640, "/dev/console": unix.S_IFCHR | 0o600, "/sbin": unix.S_IFLNK | 0o777} {
		if n, err := tr.Lookup(path, false); err != nil || n.Mode != mode {
			t.Errorf("%s: %v, want mode %o", path, err, mode)
		}
	}
	// Every user of shadow is one of passwd.
	passwd, err := tr.ReadFile("/etc/passwd", 4096)
	if err != nil {
		t.Fatal(err)
	}
	shadow, err := tr.ReadFile("/etc/shadow", 4096)
	if err != nil {
		t.Fatal(err)
	}
	names := func(text []byte) (all string) {
		for _, line := range strings.Split(string(text), "\n") {
			name, _, _ := strings.Cut(line, ":")
			all += name + " "
		}
		return all
	}
	if names(passwd) != names(shadow) {
		t.Errorf("passwd has %s, shadow %s", names(passwd), names(shadow))
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"bin", "libexec/umlkit", "elsewhere"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe := filepath.Join(dir, "bin", "umlimg")
	if err := os.WriteFile(exe, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "elsewhere", "umlimg")
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(exe); err == nil || !strings.Contains(err.Error(), "--umlbox") {
		t.Errorf("nowhere: %v", err)
	}
	for _, at := range []string{"libexec/umlkit/umlbox", "bin/umlbox"} { // what is beside counts more
		want := filepath.Join(dir, at)
		if err := os.WriteFile(want, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{exe, link} {
			if got, err := Find(from); err != nil || got != want {
				t.Errorf("from %s: %s, %v", from, got, err)
			}
		}
	}
}

func TestBadPrograms(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\necho init\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		text: "is no program", dir: "no program", filepath.Join(dir, "none"): "no such file",
		oracle.Tool(t, "true"): "names no commands", oracle.Tool(t, "false"): "--list",
		oracle.Tool(t, "yes"): "--list",
	} {
		err := (&Source{Umlbox: path}).Fill(context.Background(), tree.New(), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
