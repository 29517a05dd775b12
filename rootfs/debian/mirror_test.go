package debian

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// archive is a mirror that a test makes: packages built by dpkg-deb, a suite signed by a
// key of its own.
type archive struct {
	t    testing.TB
	dir  string
	gpg  string // GNUPGHOME
	list strings.Builder
	debs []string
}

func newArchive(t testing.TB) *archive {
	t.Helper()
	a := &archive{t: t, dir: t.TempDir()}
	must(t, os.MkdirAll(filepath.Join(a.dir, "dists/test/main/binary-amd64"), 0o755))
	must(t, os.MkdirAll(filepath.Join(a.dir, "pool"), 0o755))
	home, err := os.MkdirTemp("/tmp", "gpg") // the agent's socket has a short name
	must(t, err)
	a.gpg = home
	t.Cleanup(func() {
		cmd := exec.Command(oracle.Tool(t, "gpgconf"), "--homedir", home, "--kill", "all")
		_ = cmd.Run() // the agent sees its home go away, too
		os.RemoveAll(home)
	})
	a.run("gpg", "--batch", "--passphrase", "", "--quick-gen-key", "Archive <archive@example.org>", "ed25519", "sign", "never")
	must(t, os.WriteFile(a.keyring(), []byte(a.run("gpg", "--export")), 0o644))
	return a
}

func (a *archive) keyring() string { return filepath.Join(a.gpg, "keys.gpg") }

func (a *archive) run(name string, args ...string) string {
	a.t.Helper()
	cmd := exec.Command(oracle.Tool(a.t, name), args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+a.gpg)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		a.t.Fatalf("%s %q: %v\n%s", name, args, err, errs.String())
	}
	return string(out)
}

