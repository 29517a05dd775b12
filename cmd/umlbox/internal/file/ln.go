package file

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Ln makes links.
func Ln(e *applet.Env, args []string) error {
	var symbolic, force, verbose, relative, noDeref, follow bool
	var o applet.Options
	o.Bool(&symbolic, 's', "symbolic")
	o.Bool(&force, 'f', "force")
	o.Bool(&verbose, 'v', "verbose")
	o.Bool(&relative, 'r', "relative")
	o.Bool(&noDeref, 'n', "no-dereference")
	o.Bool(&follow, 'L', "logical")
	d := destination{single: true}
	d.options(&o)
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if noDeref && len(operands) == 2 && d.dir == "" {
		// A link to a directory is replaced itself, not filled.
		if st, err := os.Lstat(operands[1]); err == nil && st.Mode()&os.ModeSymlink != 0 {
			d.noDir = true
		}
	}
	return d.each(operands, func(target, name string) error {
		kind := "hard"
		if symbolic {
			kind = "symbolic"
		}
		fail := func(err error) error {
			e.Warnf("failed to create %s link %s: %s", kind, applet.Quote(name), applet.Reason(err))
			return nil
		}
		text := target
		if relative && symbolic {
			rel, err := relativeTo(name, target)
			if err != nil {
				return fail(err)
			}
			text = rel
		}
		make := func(at string) error {
			switch {
			case symbolic:
				return os.Symlink(text, at)
			case follow:
				return unix.Linkat(unix.AT_FDCWD, target, unix.AT_FDCWD, at, unix.AT_SYMLINK_FOLLOW)
			}
			return os.Link(target, at)
		}
		var a, b unix.Stat_t
		if force && !symbolic && unix.Lstat(target, &a) == nil && unix.Lstat(name, &b) == nil && inodeOf(&a) == inodeOf(&b) {
			e.Warnf("%s and %s are the same file", applet.Quote(target), applet.Quote(name))
			return nil
		}
		err := make(name)
		if force && os.IsExist(err) {
			// Made beside it and renamed, so that the name is never missing.
			tmp := fmt.Sprintf("%s.ln%d", name, os.Getpid())
			if err = make(tmp); err == nil {
				if err = os.Rename(tmp, name); err != nil {
					os.Remove(tmp)
				}
			}
		}
		if err != nil {
			return fail(err)
		}
		if verbose {
			arrow := "=>"
			if symbolic {
				arrow = "->"
			}
			fmt.Fprintf(e.Stdout, "%s %s %s\n", applet.Quote(name), arrow, applet.Quote(text))
		}
		return nil
	})
}

// relativeTo is the path of target as seen from the directory of name.
func relativeTo(name, target string) (string, error) {
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	abs, err := filepath.Abs(target)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(real, filepath.Base(abs))
	}
	return filepath.Rel(dir, abs)
}

// Link is link(2).
func Link(e *applet.Env, args []string) error {
	var o applet.Options
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) != 2 {
		return applet.Usagef("wrong number of operands")
	}
	if err := os.Link(operands[0], operands[1]); err != nil {
		return fmt.Errorf("cannot create link %s to %s: %s", applet.Quote(operands[1]), applet.Quote(operands[0]), applet.Reason(err))
	}
	return nil
}

// Unlink is unlink(2).
func Unlink(e *applet.Env, args []string) error {
	var o applet.Options
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) != 1 {
		return applet.Usagef("wrong number of operands")
	}
	if err := unix.Unlink(operands[0]); err != nil {
		return fmt.Errorf("cannot unlink %s: %s", applet.Quote(operands[0]), applet.Reason(err))
	}
	return nil
}
