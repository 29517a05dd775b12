package oci

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Where what we add to an image lies. An image may be empty but for one program: nothing
// of it can be counted on, not even a shell.
const (
	ours    = "/.umlkit"
	umlbox  = ours + "/umlbox"
	runFile = ours + "/run"
	initOf  = "/sbin/init"
	oldInit = "/sbin/init.image" // what the image had in the place of ours
)

// defaultPath is what container engines give a program whose image says nothing.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// inits are programs that are process 1 and nothing else.
var inits = []string{"init", "systemd", "openrc-init", "runit-init", "s6-svscan"}

// Boot makes what the configuration wants to run the work of process 1: /sbin/init is a
// script by which umlbox becomes init, mounts what programs expect, runs the program on
// the console with its environment, directory and user, and powers off when it ends. An
// image whose program is an init itself is left as it is.
func Boot(t *tree.Tree, config *v1.ConfigFile, program string) error {
	argv := slices.Concat(config.Config.Entrypoint, config.Config.Cmd)
	if len(argv) == 0 {
		if t.Exists(initOf) || t.Exists("/etc/init") || t.Exists("/bin/init") {
			return nil
		}
		return errors.New("the configuration names no program to run, and there is no init: --as-is takes the image all the same")
	}
	if slices.Contains(inits, path.Base(argv[0])) {
		if t.Exists(initOf) {
			return nil
		}
		return t.Symlink(argv[0], initOf)
	}
	run, err := runScript(t, &config.Config, argv)
	if err != nil {
		return fmt.Errorf("the configuration: %w", err)
	}
	data, err := load(program, config.Architecture)
	if err != nil {
		return err
	}
	for _, dir := range []struct {
		path string
		perm uint32
	}{{"/dev", 0o755}, {"/proc", 0o555}, {"/sys", 0o555}, {"/run", 0o755}, {"/tmp", 0o1777}, {"/etc", 0o755}, {"/sbin", 0o755}} {
		if t.Exists(dir.path) {
			continue
		}
		d, err := t.Mkdir(dir.path)
		if err != nil {
			return err
		}
		d.Mode = unix.S_IFDIR | dir.perm
	}
	if wd := config.Config.WorkingDir; wd != "" {
		if _, err := t.Mkdir(wd); err != nil {
			return fmt.Errorf("the configuration: WorkingDir: %w", err)
		}
	}
	if err := keepInit(t); err != nil {
		return err
	}
	for _, f := range []struct {
		path, text string
		perm       uint32
	}{{umlbox, string(data), 0o755}, {runFile, run, 0o755}, {initOf, initScript, 0o755}} {
		if err := t.WriteFile(f.path, []byte(f.text), f.perm); err != nil {
			return err
		}
	}
	return nil
}

// initScript is /sbin/init. What the kernel's command line gives to init comes first and
// counts: "-- -c sh" runs a shell in the program's place.
const initScript = `#!` + umlbox + ` sh
# The program of this container image, as process 1 of a machine: ` + runFile + `
exec ` + umlbox + ` init "$@" -c ` + runFile + `
`

// keepInit moves an init of the image's own out of the way of ours.
func keepInit(t *tree.Tree) error {
	sbin, err := t.Lookup(path.Dir(initOf), true)
	if err != nil {
		return err
	}
	old := sbin.Take(path.Base(initOf))
	if old == nil {
		return nil
	}
	return sbin.Set(path.Base(oldInit), old)
}

// runScript is the program as a script of one command.
func runScript(t *tree.Tree, c *v1.Config, argv []string) (string, error) {
	id, err := findUser(t, c.User)
	if err != nil {
		return "", fmt.Errorf("user %.80q: %w", c.User, err)
	}
	env, err := environment(c.Env, id.home)
	if err != nil {
		return "", err
	}
	words := []string{"exec", umlbox, "env", "-i"}
	if c.WorkingDir != "" {
		words = append(words, "-C", quote(c.WorkingDir))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#!%s sh\n# From the container image's configuration.\n%s", umlbox, strings.Join(words, " "))
	for _, kv := range env {
		fmt.Fprintf(&b, " \\\n\t%s", quote(kv))
	}
	var groups []string
	for _, g := range id.groups {
		groups = append(groups, strconv.FormatUint(uint64(g), 10))
	}
	fmt.Fprintf(&b, " \\\n\t%s chroot --skip-chdir --userspec=%d:%d --groups=%s / \\\n\t", umlbox, id.uid, id.gid, strings.Join(groups, ","))
	for i, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return "", fmt.Errorf("argument %.80q holds a NUL", arg)
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(quote(arg))
	}
	b.WriteByte('\n')
	return b.String(), nil
}

// environment is a program's, with what container engines add.
func environment(env []string, home string) ([]string, error) {
	out := make([]string, 0, len(env)+3)
	has := map[string]bool{}
	for _, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.ContainsRune(kv, 0) {
			return nil, fmt.Errorf("environment: %.80q is no NAME=VALUE", kv)
		}
		has[name] = true
		out = append(out, kv)
	}
	for _, d := range []string{"PATH=" + defaultPath, "HOME=" + home, "TERM=linux"} {
		if name, _, _ := strings.Cut(d, "="); !has[name] {
			out = append(out, d)
		}
	}
	return out, nil
}

// quote is a word for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// programMax bounds umlbox, in bytes: it is held in memory.
const programMax = 256 << 20

// machines are the processors of Go's names for them.
var machines = map[string]elf.Machine{
	"386": elf.EM_386, "amd64": elf.EM_X86_64, "arm": elf.EM_ARM, "arm64": elf.EM_AARCH64, "loong64": elf.EM_LOONGARCH,
	"ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390,
}

// load reads umlbox, which must run on the image's processor.
func load(program, arch string) ([]byte, error) {
	f, err := os.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, programMax+1))
	if err != nil {
		return nil, err
	}
	if len(data) > programMax {
		return nil, fmt.Errorf("%s has more than %d bytes", program, programMax)
	}
	e, err := elf.NewFile(strings.NewReader(string(data)))
	if err != nil {
		return nil, fmt.Errorf("%s is no program: %w", program, err)
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP { // the image need not have what it would load
			return nil, fmt.Errorf("%s needs libraries: build it with CGO_ENABLED=0", program)
		}
	}
	if want, ok := machines[arch]; arch != "" && (!ok || e.Machine != want) {
		return nil, fmt.Errorf("the image is for %s and %s for %s: name one for %s by --umlbox, or take the image without an init by --as-is",
			arch, program, e.Machine, arch)
	}
	return data, nil
}
