// Package proof holds the whole house against real input: real Debian trees are built
// into images, booted by our machine and by a real kernel, and merged by our tools
// and by Debian's.
package proof

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// cache is a directory that outlives test runs: trees from debootstrap are kept
// there.
func cache(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("UMLKIT_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(base, "umlkit")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mirror is the Debian mirror that this machine uses.
func mirror(t testing.TB) string {
	t.Helper()
	sources, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	for _, name := range append(sources, "/etc/apt/sources.list") {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			words := strings.Fields(s.Text())
			if len(words) >= 2 && (words[0] == "URIs:" || words[0] == "deb" && !strings.HasPrefix(words[1], "[")) {
				return words[1]
			}
		}
	}
	t.Fatal("no Debian mirror in /etc/apt")
	return ""
}

// packages are installed with dpkg in the guest; they lie in /root/debs of the tree and
// need nothing that minbase lacks.
var packages = []string{"hello", "tree", "less", "time"}

// tree is a debootstrap tree, made once and kept; what its name does not say of its
// content is in the version. As an ordinary user a missing one leaves the test out.
type tree struct {
	name    string
	version int
	args    []string // of debootstrap, before the suite
}

var (
	minbase  = tree{"minbase-sysvinit", 2, []string{"--variant=minbase", "--include=sysvinit-core"}}
	standard = tree{"standard-systemd", 2, nil}
	recipe   = tree{"standard-sysvinit", 2, []string{"--include=sysvinit-core"}}
)

// dir is the tree as a directory. Only root can read all of it.
func (tr tree) dir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(cache(t), fmt.Sprintf("%s-%d", tr.name, tr.version))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	oracle.NeedsRoot(t)
	tmp := dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{}, tr.args...), "bookworm", tmp, mirror(t))
	oracle.Run(t, "debootstrap", args...)
	debs := filepath.Join(tmp, "root/debs")
	if err := os.Mkdir(debs, 0o755); err != nil {
		t.Fatal(err)
	}
	get := exec.Command("apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)...)
	get.Dir = debs
	if out, err := get.CombinedOutput(); err != nil {
		t.Fatalf("apt-get download: %v\n%s", err, out)
	}
	if err := os.Rename(tmp, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tar is the tree as a tar that anyone may read.
func (tr tree) tar(t testing.TB) string {
	t.Helper()
	path := filepath.Join(cache(t), fmt.Sprintf("%s-%d.tar", tr.name, tr.version))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	oracle.Run(t, "tar", "-C", tr.dir(t), "--xattrs", "--xattrs-include=*", "--numeric-owner",
		"--sort=name", "--format=posix", "-cf", path+".tmp", ".")
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// copyFile copies a file so that everyone may read it.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	oracle.Run(t, "cp", "--sparse=always", "--no-preserve=mode", from, to)
	if err := os.Chmod(to, 0o644); err != nil {
		t.Fatal(err)
	}
}
