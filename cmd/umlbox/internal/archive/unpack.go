package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// unpacker makes files of members.
type unpacker struct {
	t *tape
	// Directories get their mode and times last, and links that point out of
	// the place of extraction are made last: no member can be written
	// through one.
	dirs  []*later
	links []*later
}

type later struct {
	path string
	h    *tar.Header
}

func (u *unpacker) member(h *tar.Header, r io.Reader) error {
	t := u.t
	path := t.memberName(h.Name)
	if path == "" {
		return nil
	}
	if t.verbose {
		out := io.Writer(t.e.Stdout)
		if t.toStdout {
			out = t.e.Stderr
		}
		fmt.Fprintln(out, h.Name)
	}
	if t.toStdout {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		_, err := t.e.Stdout.ReadFrom(r)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return u.directory(path, h)
	}
	if _, err := os.Lstat(path); err == nil {
		if t.keepOld {
			return unix.EEXIST
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.regular(path, h, r)
	case tar.TypeLink:
		target := t.memberName(h.Linkname)
		if target == "" {
			return fmt.Errorf("hard link to %s", applet.Quote(h.Linkname))
		}
		for _, l := range u.links {
			if l.path == target { // a link to a link that is still to be made
				u.links = append(u.links, &later{path, &tar.Header{Typeflag: tar.TypeLink, Linkname: target}})
				return nil
			}
		}
		return os.Link(target, path)
	case tar.TypeSymlink:
		if !t.absolute && outward(h.Linkname) {
			u.links = append(u.links, &later{path, h})
			return nil
		}
		if err := os.Symlink(h.Linkname, path); err != nil {
			return err
		}
	case tar.TypeChar:
		return u.node(path, h, unix.S_IFCHR)
	case tar.TypeBlock:
		return u.node(path, h, unix.S_IFBLK)
	case tar.TypeFifo:
		return u.node(path, h, unix.S_IFIFO)
	default:
		return fmt.Errorf("unknown type %q of member", h.Typeflag)
	}
	return u.attributes(path, h)
}

// outward says whether a symbolic link may lead out of the directory that is
// extracted into: with "..", also where it seems to stay inside, for the
// directory it stands in may itself be reached through a link.
func outward(target string) bool {
	return filepath.IsAbs(target) || slices.Contains(strings.Split(target, "/"), "..")
}

func (u *unpacker) directory(path string, h *tar.Header) error {
	err := os.Mkdir(path, os.FileMode(h.Mode)&0o777|0o700)
	if errors.Is(err, fs.ErrExist) {
		st, serr := os.Stat(path)
		if serr == nil && st.IsDir() {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	u.dirs = append(u.dirs, &later{path, h})
	return nil
}

func (u *unpacker) regular(path string, h *tar.Header, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(h.Mode)&0o777&^0o077|0o200)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return u.attributes(path, h)
}

func (u *unpacker) node(path string, h *tar.Header, kind uint32) error {
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	if err := unix.Mknod(path, kind|uint32(h.Mode)&0o777, int(dev)); err != nil {
		return err
	}
	return u.attributes(path, h)
}

// attributes gives path its owner, mode, extended attributes and times.
func (u *unpacker) attributes(path string, h *tar.Header) error {
	t := u.t
	link := h.Typeflag == tar.TypeSymlink
	if t.sameOwner {
		uid, gid := h.Uid, h.Gid
		if !t.numeric {
			if n, ok := t.db.User(h.Uname); ok && h.Uname != "" {
				uid = int(n.UID)
			}
			if n, ok := t.db.GID(h.Gname); ok && h.Gname != "" {
				gid = int(n)
			}
		}
		if err := os.Lchown(path, uid, gid); err != nil {
			return err
		}
	}
	if !link {
		mode := uint32(h.Mode) & 0o7777
		if !t.samePerm {
			mask := unix.Umask(0)
			unix.Umask(mask)
			mode &^= uint32(mask) | 0o6000
		}
		if err := unix.Chmod(path, mode); err != nil {
			return err
		}
	}
	if t.xattrs {
		for name, value := range h.PAXRecords {
			if attr, ok := strings.CutPrefix(name, xattrRecord); ok {
				if err := unix.Lsetxattr(path, attr, []byte(value), 0); err != nil {
					return fmt.Errorf("extended attribute %s: %s", attr, applet.Reason(err))
				}
			}
		}
	}
	if t.noTimes {
		return nil
	}
	ts := unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Nsec: unix.UTIME_NOW}, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// finish makes the links and sets the directories' attributes, the deepest
// first.
func (u *unpacker) finish() {
	for _, l := range u.links {
		var err error
		if l.h.Typeflag == tar.TypeLink {
			err = os.Link(l.h.Linkname, l.path)
		} else if err = os.Symlink(l.h.Linkname, l.path); err == nil {
			err = u.attributes(l.path, l.h)
		}
		if err != nil {
			u.t.e.Warnf("%s: %s", l.path, applet.Reason(err))
		}
	}
	for _, d := range slices.Backward(u.dirs) {
		if err := u.attributes(d.path, d.h); err != nil {
			u.t.e.Warnf("%s: %s", d.path, applet.Reason(err))
		}
	}
}
