package volume

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Owner is a user and a group by number.
type Owner struct{ UID, GID uint32 }

// Writer puts trees into an ext2, ext3 or ext4 filesystem.
//
// Content goes to the disk as it comes, names and attributes with the engine's
// transactions: what ends the program leaves whole files, and possibly the beginning of
// those that were being written. A file that is there keeps its content until the new one
// is complete.
type Writer struct {
	V *Volume

	// Preserve keeps owners, modes, times and extended attributes. Without it files are
	// new ones: root's, with the permissions of the tree but for set-user-ID, set-group-ID
	// and sticky bits, and with what their directory's default ACL says; a file that is
	// there keeps its own.
	Preserve bool

	// Owner, where set, owns the files, what Preserve would have kept and what is there,
	// too. Mode, where set, says so of a stream's permissions.
	Owner *Owner
	Mode  *uint16

	// Overlay is for archives: a file that is there gives way to one of another type,
	// unless it is a directory with something in it, and a symbolic link to a directory is
	// as good as the directory.
	Overlay bool

	// Update leaves alone what is there and not older.
	Update bool
	// NoClobber leaves alone what is there.
	NoClobber bool

	// Left, where set, is told of what was left alone; several goroutines call it.
	Left func(n *tree.Node)

	// Wrote, where set, is told of bytes of content that were written; several goroutines
	// call it.
	Wrote func(n int64)

	ctx     context.Context
	links   map[*tree.Node]*ext4.Inode
	dirs    []madeDir
	jobs    chan job
	workers sync.WaitGroup
	stop    context.CancelCauseFunc
}

// madeDir is a directory whose attributes are set when all is in it.
type madeDir struct {
	inode *ext4.Inode
	node  *tree.Node
	path  string
}

// job is a regular file to be written by any of the workers.
type job struct {
	dir        *ext4.Inode
	name, path string
	node       *tree.Node
}

// Put puts a node and all below it under a name into the directory dir; where is the
// path of dir in messages.
func (w *Writer) Put(ctx context.Context, dir Node, where, name string, n *tree.Node) error {
	return w.run(ctx, func() error { return w.put(inode(dir), path.Join(where, name), name, n, 0) })
}

// PutAll puts what is in the directory n into the directory dir, and gives dir the
// attributes of n where those are kept.
func (w *Writer) PutAll(ctx context.Context, dir Node, where string, n *tree.Node) error {
	return w.run(ctx, func() error { return w.fill(inode(dir), where, n, 0, !explicit(n)) })
}

func inode(n Node) *ext4.Inode { return n.(Ext).Inode }

// explicit says whether a directory is one that a source told of: those that are only on
// the way to something have no times.
func explicit(n *tree.Node) bool { return !n.Mtime.IsZero() }

// run does the work with several goroutines that write files.
func (w *Writer) run(ctx context.Context, work func() error) error {
	ctx, w.stop = context.WithCancelCause(ctx)
	defer w.stop(nil)
	w.ctx, w.links = ctx, make(map[*tree.Node]*ext4.Inode)
	w.jobs = make(chan job, 64)
	for range min(max(runtime.GOMAXPROCS(0), 2), 4) {
		w.workers.Go(func() {
			var buf []byte
			for j := range w.jobs {
				if ctx.Err() == nil {
					if err := w.file(j, &buf); err != nil {
						w.stop(err)
					}
				}
				if err := j.dir.Put(); err != nil {
					w.stop(err)
				}
			}
		})
	}
	err := work()
	if err != nil {
		w.stop(err)
	}
	close(w.jobs)
	w.workers.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	// What is in a directory changes its times: they come last.
	for i := len(w.dirs) - 1; i >= 0; i-- {
		d := w.dirs[i]
		if err == nil {
			err = w.attributes(d.inode, d.node, d.path)
		}
		if e := d.inode.Put(); err == nil {
			err = e
		}
	}
	for _, n := range w.links {
		if e := n.Put(); err == nil {
			err = e
		}
	}
	w.dirs, w.links = nil, nil
	return err
}

