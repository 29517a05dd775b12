package file

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// copier copies files and trees, for cp and for mv between file systems.
type copier struct {
	e           *applet.Env
	verb        string // what messages say was attempted
	recursive   bool
	follow      byte // symbolic links: 'P' none, 'H' those on the command line, 'L' all
	mode        bool // preserve …
	owner       bool
	times       bool
	links       bool
	xattrs      bool
	force       bool
	interactive bool
	noClobber   bool
	update      bool
	verbose     bool
	symbolic    bool // make symbolic links instead
	hard        bool // make hard links instead

	xdev  bool
	dev   uint64           // of the operand, with xdev
	made  map[inode]string // copies of files with several links
	dirs  map[inode]bool   // directories this copy made: not to be copied again
	umask int
}

type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} }

// Cp copies files.
func Cp(e *applet.Env, args []string) error {
	c := &copier{e: e, verb: "copy"}
	var o applet.Options
	recurse := func() {
		c.recursive = true
	}
	o.Func('r', "recursive", recurse)
	o.Func('R', "", recurse)
	o.Func('a', "archive", func() {
		c.recursive, c.follow = true, 'P'
		c.mode, c.owner, c.times, c.links, c.xattrs = true, true, true, true, true
	})
	o.Func('p', "", func() { c.mode, c.owner, c.times = true, true, true })
	o.Value(0, "preserve", c.preserve)
	o.Func('d', "", func() { c.follow, c.links = 'P', true })
	o.Func('P', "no-dereference", func() { c.follow = 'P' })
	o.Func('L', "dereference", func() { c.follow = 'L' })
	o.Func('H', "", func() { c.follow = 'H' })
	o.Bool(&c.force, 'f', "force")
	o.Func('i', "interactive", func() { c.interactive, c.noClobber = true, false })
	o.Func('n', "no-clobber", func() { c.noClobber, c.interactive = true, false })
	o.Bool(&c.update, 'u', "update")
	o.Bool(&c.verbose, 'v', "verbose")
	o.Bool(&c.symbolic, 's', "symbolic-link")
	o.Bool(&c.hard, 'l', "link")
	o.Bool(&c.xdev, 'x', "one-file-system")
	var d destination
	d.options(&o)
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if c.follow == 0 {
		c.follow = 'L'
		if c.recursive {
			c.follow = 'P'
		}
	}
	return d.each(operands, func(src, dst string) error {
		c.start()
		c.copy(src, dst, true)
		return nil
	})
}

func (c *copier) start() {
	if c.made == nil {
		c.made, c.dirs = map[inode]string{}, map[inode]bool{}
		c.umask = unix.Umask(0)
		unix.Umask(c.umask)
	}
}

func (c *copier) preserve(list string) error {
	for what := range strings.SplitSeq(list, ",") {
		switch what {
		case "mode":
			c.mode = true
		case "ownership":
			c.owner = true
		case "timestamps":
			c.times = true
		case "links":
			c.links = true
		case "xattr":
			c.xattrs = true
		case "all":
			c.mode, c.owner, c.times, c.links, c.xattrs = true, true, true, true, true
		default:
			return applet.Usagef("cannot preserve %s", applet.Quote(what))
		}
	}
	return nil
}

// destination is the part of cp's, mv's and ln's command lines that says where to.
type destination struct {
	dir    string
	noDir  bool
	single bool // ln: one operand means a link in the working directory
}

func (d *destination) options(o *applet.Options) {
	o.String(&d.dir, 't', "target-directory")
	o.Bool(&d.noDir, 'T', "no-target-directory")
}

// each calls f with every source and its destination.
func (d *destination) each(operands []string, f func(src, dst string) error) error {
	dir := d.dir
	if dir == "" {
		switch {
		case len(operands) == 0:
			return applet.Usagef("missing file operand")
		case len(operands) == 1 && d.single:
			dir = "."
		case len(operands) == 1:
			return applet.Usagef("missing destination file operand after %s", applet.Quote(operands[0]))
		case d.noDir && len(operands) > 2:
			return applet.Usagef("extra operand %s", applet.Quote(operands[2]))
		default:
			last := operands[len(operands)-1]
			st, err := os.Stat(last)
			isDir := err == nil && st.IsDir() && !d.noDir
			if !isDir && len(operands) == 2 {
				return f(operands[0], last)
			}
			if !isDir {
				return fmt.Errorf("target %s is not a directory", applet.Quote(last))
			}
			dir, operands = last, operands[:len(operands)-1]
		}
	}
	for _, src := range operands {
		if err := f(src, join(dir, filepath.Base(src))); err != nil {
			return err
		}
	}
	return nil
}

