package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

type remover struct {
	e                                   *applet.Env
	recursive, force, ask, dir, verbose bool
}

// Rm removes files.
func Rm(e *applet.Env, args []string) error {
	r := &remover{e: e}
	var o applet.Options
	o.Bool(&r.recursive, 'r', "recursive")
	o.Bool(&r.recursive, 'R', "")
	o.Func('f', "force", func() { r.force, r.ask = true, false })
	o.Func('i', "", func() { r.ask, r.force = true, false })
	o.Bool(&r.dir, 'd', "dir")
	o.Bool(&r.verbose, 'v', "verbose")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) == 0 && !r.force {
		return applet.Usagef("missing operand")
	}
	for _, name := range names {
		switch base := filepath.Base(name); {
		case base == "." || base == "..":
			e.Warnf("refusing to remove '.' or '..' directory: skipping %s", applet.Quote(name))
		case filepath.Clean(name) == "/":
			e.Warnf("it is dangerous to operate recursively on '/'")
		default:
			r.remove(name)
		}
	}
	return nil
}

func (r *remover) remove(path string) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) && r.force {
		return
	}
	if err != nil {
		r.fail(path, err)
		return
	}
	if !st.IsDir() {
		if r.ask && !ask(r.e, "remove %s? ", applet.Quote(path)) {
			return
		}
		r.report(path, "removed ", unix.Unlink(path))
		return
	}
	switch {
	case !r.recursive && !r.dir:
		r.fail(path, unix.EISDIR)
		return
	case r.recursive && !r.ask && !r.verbose:
		// Holds directories open, so that nobody swaps one for a link meanwhile.
		if err := os.RemoveAll(path); err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) {
				path = pe.Path
			}
			r.fail(path, err)
		}
		return
	case r.recursive:
		entries, err := os.ReadDir(path)
		if err != nil {
			r.fail(path, err)
			return
		}
		if len(entries) > 0 && r.ask && !ask(r.e, "descend into directory %s? ", applet.Quote(path)) {
			return
		}
		for _, ent := range entries {
			r.remove(join(path, ent.Name()))
		}
	}
	if r.ask && !ask(r.e, "remove directory %s? ", applet.Quote(path)) {
		return
	}
	r.report(path, "removed directory ", unix.Rmdir(path))
}

func (r *remover) report(path, what string, err error) {
	if err != nil {
		r.fail(path, err)
	} else if r.verbose {
		fmt.Fprintln(r.e.Stdout, what+applet.Quote(path))
	}
}

func (r *remover) fail(path string, err error) {
	r.e.Warnf("cannot remove %s: %s", applet.Quote(path), applet.Reason(err))
}

// Rmdir removes empty directories.
func Rmdir(e *applet.Env, args []string) error {
	var parents, verbose bool
	var o applet.Options
	o.Bool(&parents, 'p', "parents")
	o.Bool(&verbose, 'v', "verbose")
	names, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	for _, name := range names {
		for {
			if verbose {
				fmt.Fprintf(e.Stdout, "rmdir: removing directory, %s\n", applet.Quote(name))
			}
			if err := unix.Rmdir(name); err != nil {
				e.Warnf("failed to remove %s: %s", applet.Quote(name), applet.Reason(err))
				break
			}
			up := filepath.Dir(trimSlashes(name))
			if !parents || up == "." || up == "/" || up == name {
				break
			}
			name = up
		}
	}
	return nil
}