// put puts one node into a directory.
func (w *Writer) put(dir *ext4.Inode, full, name string, n *tree.Node, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if n.IsDir() {
		return w.putDir(dir, full, name, n, depth)
	}
	if n.Names() > 1 {
		return w.putLinked(dir, full, name, n)
	}
	if n.IsRegular() {
		dir.Ref()
		w.jobs <- job{dir, name, full, n}
		return nil
	}
	made, err := w.special(dir, full, name, n)
	if made != nil {
		err = errors.Join(err, made.Put())
	}
	return err
}

func (w *Writer) putDir(dir *ext4.Inode, full, name string, n *tree.Node, depth int) error {
	if depth >= maxDepth {
		return &PathError{Path: fmt.Sprintf("%.60s…", full), Err: unix.ENAMETOOLONG}
	}
	have, err := dir.Lookup(name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &PathError{Path: full, Err: err}
	}
	if have != nil && w.Overlay && have.Attr().Mode&format.ModeType != format.ModeDir {
		if have, err = w.overlay(dir, have, full, name); err != nil {
			return err
		}
	}
	old := have != nil
	if !old {
		a := w.newAttr(dir, n)
		if have, err = w.create(dir, name, ext4.NewInode{Mode: a.Mode, UID: a.UID, GID: a.GID}); err != nil {
			return &PathError{Path: full, Err: Short(err)}
		}
	}
	if !isDir(Ext{have}) {
		have.Put()
		return &PathError{Path: full, Err: fmt.Errorf("%w, and a directory is to be there", unix.ENOTDIR)}
	}
	err = w.fill(have, full, n, depth+1, old && !explicit(n))
	return errors.Join(err, have.Put())
}

// create makes a file, without a name where that is "". What keeps its attributes inherits
// none.
func (w *Writer) create(dir *ext4.Inode, name string, m ext4.NewInode) (*ext4.Inode, error) {
	switch {
	case !w.Preserve:
		return Create(dir, name, m, 0)
	case name == "":
		return dir.CreateUnlinked(m)
	}
	return dir.Create(name, m)
}

// overlay makes way for a directory: what is there is a link to one, or goes.
func (w *Writer) overlay(dir, have *ext4.Inode, full, name string) (*ext4.Inode, error) {
	root, err := w.V.Root()
	if err != nil {
		have.Put()
		return nil, err
	}
	defer root.Close()
	have.Put()
	at, err := walk(root, Ext{dir}, name, true)
	if err == nil && at.IsDir() {
		n := inode(at.Node)
		at.Node = nil
		return n, at.Close()
	}
	at.Close()
	if err != nil && !missing(err) {
		return nil, err
	}
	if err := dir.Unlink(name); err != nil {
		return nil, &PathError{Path: full, Err: Short(err)}
	}
	return nil, nil
}

// fill puts what is in a directory of a tree into one of the filesystem.
func (w *Writer) fill(dir *ext4.Inode, full string, n *tree.Node, depth int, keep bool) error {
	if w.Preserve && !keep {
		dir.Ref()
		w.dirs = append(w.dirs, madeDir{dir, n, full})
	}
	for _, e := range n.Entries() {
		if err := w.put(dir, path.Join(full, e.Name), e.Name, e.Node, depth); err != nil {
			return err
		}
	}
	return nil
}

// putLinked makes the first name of a file with the file, and each later one as a link.
func (w *Writer) putLinked(dir *ext4.Inode, full, name string, n *tree.Node) error {
	if first := w.links[n]; first != nil {
		return w.link(dir, full, name, first)
	}
	var made *ext4.Inode
	var err error
	if n.IsRegular() {
		var buf []byte
		if err = w.file(job{dir, name, full, n}, &buf); err == nil {
			made, err = dir.Lookup(name)
		}
	} else {
		made, err = w.special(dir, full, name, n)
	}
	if made != nil {
		w.links[n] = made
	}
	return err
}

// link gives a file one more name, which replaces what has it.
func (w *Writer) link(dir *ext4.Inode, full, name string, target *ext4.Inode) error {
	err := dir.Link(name, target)
	if errors.Is(err, unix.EEXIST) {
		if w.NoClobber {
			return nil
		}
		err = dir.Replace(name, target)
	}
	if err != nil {
		return &PathError{Path: full, Err: Short(err)}
	}
	return nil
}

