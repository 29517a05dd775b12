package file

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/filemode"
	"golang.org/x/sys/unix"
)

// Chmod changes permissions.
func Chmod(e *applet.Env, args []string) error {
	var recursive, verbose, changes, quiet bool
	var reference, minus string
	// A mode like -w looks like options: take the first such word out.
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if len(arg) > 1 && arg[0] == '-' && strings.Trim(arg[1:], "rwxXstugo,+-=") == "" && minus == "" {
			minus = arg
			args = append(append([]string{}, args[:i]...), args[i+1:]...)
			break
		}
	}
	var o applet.Options
	o.Bool(&recursive, 'R', "recursive")
	o.Bool(&verbose, 'v', "verbose")
	o.Bool(&changes, 'c', "changes")
	o.Bool(&quiet, 'f', "silent")
	o.String(&reference, 0, "reference")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	var mode filemode.Change
	switch {
	case reference != "":
		var st unix.Stat_t
		if err := unix.Stat(reference, &st); err != nil {
			return fmt.Errorf("%s: %s", reference, applet.Reason(err))
		}
		mode = filemode.Number(st.Mode & 0o7777)
	case minus != "":
		mode, err = parseMode(minus)
	case len(operands) > 0:
		mode, err = parseMode(operands[0])
		operands = operands[1:]
	}
	if err != nil {
		return err
	}
	if len(operands) == 0 {
		return applet.Usagef("missing operand")
	}
	eachBelow(e, operands, recursive, func(path string) {
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		if err == nil {
			now := mode.Apply(st.Mode, umask())
			if err = unix.Chmod(path, now); err == nil {
				old := st.Mode & 0o7777
				if old != now && (verbose || changes) {
					fmt.Fprintf(e.Stdout, "mode of %s changed from %04o (%s) to %04o (%s)\n", applet.Quote(path),
						old, filemode.String(st.Mode)[1:], now, filemode.String(now)[1:])
				} else if verbose {
					fmt.Fprintf(e.Stdout, "mode of %s retained as %04o (%s)\n", applet.Quote(path), old, filemode.String(st.Mode)[1:])
				}
				return
			}
		}
		if quiet {
			e.Fail()
			return
		}
		e.Warnf("cannot access %s: %s", applet.Quote(path), applet.Reason(err))
	})
	return nil
}

// eachBelow calls f for every operand and, if recursive, for all that is
// below one, but not for symbolic links there. A directory comes after what
// it contains: f may close it to us.
func eachBelow(e *applet.Env, operands []string, recursive bool, f func(path string)) {
	for _, op := range operands {
		if !recursive {
			f(op)
			continue
		}
		var walk func(path string, ent fs.DirEntry)
		walk = func(path string, ent fs.DirEntry) {
			if ent != nil && ent.Type()&fs.ModeSymlink != 0 {
				return
			}
			if ent == nil || ent.IsDir() {
				entries, err := os.ReadDir(path)
				if err != nil && ent != nil {
					e.Warnf("cannot read directory %s: %s", applet.Quote(path), applet.Reason(err))
				}
				for _, child := range entries {
					walk(filepath.Join(path, child.Name()), child)
				}
			}
			f(path)
		}
		walk(op, nil)
	}
}

// Chown changes owners and groups.
func Chown(e *applet.Env, args []string) error { return chown(e, args, false) }

// Chgrp changes groups.
func Chgrp(e *applet.Env, args []string) error { return chown(e, args, true) }

func chown(e *applet.Env, args []string, group bool) error {
	var recursive, verbose, quiet, noDeref bool
	var reference string
	var o applet.Options
	o.Bool(&recursive, 'R', "recursive")
	o.Bool(&verbose, 'v', "verbose")
	o.Bool(&quiet, 'f', "silent")
	o.Bool(&noDeref, 'h', "no-dereference")
	o.String(&reference, 0, "reference")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	uid, gid := -1, -1
	switch {
	case reference != "":
		var st unix.Stat_t
		if err := unix.Stat(reference, &st); err != nil {
			return fmt.Errorf("%s: %s", reference, applet.Reason(err))
		}
		gid = int(st.Gid)
		if !group {
			uid = int(st.Uid)
		}
	case len(operands) > 0:
		spec := operands[0]
		operands = operands[1:]
		if group {
			spec = ":" + spec
		}
		if uid, gid, err = owners(spec); err != nil {
			return err
		}
	}
	if len(operands) == 0 {
		return applet.Usagef("missing operand")
	}
	change := func(path string) {
		call := unix.Chown
		if noDeref {
			call = unix.Lchown
		}
		err := call(path, uid, gid)
		switch {
		case err != nil && quiet:
			e.Fail()
		case err != nil:
			what := "ownership"
			if group {
				what = "group"
			}
			e.Warnf("changing %s of %s: %s", what, applet.Quote(path), applet.Reason(err))
		case verbose:
			fmt.Fprintf(e.Stdout, "ownership of %s is %d:%d\n", applet.Quote(path), uid, gid)
		}
	}
	if !recursive {
		eachBelow(e, operands, false, change)
		return nil
	}
	// Below a directory links themselves change, never what they point at.
	for _, op := range operands {
		err := filepath.WalkDir(op, func(path string, ent fs.DirEntry, err error) error {
			if err != nil {
				e.Warn(err)
				return nil
			}
			if ent.Type()&fs.ModeSymlink != 0 {
				if err := unix.Lchown(path, uid, gid); err != nil {
					e.Warn(&fs.PathError{Op: "chown", Path: path, Err: err})
				}
				return nil
			}
			change(path)
			return nil
		})
		e.Warn(err)
	}
	return nil
}

// owners reads USER, USER:GROUP, USER: (the user's own group) and :GROUP; -1
// stands for what does not change.
func owners(spec string) (uid, gid int, err error) {
	db := account.Load()
	name, group, colon := strings.Cut(spec, ":")
	uid, gid = -1, -1
	if name != "" {
		n, ok := db.UID(name)
		if !ok {
			return 0, 0, fmt.Errorf("invalid user: %s", applet.Quote(spec))
		}
		uid = int(n)
	}
	switch {
	case group != "":
		n, ok := db.GID(group)
		if !ok {
			return 0, 0, fmt.Errorf("invalid group: %s", applet.Quote(strings.TrimPrefix(spec, ":")))
		}
		gid = int(n)
	case colon && name != "":
		u, ok := db.User(name)
		if !ok {
			return 0, 0, fmt.Errorf("invalid spec: %s", applet.Quote(spec))
		}
		gid = int(u.GID)
	}
	return uid, gid, nil
}

// parseMode reads a change of permissions.
func parseMode(text string) (filemode.Change, error) {
	m, err := filemode.Parse(text)
	if err != nil {
		return m, applet.Usagef("invalid mode: %s", applet.Quote(text))
	}
	return m, nil
}

func umask() uint32 {
	mask := unix.Umask(0)
	unix.Umask(mask)
	return uint32(mask)
}
