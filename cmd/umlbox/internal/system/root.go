package system

import (
	"fmt"
	"os"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// PivotRoot makes a mount the root of the mount namespace.
func PivotRoot(e *applet.Env, args []string) error {
	var o applet.Options
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) != 2 {
		return applet.Usagef("the new root and the place for the old one are needed")
	}
	if err := unix.PivotRoot(operands[0], operands[1]); err != nil {
		return fmt.Errorf("failed to change root from %s to %s: %s", applet.Quote(operands[0]), applet.Quote(operands[1]), applet.Reason(err))
	}
	return nil
}

// SwitchRoot leaves an initial RAM disk: it moves the system's mounts to the
// new root, removes what the old one holds, and becomes the new init.
func SwitchRoot(e *applet.Env, args []string) error {
	var console string
	var o applet.Options
	o.InOrder = true
	o.String(&console, 'c', "console")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) < 2 {
		return applet.Usagef("the new root and its init are needed")
	}
	dir, argv := operands[0], operands[1:]
	if os.Getpid() != 1 {
		return fmt.Errorf("must be process 1")
	}
	var old, now unix.Stat_t
	var fs unix.Statfs_t
	if err := unix.Stat("/", &old); err != nil {
		return err
	}
	if err := unix.Stat(dir, &now); err != nil {
		return fmt.Errorf("%s: %s", dir, applet.Reason(err))
	}
	if old.Dev == now.Dev {
		return fmt.Errorf("%s: not a mount point", dir)
	}
	// Nothing else than a RAM disk may lose its files.
	if err := unix.Statfs("/", &fs); err != nil {
		return err
	}
	ram := int64(fs.Type) == unix.RAMFS_MAGIC || int64(fs.Type) == unix.TMPFS_MAGIC
	for _, m := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(m, strings.TrimRight(dir, "/")+m, "", unix.MS_MOVE, ""); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			e.Warnf("moving %s: %s", m, applet.Reason(err))
		}
	}
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		err  func() error
	}{
		{"chdir", func() error { return unix.Chdir(dir) }},
		{"mount", func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") }},
		{"chroot", func() error { return unix.Chroot(".") }},
		{"chdir", func() error { return unix.Chdir("/") }},
	} {
		if err := step.err(); err != nil {
			return fmt.Errorf("%s: %s: %s", dir, step.what, applet.Reason(err))
		}
	}
	if ram {
		if err := empty(root, uint64(old.Dev)); err != nil {
			e.Warnf("the old root keeps files: %s", applet.Reason(err))
		}
	}
	unix.Close(root)
	if console != "" {
		if fd, err := unix.Open(console, unix.O_RDWR, 0); err == nil {
			for i := range 3 {
				unix.Dup3(fd, i, 0)
			}
		} else {
			e.Warnf("%s: %s", console, applet.Reason(err))
		}
	}
	return replace(e, argv)
}

// empty removes what a directory holds, staying on its file system.
func empty(dir int, dev uint64) error {
	fd, err := unix.Dup(dir)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "old root")
	names, err := f.Readdirnames(-1)
	f.Close()
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || uint64(st.Dev) != dev {
			continue
		}
		flags := 0
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
			sub, serr := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if serr != nil {
				err = serr
				continue
			}
			if serr := empty(sub, dev); serr != nil {
				err = serr
			}
			unix.Close(sub)
		}
		if uerr := unix.Unlinkat(dir, name, flags); uerr != nil {
			err = uerr
		}
	}
	return err
}