// pack builds a package. files are paths with their content; a path that ends with a
// slash is a directory, one below DEBIAN/ belongs to the control archive, and content
// that begins with "-> " is a link's target.
func (a *archive) pack(compression, control string, files map[string]string) {
	a.t.Helper()
	tree := a.t.TempDir()
	must(a.t, os.Chmod(tree, 0o755))
	files["DEBIAN/control"] = control + "Maintainer: nobody <nobody@example.org>\nDescription: a test\n of packages\n"
	for name, text := range files {
		path := filepath.Join(tree, name)
		must(a.t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch target, link := strings.CutPrefix(text, "-> "); {
		case strings.HasSuffix(name, "/"):
			must(a.t, os.MkdirAll(path, 0o755))
		case link:
			must(a.t, os.Symlink(target, path))
		case strings.HasPrefix(text, "#!"):
			must(a.t, os.WriteFile(path, []byte(text), 0o755))
		default:
			must(a.t, os.WriteFile(path, []byte(text), 0o644))
		}
	}
	p := paragraph(control)
	name := fmt.Sprintf("pool/%s_%s_%s.deb", p.field("Package"), strings.ReplaceAll(p.field("Version"), ":", "%3a"), p.field("Architecture"))
	deb := filepath.Join(a.dir, name)
	a.run("dpkg-deb", "--root-owner-group", "-Z"+compression, "-b", tree, deb)
	data, err := os.ReadFile(deb)
	must(a.t, err)
	a.debs = append(a.debs, deb)
	fmt.Fprintf(&a.list, "%sMaintainer: nobody <nobody@example.org>\nDescription: a test\nFilename: %s\nSize: %d\nSHA256: %x\n\n", control, name, len(data), sha256.Sum256(data))
}

// publish writes the index and the signed Release file.
func (a *archive) publish(fields string) {
	a.t.Helper()
	must(a.t, os.WriteFile(a.at("main/binary-amd64/Packages"), []byte(a.list.String()), 0o644))
	a.run("xz", "-kf", a.at("main/binary-amd64/Packages"))
	var b strings.Builder
	b.WriteString("Suite: testing\nCodename: test\nArchitectures: amd64 all\nComponents: main\n" + fields + "SHA256:\n")
	for _, name := range []string{"main/binary-amd64/Packages", "main/binary-amd64/Packages.xz"} {
		data, err := os.ReadFile(a.at(name))
		must(a.t, err)
		fmt.Fprintf(&b, " %x %d %s\n", sha256.Sum256(data), len(data), name)
	}
	must(a.t, os.WriteFile(a.at("Release"), []byte(b.String()), 0o644))
	a.sign()
}

func (a *archive) sign() {
	a.t.Helper()
	a.run("gpg", "--batch", "--yes", "--armor", "--detach-sign", "-o", a.at("Release.gpg"), a.at("Release"))
	a.run("gpg", "--batch", "--yes", "--clearsign", "-o", a.at("InRelease"), a.at("Release"))
}

// at is a file of the suite.
func (a *archive) at(name string) string { return filepath.Join(a.dir, "dists/test", name) }

func (a *archive) source() *Source {
	return &Source{Suite: "test", Variant: "minbase", Arch: "amd64", Mirror: "file:" + a.dir, Keyring: a.keyring(), Now: time.Now()}
}

// system adds the packages of a small system, with all that packages do.
func (a *archive) system() {
	a.pack("xz", "Package: core\nVersion: 1.0-1\nArchitecture: amd64\nEssential: yes\nPriority: required\nPre-Depends: libone (>= 1.0)\nConflicts: never\n", map[string]string{
		"bin/tool": "#!/bin/sh\n", "usr/bin/": "", "etc/core.conf": "a = 1\n", "etc/core.d/more": "b = 2\n", "DEBIAN/conffiles": "/etc/core.conf\n/etc/core.d/more\n",
		"DEBIAN/postinst": "#!/bin/sh\nexit 0\n", "DEBIAN/triggers": "interest-noawait /usr/share/doc\ninterest rebuild\nactivate-noawait other\n",
	})
	a.pack("gzip", "Package: libone\nVersion: 1:1.0~rc1-2\nArchitecture: amd64\nMulti-Arch: same\nPriority: optional\n", map[string]string{
		"lib/x86_64-linux-gnu/libone.so.1": "-> libone.so.1.0", "lib/x86_64-linux-gnu/libone.so.1.0": strings.Repeat("one", 5000), "usr/share/doc/libone/copyright": "free",
		"DEBIAN/shlibs": "libone 1 libone\n",
	})
	a.pack("zstd", "Package: apt\nVersion: 2.0\nArchitecture: amd64\nPriority: required\nDepends: mail-agent | nothing, awk, core\n", map[string]string{"usr/bin/apt": "apt", "etc/apt/": ""})
	a.pack("xz", "Package: mawk\nVersion: 1.3\nArchitecture: amd64\nPriority: required\nProvides: awk (= 1.3)\n", map[string]string{"usr/bin/mawk": "mawk", "usr/share/doc/mawk/copyright": "free"})
	a.pack("xz", "Package: gawk\nVersion: 5\nArchitecture: amd64\nPriority: optional\nProvides: awk\n", map[string]string{"usr/bin/gawk": "gawk"})
	a.pack("none", "Package: postfix\nVersion: 3\nArchitecture: all\nPriority: optional\nProvides: mail-agent\nConflicts: mail-agent\n", map[string]string{"usr/sbin/postfix": "postfix"})
	a.pack("xz", "Package: exim\nVersion: 4\nArchitecture: all\nPriority: important\nProvides: mail-agent\nConflicts: mail-agent\n", map[string]string{"usr/sbin/exim": "exim"})
	a.pack("xz", "Package: old\nVersion: 1\nArchitecture: all\nPriority: optional\nDepends: libone (<< 1:1.0~rc1)\n", map[string]string{"usr/old": ""})
	a.pack("xz", "Package: helpers\nVersion: 1\nArchitecture: all\nPriority: optional\nDepends: usrmerge | usr-is-merged\n", map[string]string{"usr/helpers": ""})
	a.pack("xz", "Package: usrmerge\nVersion: 1\nArchitecture: all\nPriority: optional\n", map[string]string{"usr/usrmerge": ""})
	a.pack("xz", "Package: usr-is-merged\nVersion: 1\nArchitecture: all\nPriority: optional\n", map[string]string{"usr/is-merged": ""})
	a.pack("xz", "Package: never\nVersion: 1\nArchitecture: all\nPriority: optional\n", map[string]string{"usr/never": ""})
}
