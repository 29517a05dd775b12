package system

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Lsmod lists the modules that are loaded.
func Lsmod(e *applet.Env, args []string) error {
	var o applet.Options
	if _, err := o.Parse(args); err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/modules")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	e.Stdout.WriteString("Module                  Size  Used by\n")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		size, _ := strconv.ParseInt(f[1], 10, 64)
		by := strings.TrimSuffix(strings.TrimPrefix(f[3], "-"), ",")
		fmt.Fprintln(e.Stdout, strings.TrimRight(fmt.Sprintf("%-19s %8d  %s %s", f[0], size, f[2], by), " "))
	}
	return nil
}

// Modprobe loads modules with those they need. What is built in needs nothing.
func Modprobe(e *applet.Env, args []string) error {
	var remove, quiet, all, dry bool
	var o applet.Options
	o.InOrder = true
	o.Bool(&remove, 'r', "remove")
	o.Bool(&quiet, 'q', "quiet")
	o.Bool(&all, 'a', "all")
	o.Bool(&dry, 'n', "dry-run")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return applet.Usagef("missing module")
	}
	if remove {
		return removeModules(e, names, 0)
	}
	params := ""
	if !all {
		params = strings.Join(names[1:], " ")
		names = names[:1]
	}
	for _, name := range names {
		if builtin(name) || loaded(name) {
			continue
		}
		err := probe(name, params, func(path, params string) error {
			if dry {
				fmt.Fprintln(e.Stdout, strings.TrimRight("insmod "+path+" "+params, " "))
				return nil
			}
			return insert(path, params)
		})
		switch {
		case err == nil:
		case quiet:
			e.Fail()
		default:
			e.Warn(err)
		}
	}
	return nil
}

// moduleDir is where the running kernel's modules are.
func moduleDir() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "/lib/modules"
	}
	return "/lib/modules/" + unix.ByteSliceToString(u.Release[:])
}

// probe loads the modules that name means, by itself or through the patterns
// of modules.alias, behind those that modules.dep says it needs.
func probe(name, params string, load func(path, params string) error) error {
	dir := moduleDir()
	needs, err := readDependencies(dir + "/modules.dep")
	if err != nil {
		return fmt.Errorf("module %s not found: %s", name, applet.Message(err))
	}
	targets := []string{canonical(name)}
	if _, ok := needs[targets[0]]; !ok {
		targets = aliases(dir+"/modules.alias", name)
	}
	if len(targets) == 0 {
		return fmt.Errorf("module %s not found in directory %s", name, dir)
	}
	for _, t := range targets {
		if builtin(t) || loaded(t) {
			continue
		}
		paths, ok := needs[t]
		if !ok {
			return fmt.Errorf("module %s not found in directory %s", t, dir)
		}
		// modules.dep lists what comes first last.
		for i, p := range slices.Backward(paths) {
			if i > 0 && loaded(moduleName(p)) {
				continue
			}
			with := ""
			if i == 0 {
				with = params
			}
			if err := load(path.Join(dir, p), with); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("could not insert %s: %s", applet.Quote(moduleName(p)), applet.Reason(err))
			}
		}
	}
	return nil
}

// readDependencies reads modules.dep: for every module its own path and those
// of the modules it needs.
func readDependencies(file string) (map[string][]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	needs := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if own, rest, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			needs[moduleName(own)] = append([]string{own}, strings.Fields(rest)...)
		}
	}
	return needs, nil
}

// aliases lists the modules that modules.alias gives for name.
func aliases(file, name string) []string {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			continue
		}
		if ok, _ := path.Match(f[1], name); ok || canonical(f[1]) == canonical(name) {
			found = append(found, canonical(f[2]))
		}
	}
	return found
}

// moduleName is the name of the module in a file.
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(base)
}

// insert loads one module file, which may be packed with gzip.
func insert(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if !strings.HasSuffix(file, ".gz") {
		err := unix.FinitModule(int(f.Fd()), params, 0)
		if err != unix.ENOSYS {
			return err
		}
	}
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return err
		}
	}
	image, err := io.ReadAll(io.LimitReader(r, maxModule))
	if err != nil {
		return err
	}
	return unix.InitModule(image, params)
}

// maxModule bounds a module's file.
const maxModule = 256 << 20

func canonical(module string) string { return strings.ReplaceAll(module, "-", "_") }

// builtin says whether the kernel's list of what is compiled into it has name.
func builtin(name string) bool {
	b, err := os.ReadFile(moduleDir() + "/modules.builtin")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if moduleName(strings.TrimSpace(line)) == canonical(name) {
			return true
		}
	}
	return false
}

func loaded(name string) bool {
	b, err := os.ReadFile("/proc/modules")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if m, _, _ := strings.Cut(line, " "); m == canonical(name) {
			return true
		}
	}
	return false
}

// Insmod loads a module from a file.
func Insmod(e *applet.Env, args []string) error {
	var o applet.Options
	o.InOrder = true
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) == 0 {
		return applet.Usagef("missing file")
	}
	if err := insert(operands[0], strings.Join(operands[1:], " ")); err != nil {
		return fmt.Errorf("cannot insert %s: %s", applet.Quote(operands[0]), applet.Reason(err))
	}
	return nil
}

// Rmmod removes modules.
func Rmmod(e *applet.Env, args []string) error {
	var force bool
	var o applet.Options
	o.Bool(&force, 'f', "force")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return applet.Usagef("missing module")
	}
	flags := 0
	if force {
		flags = unix.O_TRUNC
	}
	return removeModules(e, names, flags)
}

func removeModules(e *applet.Env, names []string, flags int) error {
	for _, name := range names {
		name = moduleName(name)
		if err := unix.DeleteModule(name, unix.O_NONBLOCK|flags); err != nil {
			e.Warnf("cannot remove %s: %s", applet.Quote(name), applet.Reason(err))
		}
	}
	return nil
}
