package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Basename strips directories and a suffix from paths.
func Basename(e *applet.Env, args []string) error {
	var all, zero bool
	var suffix string
	var o applet.Options
	o.Bool(&all, 'a', "multiple")
	o.Value('s', "suffix", func(s string) error { suffix, all = s, true; return nil })
	o.Bool(&zero, 'z', "zero")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	switch {
	case len(names) == 0:
		return applet.Usagef("missing operand")
	case !all && len(names) > 2:
		return applet.Usagef("extra operand %s", applet.Quote(names[2]))
	case !all && len(names) == 2:
		names, suffix = names[:1], names[1]
	}
	for _, name := range names {
		base := name
		if trimmed := strings.TrimRight(name, "/"); trimmed != "" {
			base = trimmed[strings.LastIndexByte(trimmed, '/')+1:]
		} else if name != "" {
			base = "/"
		}
		if cut := strings.TrimSuffix(base, suffix); cut != "" {
			base = cut
		}
		line(e, base, zero)
	}
	return nil
}

// Dirname strips the last component from paths.
func Dirname(e *applet.Env, args []string) error {
	var zero bool
	var o applet.Options
	o.Bool(&zero, 'z', "zero")
	names, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	for _, name := range names {
		dir := "."
		trimmed := strings.TrimRight(name, "/")
		if i := strings.LastIndexByte(trimmed, '/'); i >= 0 {
			dir = strings.TrimRight(trimmed[:i], "/")
			if dir == "" {
				dir = "/"
			}
		} else if trimmed == "" && name != "" {
			dir = "/"
		}
		line(e, dir, zero)
	}
	return nil
}

func line(e *applet.Env, s string, zero bool) {
	e.Stdout.WriteString(s)
	if zero {
		e.Stdout.WriteByte(0)
	} else {
		e.Stdout.WriteByte('\n')
	}
}

// Pwd names the working directory.
func Pwd(e *applet.Env, args []string) error {
	var o applet.Options
	logical := false
	o.Func('L', "logical", func() { logical = true })
	o.Func('P', "physical", func() { logical = false })
	if _, err := o.Parse(args); err != nil {
		return err
	}
	dir, err := unix.Getwd()
	if logical {
		dir, err = os.Getwd() // $PWD, when it is right
	}
	if err != nil {
		return fmt.Errorf("cannot tell the working directory: %s", applet.Reason(err))
	}
	line(e, dir, false)
	return nil
}

// resolve makes path absolute and follows its links. missing says how many
// components may be: 'e' none, 'f' the last, 'm' all.
func resolve(path string, missing byte) (string, error) {
	if path == "" {
		return "", &fs.PathError{Op: "resolve", Path: path, Err: unix.ENOENT}
	}
	slash := strings.HasSuffix(path, "/")
	abs := path
	if !filepath.IsAbs(path) {
		dir, err := unix.Getwd()
		if err != nil {
			return "", err
		}
		abs = dir + "/" + path
	}
	rest := strings.Split(abs, "/")
	done := "/"
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = filepath.Dir(done)
			continue
		}
		next := join(done, name)
		st, err := os.Lstat(next)
		if err != nil {
			last := !more(rest)
			if missing == 'm' || missing == 'f' && last && errors.Is(err, fs.ErrNotExist) {
				done = next
				continue
			}
			return "", &fs.PathError{Op: "resolve", Path: path, Err: errors.Unwrap(err)}
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			if !st.IsDir() && (more(rest) || slash) && missing != 'm' {
				return "", &fs.PathError{Op: "resolve", Path: path, Err: unix.ENOTDIR}
			}
			done = next
			continue
		}
		if links++; links > 40 {
			return "", &fs.PathError{Op: "resolve", Path: path, Err: unix.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}

// more says whether another component follows.
func more(rest []string) bool {
	for _, r := range rest {
		if r != "" && r != "." {
			return true
		}
	}
	return false
}

// Readlink shows where links point.
func Readlink(e *applet.Env, args []string) error {
	var mode byte
	var noNewline, verbose, zero bool
	var o applet.Options
	o.Func('f', "canonicalize", func() { mode = 'f' })
	o.Func('e', "canonicalize-existing", func() { mode = 'e' })
	o.Func('m', "canonicalize-missing", func() { mode = 'm' })
	o.Bool(&noNewline, 'n', "no-newline")
	o.Bool(&verbose, 'v', "verbose")
	o.Bool(&zero, 'z', "zero")
	names, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var target string
		if mode != 0 {
			target, err = resolve(name, mode)
		} else {
			target, err = os.Readlink(name)
		}
		switch {
		case err != nil && verbose:
			e.Warn(err)
		case err != nil:
			e.Fail()
		case noNewline && len(names) == 1:
			e.Stdout.WriteString(target)
		default:
			line(e, target, zero)
		}
	}
	return nil
}

// Realpath shows absolute paths without links.
func Realpath(e *applet.Env, args []string) error {
	mode := byte('f')
	var noLinks, quiet, zero bool
	var o applet.Options
	o.Func('e', "canonicalize-existing", func() { mode = 'e' })
	o.Func('m', "canonicalize-missing", func() { mode = 'm' })
	o.Bool(&noLinks, 's', "no-symlinks")
	o.Bool(&quiet, 'q', "quiet")
	o.Bool(&zero, 'z', "zero")
	names, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var path string
		if noLinks {
			path, err = filepath.Abs(name)
		} else {
			path, err = resolve(name, mode)
		}
		switch {
		case err == nil:
			line(e, path, zero)
		case quiet:
			e.Fail()
		default:
			e.Warn(err)
		}
	}
	return nil
}
