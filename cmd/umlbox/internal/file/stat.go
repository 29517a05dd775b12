package file

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/filemode"
	"golang.org/x/sys/unix"
)

// Stat shows what the file system knows about files.
func Stat(e *applet.Env, args []string) error {
	var follow, system, terse bool
	format, escapes := "", false
	var o applet.Options
	o.Bool(&follow, 'L', "dereference")
	o.Bool(&system, 'f', "file-system")
	o.Bool(&terse, 't', "terse")
	o.Value('c', "format", func(s string) error { format, escapes = s+"\n", false; return nil })
	o.Value(0, "printf", func(s string) error { format, escapes = s, true; return nil })
	names, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	if escapes {
		format = printfEscapes(format)
	}
	db := account.Load()
	for _, name := range names {
		if system {
			var st unix.Statfs_t
			if err := unix.Statfs(name, &st); err != nil {
				e.Warnf("cannot read file system information for %s: %s", applet.Quote(name), applet.Reason(err))
				continue
			}
			f := format
			if f == "" && terse {
				f = "%n %i %l %t %s %S %b %f %a %c %d\n"
			} else if f == "" {
				f = "  File: \"%n\"\n    ID: %-8i Namelen: %-7l Type: %T\n" +
					"Block size: %-10s Fundamental block size: %S\n" +
					"Blocks: Total: %-10b Free: %-10f Available: %a\n" +
					"Inodes: Total: %-10c Free: %d\n"
			}
			expand(e, f, func(c byte) (string, bool) { return statfsField(&st, name, c) })
			continue
		}
		s := statx{name: name, db: &db}
		if err := s.read(follow); err != nil {
			e.Warnf("cannot statx %s: %s", applet.Quote(name), applet.Reason(err))
			continue
		}
		f := format
		if f == "" && terse {
			f = "%n %s %b %f %u %g %D %i %h %t %T %X %Y %Z %W %o\n"
		} else if f == "" {
			f = "  File: %N\n  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\n" +
				"Device: %Hd,%Ld\tInode: %-11i Links: "
			if kind := s.st.Mode & unix.S_IFMT; kind == unix.S_IFCHR || kind == unix.S_IFBLK {
				f += "%-5h Device type: %Hr,%Lr\n"
			} else {
				f += "%h\n"
			}
			f += "Access: (%04a/%10.10A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\n" +
				"Access: %x\nModify: %y\nChange: %z\n Birth: %w\n"
			f = strings.Replace(f, "%N", "%n%l", 1)
		}
		expand(e, f, s.field)
	}
	return nil
}

// expand writes a format whose conversions field resolves; a conversion is %,
// the flags, width and precision of printf, and one letter, behind H or L for
// the major and minor number.
func expand(e *applet.Env, format string, field func(byte) (string, bool)) {
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			e.Stdout.WriteByte(format[i])
			continue
		}
		end := i + 1
		for end < len(format)-1 && strings.IndexByte("-+ #0123456789.", format[end]) >= 0 {
			end++
		}
		spec, c := format[i+1:end], format[end]
		half := byte(0)
		if (c == 'H' || c == 'L') && end+1 < len(format) && (format[end+1] == 'd' || format[end+1] == 'r') {
			half = c
			end++
			c = format[end] | 0x80 // told apart from %d and %r
			if half == 'L' {
				c &^= 0x20
			}
		}
		i = end
		if c == '%' {
			e.Stdout.WriteByte('%')
			continue
		}
		text, ok := field(c)
		if !ok {
			e.Stdout.WriteByte('?')
			continue
		}
		e.Stdout.WriteString(pad(text, spec))
	}
}

func pad(text, spec string) string {
	left := strings.Contains(spec, "-")
	zero := strings.HasPrefix(strings.TrimLeft(spec, "-+ #"), "0")
	digits, precision, dot := strings.Cut(strings.TrimLeft(spec, "-+ #0"), ".")
	if n, err := strconv.Atoi(precision); dot && err == nil && n < len(text) {
		text = text[:n]
	}
	width, _ := strconv.Atoi(digits)
	gap := min(width, 1024) - len(text)
	switch {
	case gap <= 0:
		return text
	case left:
		return text + spaces(gap)
	case zero:
		return strings.Repeat("0", gap) + text
	}
	return spaces(gap) + text
}

type statx struct {
	name   string
	db     *account.Database
	st     unix.Stat_t
	birth  unix.StatxTimestamp
	born   bool
	target string
}

func (s *statx) read(follow bool) error {
	call, flags := unix.Lstat, unix.AT_SYMLINK_NOFOLLOW
	if follow {
		call, flags = unix.Stat, 0
	}
	if err := call(s.name, &s.st); err != nil {
		return err
	}
	var x unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, s.name, flags, unix.STATX_BTIME, &x) == nil && x.Mask&unix.STATX_BTIME != 0 {
		s.birth, s.born = x.Btime, true
	}
	if s.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		s.target, _ = os.Readlink(s.name)
	}
	return nil
}

