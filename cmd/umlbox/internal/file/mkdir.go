package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/filemode"
	"golang.org/x/sys/unix"
)

// Mkdir makes directories.
func Mkdir(e *applet.Env, args []string) error {
	var parents, verbose bool
	var modeText string
	var o applet.Options
	o.Bool(&parents, 'p', "parents")
	o.Bool(&verbose, 'v', "verbose")
	o.String(&modeText, 'm', "mode")
	names, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	mode := filemode.Number(0o777)
	if modeText != "" {
		if mode, err = parseMode(modeText); err != nil {
			return err
		}
	}
	made := func(name string) {
		if verbose {
			fmt.Fprintf(e.Stdout, "mkdir: created directory %s\n", applet.Quote(name))
		}
	}
	for _, name := range names {
		if parents {
			if err := mkParents(name, made); err != nil {
				e.Warnf("cannot create directory %s: %s", applet.Quote(err.Path), applet.Reason(err.Err))
				continue
			}
		}
		perm := mode.Apply(unix.S_IFDIR|0o777, umask())
		err := unix.Mkdir(name, perm&0o1777)
		if err == unix.EEXIST && parents {
			if st, serr := os.Stat(name); serr == nil && st.IsDir() {
				continue
			}
		}
		if err == nil && modeText != "" {
			err = unix.Chmod(name, perm) // whatever the umask
		}
		if err != nil {
			e.Warnf("cannot create directory %s: %s", applet.Quote(name), applet.Reason(err))
			continue
		}
		made(name)
	}
	return nil
}

// mkParents makes the directories above path.
func mkParents(path string, made func(string)) *fs.PathError {
	dir := filepath.Dir(trimSlashes(path))
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return &fs.PathError{Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	if up := filepath.Dir(dir); up != dir {
		if err := mkParents(dir, made); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return &fs.PathError{Path: dir, Err: err}
	}
	made(dir)
	return nil
}

// Mkfifo makes named pipes.
func Mkfifo(e *applet.Env, args []string) error {
	var o applet.Options
	n := newNodes(&o)
	names, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := n.make(name, unix.S_IFIFO, 0); err != nil {
			e.Warnf("cannot create fifo %s: %s", applet.Quote(name), applet.Reason(err))
		}
	}
	return nil
}

// nodes makes nodes, with the mode that -m gives.
type nodes struct {
	mode  filemode.Change
	given bool
}

// newNodes declares -m.
func newNodes(o *applet.Options) *nodes {
	n := &nodes{mode: filemode.Number(0o666)}
	o.Value('m', "mode", func(s string) (err error) {
		n.given = true
		n.mode, err = parseMode(s)
		return err
	})
	return n
}

func (n *nodes) make(name string, kind uint32, dev uint64) error {
	perm := n.mode.Apply(0o666, umask())
	err := unix.Mknod(name, kind|perm&0o777, int(dev))
	if err == nil && n.given {
		err = unix.Chmod(name, perm)
	}
	return err
}

// Mknod makes device nodes and named pipes.
func Mknod(e *applet.Env, args []string) error {
	var o applet.Options
	n := newNodes(&o)
	operands, err := o.ParseSome(args, 2)
	if err != nil {
		return err
	}
	kind, want := uint32(0), 4
	switch operands[1] {
	case "b":
		kind = unix.S_IFBLK
	case "c", "u":
		kind = unix.S_IFCHR
	case "p":
		kind, want = unix.S_IFIFO, 2
	default:
		return applet.Usagef("invalid device type %s", applet.Quote(operands[1]))
	}
	if len(operands) != want {
		return applet.Usagef("wrong number of operands")
	}
	var dev uint64
	if want == 4 {
		major, err1 := strconv.ParseUint(operands[2], 0, 12)
		minor, err2 := strconv.ParseUint(operands[3], 0, 20)
		if err1 != nil || err2 != nil {
			return applet.Usagef("invalid device %s %s", operands[2], operands[3])
		}
		dev = unix.Mkdev(uint32(major), uint32(minor))
	}
	if err := n.make(operands[0], kind, dev); err != nil {
		return &fs.PathError{Path: operands[0], Err: err}
	}
	return nil
}