// special makes a symbolic link, a device, a FIFO or a socket.
func (w *Writer) special(dir *ext4.Inode, full, name string, n *tree.Node) (*ext4.Inode, error) {
	have, err := dir.Lookup(name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, &PathError{Path: full, Err: err}
	}
	if have != nil {
		if w.leave(have, n) {
			return have, nil
		}
		have.Put()
	}
	a := w.newAttr(dir, n)
	m := ext4.NewInode{Mode: a.Mode, UID: a.UID, GID: a.GID, Major: n.Major, Minor: n.Minor, Target: n.Target}
	var made *ext4.Inode
	if have == nil {
		made, err = w.create(dir, name, m)
	} else if made, err = w.create(dir, "", m); err == nil {
		err = w.replace(dir, name, made)
	}
	if err == nil && w.Preserve {
		err = w.attributes(made, n, "")
	}
	if err != nil {
		return made, &PathError{Path: full, Err: Short(err)}
	}
	return made, nil
}

// replace gives a name to a file that has none yet.
func (w *Writer) replace(dir *ext4.Inode, name string, made *ext4.Inode) error {
	err := dir.Replace(name, made)
	if errors.Is(err, unix.EISDIR) && w.Overlay {
		if err := dir.Rmdir(name); err != nil {
			return err
		}
		return dir.Link(name, made)
	}
	return err
}

// leave says whether what is there is to stay.
func (w *Writer) leave(have *ext4.Inode, n *tree.Node) bool {
	stays := w.NoClobber || w.Update && !n.Mtime.After(hostTime(have.Attr().Mtime))
	if stays && w.Left != nil {
		w.Left(n)
	}
	return stays
}

// newAttr are the attributes of a new file in a directory. A set-group-ID directory gives
// its group, and directories in it the bit.
func (w *Writer) newAttr(dir *ext4.Inode, n *tree.Node) Attr {
	a := Attr{Mode: uint16(n.Mode), UID: n.UID, GID: n.GID}
	if !w.Preserve {
		a.Mode &= format.ModeType | 0o777
		a.UID, a.GID = 0, 0
		if d := dir.Attr(); d.Mode&format.ModeSetGID != 0 && w.Owner == nil {
			a.GID = d.GID
			if n.IsDir() {
				a.Mode |= format.ModeSetGID
			}
		}
	}
	if w.Owner != nil {
		a.UID, a.GID = w.Owner.UID, w.Owner.GID
	}
	if n.IsSymlink() {
		a.Mode = format.ModeSymlink | 0o777
	}
	return a
}

// attributes gives a file what a node of the tree has.
func (w *Writer) attributes(f *ext4.Inode, n *tree.Node, full string) error {
	err := func() error {
		for name, value := range n.Xattrs {
			if err := f.SetXattr(name, value, ext4.XattrFlags{}); err != nil {
				return fmt.Errorf("extended attribute %q: %w", name, err)
			}
		}
		a := w.newAttr(f, n)
		mask := ext4.AttrUID | ext4.AttrGID
		if !n.IsSymlink() {
			mask |= ext4.AttrMode
		}
		if explicit(n) {
			a.Mtime = diskTime(n.Mtime)
			a.Atime = a.Mtime
			if !n.Atime.IsZero() {
				a.Atime = diskTime(n.Atime)
			}
			mask |= ext4.AttrMtime | ext4.AttrAtime
		}
		return f.SetAttr(mask, a)
	}()
	if err != nil && full != "" {
		return &PathError{Path: full, Err: Short(err)}
	}
	return err
}

// Short is an error without the engine's words before its cause, where the cause says all.
func Short(err error) error {
	for _, no := range []unix.Errno{unix.ENOSPC, unix.EISDIR, unix.ENOTDIR, unix.EEXIST, unix.ENOTEMPTY, unix.EMLINK, unix.ENAMETOOLONG, unix.EFBIG, unix.EROFS, unix.EDQUOT} {
		if errors.Is(err, no) {
			return no
		}
	}
	return err
}