func (s *statx) field(c byte) (string, bool) {
	st := &s.st
	u := func(n uint64) (string, bool) { return strconv.FormatUint(n, 10), true }
	x := func(n uint64) (string, bool) { return strconv.FormatUint(n, 16), true }
	when := func(ts unix.Timespec) (string, bool) {
		return time.Unix(ts.Unix()).Format("2006-01-02 15:04:05.000000000 -0700"), true
	}
	switch c {
	case 'a':
		return strconv.FormatUint(uint64(st.Mode&0o7777), 8), true
	case 'A':
		return filemode.String(st.Mode), true
	case 'b':
		return u(uint64(st.Blocks))
	case 'B':
		return "512", true
	case 'd':
		return u(uint64(st.Dev))
	case 'D':
		return x(uint64(st.Dev))
	case 'd' | 0x80:
		return u(uint64(unix.Major(uint64(st.Dev))))
	case 'D' | 0x80:
		return u(uint64(unix.Minor(uint64(st.Dev))))
	case 'r' | 0x80:
		return u(uint64(unix.Major(uint64(st.Rdev))))
	case 'R' | 0x80:
		return u(uint64(unix.Minor(uint64(st.Rdev))))
	case 'f':
		return x(uint64(st.Mode))
	case 'F':
		return KindName(st), true
	case 'g':
		return u(uint64(st.Gid))
	case 'G':
		return nameOr(s.db.GroupName(st.Gid), st.Gid), true
	case 'h':
		return u(uint64(st.Nlink))
	case 'i':
		return u(st.Ino)
	case 'n':
		return s.name, true
	case 'l': // our own: the tail of the default form's first line
		if s.target != "" {
			return " -> " + s.target, true
		}
		return "", true
	case 'N':
		if s.target != "" {
			return applet.Quote(s.name) + " -> " + applet.Quote(s.target), true
		}
		return applet.Quote(s.name), true
	case 'o':
		return u(uint64(st.Blksize))
	case 'r':
		return u(uint64(st.Rdev))
	case 'R':
		return x(uint64(st.Rdev))
	case 's':
		return u(uint64(st.Size))
	case 't':
		return x(uint64(unix.Major(uint64(st.Rdev))))
	case 'T':
		return x(uint64(unix.Minor(uint64(st.Rdev))))
	case 'u':
		return u(uint64(st.Uid))
	case 'U':
		return nameOr(s.db.UserName(st.Uid), st.Uid), true
	case 'w':
		if !s.born {
			return "-", true
		}
		return when(unix.Timespec{Sec: s.birth.Sec, Nsec: int64(s.birth.Nsec)})
	case 'W':
		if !s.born {
			return "0", true
		}
		return strconv.FormatInt(s.birth.Sec, 10), true
	case 'x':
		return when(st.Atim)
	case 'X':
		return strconv.FormatInt(st.Atim.Sec, 10), true
	case 'y':
		return when(st.Mtim)
	case 'Y':
		return strconv.FormatInt(st.Mtim.Sec, 10), true
	case 'z':
		return when(st.Ctim)
	case 'Z':
		return strconv.FormatInt(st.Ctim.Sec, 10), true
	}
	return "", false
}

// nameOr is UNKNOWN where the user database only gave the number back.
func nameOr(name string, id uint32) string {
	if name == strconv.FormatUint(uint64(id), 10) {
		return "UNKNOWN"
	}
	return name
}

// KindName says in words what a file is.
func KindName(st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Size == 0 {
			return "regular empty file"
		}
		return "regular file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFCHR:
		return "character special file"
	case unix.S_IFBLK:
		return "block special file"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "weird file"
}

func statfsField(st *unix.Statfs_t, name string, c byte) (string, bool) {
	u := func(n uint64) (string, bool) { return strconv.FormatUint(n, 10), true }
	switch c {
	case 'a':
		return u(st.Bavail)
	case 'b':
		return u(st.Blocks)
	case 'c':
		return u(st.Files)
	case 'd':
		return u(st.Ffree)
	case 'f':
		return u(st.Bfree)
	case 'i':
		return fmt.Sprintf("%x", uint64(uint32(st.Fsid.Val[0]))<<32|uint64(uint32(st.Fsid.Val[1]))), true
	case 'l':
		return u(uint64(st.Namelen))
	case 'n':
		return name, true
	case 's':
		return u(uint64(st.Bsize))
	case 'S':
		return u(uint64(st.Frsize))
	case 't':
		return fmt.Sprintf("%x", uint32(st.Type)), true
	case 'T':
		return FilesystemName(int64(st.Type)), true
	}
	return "", false
}

// FilesystemName names the type that statfs(2) shows.
func FilesystemName(magic int64) string {
	switch magic {
	case unix.EXT4_SUPER_MAGIC:
		return "ext2/ext3"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.PROC_SUPER_MAGIC:
		return "proc"
	case unix.SYSFS_MAGIC:
		return "sysfs"
	case unix.DEVPTS_SUPER_MAGIC:
		return "devpts"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.CGROUP2_SUPER_MAGIC:
		return "cgroup2fs"
	case unix.CGROUP_SUPER_MAGIC:
		return "cgroupfs"
	case unix.SQUASHFS_MAGIC:
		return "squashfs"
	case unix.V9FS_MAGIC:
		return "v9fs"
	case 0x00c0ffee:
		return "hostfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.MSDOS_SUPER_MAGIC:
		return "msdos"
	}
	return fmt.Sprintf("UNKNOWN (0x%x)", uint32(magic))
}

// printfEscapes replaces the escapes of --printf.
func printfEscapes(s string) string {
	return strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`, `\0`, "\x00", `\"`, `"`, `\r`, "\r").Replace(s)
}