// copy copies src, with everything below it, to dst. It reports what failed
// and says whether nothing did.
func (c *copier) copy(src, dst string, operand bool) bool {
	var st, old unix.Stat_t
	stat := unix.Lstat
	if c.follow == 'L' || c.follow == 'H' && operand {
		stat = unix.Stat
	}
	if err := stat(src, &st); err != nil {
		c.e.Warnf("cannot stat %s: %s", applet.Quote(src), applet.Reason(err))
		return false
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR && !c.recursive {
		c.e.Warnf("-r not specified; omitting directory %s", applet.Quote(src))
		return false
	}
	if operand {
		c.dev = uint64(st.Dev)
	} else if c.xdev && uint64(st.Dev) != c.dev && kind != unix.S_IFDIR {
		return true
	}
	exists := unix.Lstat(dst, &old) == nil
	if exists {
		proceed, ok := c.replace(src, dst, &st, &old)
		if !proceed {
			return ok
		}
		exists = unix.Lstat(dst, &old) == nil
	}
	if c.links && st.Nlink > 1 && kind != unix.S_IFDIR {
		if first, seen := c.made[inodeOf(&st)]; seen {
			if exists {
				os.Remove(dst)
			}
			return c.check("create hard link "+applet.Quote(dst), unix.Link(first, dst))
		}
		c.made[inodeOf(&st)] = dst
	}
	var err error
	switch {
	case kind == unix.S_IFDIR:
		return c.directory(src, dst, &st, exists)
	case c.symbolic:
		err = os.Symlink(src, dst)
	case c.hard:
		err = os.Link(src, dst)
	case kind == unix.S_IFREG || !c.recursive && kind != unix.S_IFLNK:
		err = c.regular(src, dst, &st)
	default:
		if exists {
			err = os.Remove(dst)
		}
		if err == nil {
			err = c.special(src, dst, &st)
		}
	}
	if !c.check(fmt.Sprintf("%s %s to %s", c.verb, applet.Quote(src), applet.Quote(dst)), err) {
		return false
	}
	c.tell(src, dst)
	if c.symbolic || c.hard {
		return true
	}
	return c.attributes(src, dst, &st)
}

func (c *copier) check(what string, err error) bool {
	if err != nil {
		c.e.Warnf("cannot %s: %s", what, applet.Reason(err))
	}
	return err == nil
}

func (c *copier) tell(src, dst string) {
	if c.verbose {
		fmt.Fprintf(c.e.Stdout, "%s -> %s\n", applet.Quote(src), applet.Quote(dst))
	}
}

// replace decides about a destination that exists. It returns whether to go
// on, and if not, whether that is fine.
func (c *copier) replace(src, dst string, st, old *unix.Stat_t) (proceed, ok bool) {
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	var target unix.Stat_t
	if unix.Stat(dst, &target) == nil && inodeOf(&target) == inodeOf(st) && st.Mode&unix.S_IFMT != unix.S_IFLNK && !c.symbolic {
		if c.hard {
			return false, true
		}
		c.e.Warnf("%s and %s are the same file", applet.Quote(src), applet.Quote(dst))
		return false, false
	}
	wasDir := old.Mode&unix.S_IFMT == unix.S_IFDIR ||
		old.Mode&unix.S_IFMT == unix.S_IFLNK && target.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case isDir && !wasDir:
		c.e.Warnf("cannot overwrite non-directory %s with directory %s", applet.Quote(dst), applet.Quote(src))
		return false, false
	case isDir:
		return true, true
	case old.Mode&unix.S_IFMT == unix.S_IFDIR:
		c.e.Warnf("cannot overwrite directory %s with non-directory", applet.Quote(dst))
		return false, false
	case old.Mode&unix.S_IFMT == unix.S_IFLNK && target.Mode == 0 && !c.recursive && !c.symbolic && !c.hard:
		c.e.Warnf("not writing through dangling symlink %s", applet.Quote(dst))
		return false, false
	case c.noClobber:
		return false, true
	case c.update && old.Mtim.Nano() >= st.Mtim.Nano():
		return false, true
	case c.interactive && !ask(c.e, "overwrite %s? ", applet.Quote(dst)):
		return false, false
	}
	if c.symbolic || c.hard {
		if !c.force && !c.interactive {
			return true, true // the attempt says that it exists
		}
		return c.check("remove "+applet.Quote(dst), os.Remove(dst)), false
	}
	return true, true
}

