package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Mv renames files, and moves them between file systems by copying.
func Mv(e *applet.Env, args []string) error {
	var interactive, noClobber, update, verbose bool
	var o applet.Options
	o.Func('f', "force", func() { interactive, noClobber = false, false })
	o.Func('i', "interactive", func() { interactive, noClobber = true, false })
	o.Func('n', "no-clobber", func() { interactive, noClobber = false, true })
	o.Bool(&update, 'u', "update")
	o.Bool(&verbose, 'v', "verbose")
	var d destination
	d.options(&o)
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	return d.each(operands, func(src, dst string) error {
		src = trimSlashes(src)
		var st, old unix.Stat_t
		if err := unix.Lstat(src, &st); err != nil {
			e.Warnf("cannot stat %s: %s", applet.Quote(src), applet.Reason(err))
			return nil
		}
		if unix.Lstat(dst, &old) == nil {
			switch {
			case inodeOf(&st) == inodeOf(&old) && filepath.Clean(src) == filepath.Clean(dst):
				e.Warnf("%s and %s are the same file", applet.Quote(src), applet.Quote(dst))
				return nil
			case noClobber, update && old.Mtim.Nano() >= st.Mtim.Nano():
				return nil
			case interactive && !ask(e, "overwrite %s? ", applet.Quote(dst)):
				return nil
			}
		}
		err := unix.Rename(src, dst)
		if err == unix.EXDEV {
			move(e, src, dst, &st)
			return nil
		}
		switch {
		case err == unix.EINVAL && st.Mode&unix.S_IFMT == unix.S_IFDIR:
			e.Warnf("cannot move %s to a subdirectory of itself, %s", applet.Quote(src), applet.Quote(dst))
		case err == unix.EISDIR:
			e.Warnf("cannot overwrite directory %s with non-directory", applet.Quote(dst))
		case err == unix.ENOTDIR && old.Mode != 0:
			e.Warnf("cannot overwrite non-directory %s with directory %s", applet.Quote(dst), applet.Quote(src))
		case err != nil:
			e.Warnf("cannot move %s to %s: %s", applet.Quote(src), applet.Quote(dst), applet.Reason(err))
		case verbose:
			fmt.Fprintf(e.Stdout, "renamed %s -> %s\n", applet.Quote(src), applet.Quote(dst))
		}
		return nil
	})
}

// move copies with every attribute, and removes the source when all of it
// arrived.
func move(e *applet.Env, src, dst string, st *unix.Stat_t) {
	err := os.Remove(dst)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.Warnf("cannot replace %s: %s", applet.Quote(dst), applet.Reason(err))
		return
	}
	c := &copier{e: e, verb: "move", recursive: true, follow: 'P', mode: true, owner: true, times: true, links: true, xattrs: true}
	c.start()
	if !c.copy(src, dst, true) {
		return
	}
	if err := os.RemoveAll(src); err != nil {
		e.Warnf("cannot remove %s: %s", applet.Quote(src), applet.Reason(err))
	}
}

func trimSlashes(path string) string {
	if t := strings.TrimRight(path, "/"); t != "" {
		return t
	}
	return path
}
