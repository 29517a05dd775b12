// Package builtin is the userland that umlkit brings along as the source of an image:
// umlbox, one static program that is every command, a link for each of them, and the
// few files and directories that a system has.
package builtin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/release"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Program is the name of the program that is the userland.
const Program = "umlbox"

// Source is the built-in userland.
type Source struct {
	// Umlbox is the program's path on this machine; see Find.
	Umlbox string
}

// String names the source in messages.
func (*Source) String() string { return "the built-in userland" }

// Close implements rootfs.Source.
func (*Source) Close() error { return nil }

// Find looks for umlbox beside a program of ours, or in ../libexec/umlkit seen from
// there.
func Find(executable string) (string, error) {
	if resolved, err := filepath.EvalSymlinks(executable); err == nil {
		executable = resolved
	}
	dir := filepath.Dir(executable)
	places := []string{filepath.Join(dir, Program), filepath.Join(filepath.Dir(dir), "libexec", "umlkit", Program)}
	for _, p := range places {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s, which the built-in userland and container images need, is neither %s: name it by --umlbox, or an image's source by --from",
		Program, strings.Join(places, " nor "))
}

// listMax bounds what `umlbox --list` may print, in bytes.
const listMax = 64 << 10

// applets asks umlbox which commands it is.
func applets(ctx context.Context, umlbox string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if !strings.Contains(umlbox, "/") {
		umlbox = "./" + umlbox
	}
	cmd := exec.CommandContext(ctx, umlbox, "--list")
	cmd.Env = []string{}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	list, readErr := io.ReadAll(io.LimitReader(out, listMax+1))
	if len(list) > listMax {
		cancel()
	}
	err = cmd.Wait()
	switch {
	case len(list) > listMax:
		return nil, fmt.Errorf("%s --list prints more than %d bytes", umlbox, listMax)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s --list: %w", umlbox, ctx.Err())
	case err != nil || readErr != nil:
		return nil, fmt.Errorf("%s --list: %w", umlbox, errors.Join(err, readErr))
	}
	names := strings.Fields(string(list))
	for _, name := range names {
		if err := tree.CheckName(name); err != nil {
			return nil, fmt.Errorf("%s --list: %w", umlbox, err)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s --list names no commands: is it umlbox?", umlbox)
	}
	return names, nil
}

// programMax bounds the program, in bytes: it is held in memory.
const programMax = 256 << 20

func load(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > programMax {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("no program of at most 256 MiB")}
	}
	return io.ReadAll(io.LimitReader(f, programMax))
}

// Fill implements rootfs.Source. Nothing in the tree has times of its own.
func (s *Source) Fill(ctx context.Context, t *tree.Tree, _ tree.Store) error {
	program, err := load(s.Umlbox)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(program, []byte("\x7fELF")) {
		return fmt.Errorf("%s is no program", s.Umlbox)
	}
	names, err := applets(ctx, s.Umlbox)
	if err != nil {
		return err
	}
	for _, d := range directories {
		dir, err := t.Mkdir(d.path)
		if err != nil {
			return err
		}
		dir.Mode = unix.S_IFDIR | d.perm
	}
	for _, l := range links {
		if err := t.Symlink(l.target, l.path); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		node := &tree.Node{Mode: unix.S_IFCHR | n.perm, Major: n.major, Minor: n.minor}
		if err := t.Put(n.path, node); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := t.WriteFile(f.path, []byte(f.text), f.perm); err != nil {
			return err
		}
	}
	if n, err := t.Lookup("/etc/shadow", true); err == nil {
		n.GID = shadowGroup
	}
	if err := t.WriteFile("/bin/"+Program, program, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if name == Program {
			continue
		}
		if err := t.Symlink(Program, "/bin/"+name); err != nil {
			return err
		}
	}
	if !t.Exists("/sbin/init") {
		return fmt.Errorf("%s has no init among its commands", s.Umlbox)
	}
	return nil
}

// directories of the tree, parents first.
var directories = []struct {
	path string
	perm uint32
}{
	{"/bin", 0o755}, {"/boot", 0o755}, {"/dev", 0o755}, {"/etc", 0o755}, {"/home", 0o755}, {"/lib", 0o755},
	{"/media", 0o755}, {"/mnt", 0o755}, {"/opt", 0o755}, {"/proc", 0o555}, {"/root", 0o700}, {"/run", 0o755},
	{"/srv", 0o755}, {"/sys", 0o555}, {"/tmp", 0o1777}, {"/usr", 0o755}, {"/usr/lib", 0o755}, {"/usr/local", 0o755},
	{"/usr/local/bin", 0o755}, {"/usr/share", 0o755}, {"/var", 0o755}, {"/var/cache", 0o755}, {"/var/lib", 0o755},
	{"/var/log", 0o755}, {"/var/spool", 0o755}, {"/var/tmp", 0o1777},
}

// links make every place where scripts look for commands the same one.
var links = []struct{ path, target string }{
	{"/sbin", "bin"}, {"/usr/bin", "../bin"}, {"/usr/sbin", "../bin"},
	{"/var/run", "../run"}, {"/var/lock", "../run/lock"}, {"/etc/mtab", "../proc/self/mounts"},
}

// nodes are there for the moment before /dev is mounted.
var nodes = []struct {
	path         string
	perm         uint32
	major, minor uint32
}{
	{"/dev/console", 0o600, 5, 1},
	{"/dev/null", 0o666, 1, 3},
}

// shadowGroup may read password hashes, as on Debian.
const shadowGroup = 42

// files are those of a system in which root needs no password.
var files = []struct {
	path string
	perm uint32
	text string
}{
	{"/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n" +
		"daemon:x:1:1:daemon:/:/bin/false\n" +
		"nobody:x:65534:65534:nobody:/:/bin/false\n"},
	{"/etc/shadow", 0o640, "root::::::::\ndaemon:*:::::::\nnobody:*:::::::\n"},
	{"/etc/group", 0o644, "root:x:0:\ndaemon:x:1:\ntty:x:5:\ndisk:x:6:\nutmp:x:43:\nshadow:x:42:\nusers:x:100:\nnogroup:x:65534:\n"},
	{"/etc/shells", 0o644, "/bin/sh\n"},
	{"/etc/profile", 0o644, "export PATH=/usr/local/bin:/bin\numask 022\n"},
	{"/etc/os-release", 0o644, "NAME=umlkit\nID=umlkit\nPRETTY_NAME=\"umlkit's built-in userland\"\n" +
		"VERSION_ID=" + release.Name + "\n"},
}