func (c *copier) directory(src, dst string, st *unix.Stat_t, exists bool) bool {
	if c.dirs[inodeOf(st)] {
		c.e.Warnf("cannot copy a directory, %s, into itself, %s", applet.Quote(src), applet.Quote(dst))
		return false
	}
	perm := st.Mode & 0o7777
	if !exists {
		// Open to us until its content is there.
		if !c.check("create directory "+applet.Quote(dst), unix.Mkdir(dst, perm|0o700)) {
			return false
		}
		c.tell(src, dst)
	}
	var made unix.Stat_t
	if unix.Stat(dst, &made) == nil {
		c.dirs[inodeOf(&made)] = true
	}
	ok := true
	if !c.xdev || uint64(st.Dev) == c.dev {
		entries, err := os.ReadDir(src)
		ok = c.check("read directory "+applet.Quote(src), err)
		for _, ent := range entries {
			ok = c.copy(join(src, ent.Name()), join(dst, ent.Name()), false) && ok
		}
	}
	if !exists && !c.mode {
		ok = c.check("set permissions of "+applet.Quote(dst), unix.Chmod(dst, perm&^uint32(c.umask))) && ok
	}
	return c.attributes(src, dst, st) && ok
}

// regular copies a file's content, leaving its holes.
func (c *copier) regular(src, dst string, st *unix.Stat_t) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	perm := os.FileMode(st.Mode & 0o777)
	if c.mode {
		perm &= 0o700 // the rest once the owner is right
	}
	out, err := os.OpenFile(dst, flags, perm)
	if err != nil && c.force {
		if rerr := os.Remove(dst); rerr == nil || errors.Is(rerr, os.ErrNotExist) {
			out, err = os.OpenFile(dst, flags|os.O_EXCL, perm)
		}
	}
	if err != nil {
		return err
	}
	sparse := st.Mode&unix.S_IFMT == unix.S_IFREG && st.Blocks*512 < st.Size
	if err = copyData(out, in, sparse, st.Size); err == nil {
		return out.Close()
	}
	out.Close()
	return err
}

// copyData copies in to out; of a sparse file only what is data.
func copyData(out, in *os.File, sparse bool, size int64) error {
	if !sparse {
		_, err := io.Copy(out, in)
		return err
	}
	for off := int64(0); off < size; {
		data, err := in.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			if off > 0 {
				return err
			}
			in.Seek(0, io.SeekStart) // a file system that does not know its holes
			_, err = io.Copy(out, in)
			return err
		}
		end, err := in.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := in.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(data, io.SeekStart); err != nil {
			return err
		}
		n, err := io.CopyN(out, in, end-data)
		if err == io.EOF && n < end-data {
			break // it became shorter meanwhile
		}
		if err != nil {
			return err
		}
		off = end
	}
	return out.Truncate(size)
}

func (c *copier) special(src, dst string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(target, dst)
	case unix.S_IFSOCK:
		return unix.Mknod(dst, st.Mode, 0)
	}
	return unix.Mknod(dst, st.Mode, int(st.Rdev))
}

// attributes gives dst what is to be preserved of src.
func (c *copier) attributes(src, dst string, st *unix.Stat_t) bool {
	ok := true
	link := st.Mode&unix.S_IFMT == unix.S_IFLNK
	if c.owner {
		err := unix.Lchown(dst, int(st.Uid), int(st.Gid))
		if err != nil && os.Geteuid() == 0 {
			ok = c.check("preserve ownership of "+applet.Quote(dst), err)
		}
	}
	if c.mode && !link {
		ok = c.check("preserve permissions of "+applet.Quote(dst), unix.Chmod(dst, st.Mode&0o7777)) && ok
	}
	if c.xattrs {
		ok = c.check("preserve extended attributes of "+applet.Quote(dst), copyXattrs(src, dst)) && ok
	}
	if c.times {
		ts := []unix.Timespec{st.Atim, st.Mtim}
		err := unix.UtimesNanoAt(unix.AT_FDCWD, dst, ts, unix.AT_SYMLINK_NOFOLLOW)
		ok = c.check("preserve times of "+applet.Quote(dst), err) && ok
	}
	return ok
}

// copyXattrs copies the extended attributes that the destination can have.
func copyXattrs(src, dst string) error {
	n, err := unix.Llistxattr(src, nil)
	if err != nil || n <= 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return err
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(src, list); err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.Trim(string(list[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(src, name, nil)
		if err != nil {
			return err
		}
		value := make([]byte, n)
		if n, err = unix.Lgetxattr(src, name, value); err != nil {
			return err
		}
		err = unix.Lsetxattr(dst, name, value[:n], 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}

// ask puts a question on standard error; anything that begins with y is yes.
func ask(e *applet.Env, format string, a ...any) bool {
	e.Stdout.Flush()
	fmt.Fprintf(e.Stderr, e.Name+": "+format, a...)
	line, _ := bufio.NewReader(oneByte{e.Stdin}).ReadString('\n')
	return strings.HasPrefix(line, "y") || strings.HasPrefix(line, "Y")
}

// oneByte reads no further than the answer.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.r.Read(p[:1])
}
