// Package borrowed makes small guests of the host's own programs: an initrd with busybox
// and with the Debian programs that a test names, their libraries beside them.
package borrowed

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// library finds the files in what ldd prints.
var library = regexp.MustCompile(`(?m)(?:=> |^\s+)(/\S+)`)

// Initrd makes an initrd that runs the shell script init, with the named programs of the
// host and the text files given by path.
func Initrd(t testing.TB, init string, programs []string, files map[string]string) string {
	t.Helper()
	busybox := oracle.Tool(t, "busybox")
	root := t.TempDir()
	for _, dir := range []string{"bin", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, busybox, filepath.Join(root, "bin/busybox"))
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatalf("busybox --list: %v", err)
	}
	for _, program := range programs {
		path := oracle.Tool(t, program)
		copyFile(t, path, filepath.Join(root, "bin", program))
		// A static program has no libraries, and ldd fails.
		out, _ := exec.Command("ldd", path).Output()
		for _, found := range library.FindAllStringSubmatch(string(out), -1) {
			copyFile(t, found[1], filepath.Join(root, found[1]))
		}
	}
	for _, applet := range strings.Fields(string(applets)) {
		link := filepath.Join(root, "bin", applet)
		if _, err := os.Lstat(link); err == nil {
			continue
		}
		if err := os.Symlink("busybox", link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("bin", filepath.Join(root, "sbin")); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{
		"init":       "#!/bin/sh\n" + init,
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
		"etc/group":  "root:x:0:\ntty:x:5:\n",
		"etc/shadow": "root::19000:0:99999:7:::\n",
	}
	for path, text := range files {
		texts[path] = text
	}
	for path, text := range texts {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(t.TempDir(), "initrd")
	cmd := exec.Command("sh", "-c", `cd "$1" && find . | "$2" cpio -o -H newc > "$3"`, "sh", root, busybox, archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pack the initrd: %v\n%s", err, out)
	}
	return archive
}

// copyFile copies a program, whatever links lead to it.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}
