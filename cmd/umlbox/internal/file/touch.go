package file

import (
	"os"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/clock"
	"golang.org/x/sys/unix"
)

// Touch sets the times of files, and makes those that are missing.
func Touch(e *applet.Env, args []string) error {
	var access, modify, noCreate, noDeref bool
	now := unix.Timespec{Nsec: unix.UTIME_NOW}
	atime, mtime := now, now
	var o applet.Options
	o.Bool(&access, 'a', "")
	o.Bool(&modify, 'm', "")
	o.Bool(&noCreate, 'c', "no-create")
	o.Bool(&noDeref, 'h', "no-dereference")
	set := func(parse func(string, time.Time) (time.Time, error)) func(string) error {
		return func(s string) error {
			t, err := parse(s, time.Now())
			if err != nil {
				return err
			}
			atime = unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
			mtime = atime
			return nil
		}
	}
	o.Value('d', "date", set(clock.Parse))
	o.Value('t', "", set(clock.Stamp))
	o.Value('r', "reference", func(path string) error {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		atime, mtime = st.Atim, st.Mtim
		return nil
	})
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return applet.Usagef("missing file operand")
	}
	if access && !modify {
		mtime = unix.Timespec{Nsec: unix.UTIME_OMIT}
	} else if modify && !access {
		atime = unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	flags := 0
	if noDeref {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	for _, name := range names {
		times := []unix.Timespec{atime, mtime}
		err := unix.UtimesNanoAt(unix.AT_FDCWD, name, times, flags)
		if err == unix.ENOENT && (noCreate || noDeref) {
			if !noCreate {
				e.Warnf("setting times of %s: %s", applet.Quote(name), applet.Reason(err))
			}
			continue
		}
		if err == unix.ENOENT {
			f, cerr := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o666)
			if cerr != nil {
				e.Warnf("cannot touch %s: %s", applet.Quote(name), applet.Reason(cerr))
				continue
			}
			f.Close()
			err = unix.UtimesNanoAt(unix.AT_FDCWD, name, times, 0)
		}
		if err != nil {
			e.Warnf("setting times of %s: %s", applet.Quote(name), applet.Reason(err))
		}
	}
	return nil
}
