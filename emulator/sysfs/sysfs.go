// Package sysfs is the Sentry's /sys with the machine's devices in it. What devices
// there are is asked whenever someone looks, so that a disk that comes or goes shows.
package sysfs

import (
	"bytes"
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/emulator/reach"
)

// Entry is a directory, a symbolic link or a file. It has one of Dir, Link, Read and Data.
type Entry struct {
	Name string
	// Dir lists a directory.
	Dir func() []Entry
	// Link is where a symbolic link leads.
	Link string
	// Read is the content of a file.
	Read func() string
	// Write takes what is written to a file, at most a page of it. Nil: the file cannot
	// be written.
	Write func(text string) error
	// Data is the content of a file of bytes that never change, whose size is seen; it
	// is not nil when it is empty. Perm are its permissions, 0 is 0444.
	Data []byte
	Perm linux.FileMode
}

// Directory is an entry whose content never changes.
func Directory(name string, entries ...Entry) Entry {
	return Entry{Name: name, Dir: func() []Entry { return entries }}
}

// File is a file whose content never changes.
func File(name, text string) Entry {
	return Entry{Name: name, Read: func() string { return text }}
}

// FilesystemType is the type "sysfs".
type FilesystemType struct {
	sys.FilesystemType
	// Entries are laid over the root: a directory of the Sentry's and one of ours
	// with the same name show the entries of both, ours first.
	Entries []Entry
}

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (t *FilesystemType) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	opts.Data = ""
	fs, d, err := t.FilesystemType.GetFilesystem(ctx, v, creds, source, opts)
	if err != nil {
		return nil, nil, err
	}
	root, err := t.adopt(ctx, fs, d)
	if err != nil {
		d.DecRef(ctx)
		fs.DecRef(ctx)
		return nil, nil, fmt.Errorf("/sys: %w", err)
	}
	return fs, root, nil
}

// adopt puts a root of ours before the Sentry's.
func (t *FilesystemType) adopt(ctx context.Context, fs *vfs.Filesystem, d *vfs.Dentry) (*vfs.Dentry, error) {
	k, err := reach.Kernfs(fs)
	if err != nil {
		return nil, err
	}
	old, ok := d.Impl().(*kernfs.Dentry)
	if !ok {
		return nil, fmt.Errorf("the root is a %T", d.Impl())
	}
	st, err := old.Inode().Stat(ctx, fs, vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
	if err != nil {
		return nil, err
	}
	s := &sysfs{devMinor: st.DevMinor}
	root := new(kernfs.Dentry)
	root.InitRoot(k, s.over(old.Inode(), Entry{Dir: func() []Entry { return t.Entries }}, ""))
	return root.VFSDentry(), nil
}

// sysfs is one instance.
type sysfs struct {
	devMinor uint32
}

// node makes the inode of an entry of ours.
func (s *sysfs) node(ctx context.Context, parent *directory, e Entry, path string) kernfs.Inode {
	creds := auth.NewRootCredentials(auth.CredentialsFromContext(ctx).UserNamespace)
	ino := number(path)
	switch {
	case e.Dir != nil:
		d := &directory{sysfs: s, parent: parent, name: e.Name, path: path, entries: e.Dir}
		d.InodeAttrs.Init(ctx, creds, linux.UNNAMED_MAJOR, s.devMinor, ino, linux.ModeDirectory|0o755)
		d.none.Init(kernfs.OrderedChildrenOptions{})
		return d
	case e.Link != "":
		l := &link{parent: parent, name: e.Name}
		l.Init(ctx, creds, linux.UNNAMED_MAJOR, s.devMinor, ino, e.Link)
		return l
	case e.Data != nil:
		return s.newBinary(ctx, creds, parent, e, ino)
	}
	f := &file{parent: parent, name: e.Name}
	if e.Write == nil {
		f.Init(ctx, creds, linux.UNNAMED_MAJOR, s.devMinor, ino, content(e.Read), 0o444)
	} else {
		f.Init(ctx, creds, linux.UNNAMED_MAJOR, s.devMinor, ino, knob{e.Read, e.Write}, 0o644)
	}
	return f
}

// number is a path's inode number (FNV-1a), out of the way of the Sentry's.
func number(path string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(path); i++ {
		h = (h ^ uint64(path[i])) * 1099511628211
	}
	return h>>16 | 1<<48
}

// directory is a directory of ours.
type directory struct {
	kernfs.InodeAttrs
	kernfs.InodeDirectoryNoNewChildren
	kernfs.InodeNoopRefCount
	kernfs.InodeNotAnonymous
	kernfs.InodeNotSymlink
	kernfs.InodeWatches
	kernfs.InodeFSOwned

	sysfs   *sysfs
	parent  *directory
	name    string
	path    string
	entries func() []Entry
	locks   vfs.FileLocks
	none    kernfs.OrderedChildren
}

var _ kernfs.Inode = (*directory)(nil)

// find is the entry of a name. What is below a device that went is not there.
func (d *directory) find(name string) (Entry, bool) {
	if !d.parent.has(d.name) {
		return Entry{}, false
	}
	for _, e := range d.entries() {
		if e.Name == name {
			return e, true
		}
	}
	return Entry{}, false
}

// has reports whether name is still there. A nil directory has everything.
func (d *directory) has(name string) bool {
	if d == nil {
		return true
	}
	_, ok := d.find(name)
	return ok
}

// Lookup implements kernfs.Inode.Lookup.
func (d *directory) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	e, ok := d.find(name)
	if !ok {
		return nil, linuxerr.ENOENT
	}
	return d.sysfs.node(ctx, d, e, d.path+"/"+name), nil
}

// IterDirents implements kernfs.Inode.IterDirents.
func (d *directory) IterDirents(_ context.Context, _ *vfs.Mount, cb vfs.IterDirentsCallback, offset, relOffset int64) (int64, error) {
	return list(d.entries(), d.path, cb, offset, relOffset)
}

// list shows entries from the given one on.
func list(entries []Entry, path string, cb vfs.IterDirentsCallback, offset, from int64) (int64, error) {
	for i := max(from, 0); i < int64(len(entries)); i++ {
		e := entries[i]
		kind := uint8(linux.DT_REG)
		switch {
		case e.Dir != nil:
			kind = linux.DT_DIR
		case e.Link != "":
			kind = linux.DT_LNK
		}
		if err := cb.Handle(vfs.Dirent{Name: e.Name, Type: kind, Ino: number(path + "/" + e.Name), NextOff: offset + 1}); err != nil {
			return offset, err
		}
		offset++
	}
	return offset, nil
}

// HasChildren implements kernfs.Inode.HasChildren.
func (d *directory) HasChildren() bool { return len(d.entries()) > 0 }

// Open implements kernfs.Inode.Open.
func (d *directory) Open(ctx context.Context, rp *vfs.ResolvingPath, kd *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	fd, err := kernfs.NewGenericDirectoryFD(rp.Mount(), kd, rp.Credentials(), &d.none, &d.locks, &opts,
		kernfs.GenericDirectoryFDOptions{SeekEnd: kernfs.SeekEndStaticEntries})
	if err != nil {
		return nil, err
	}
	return fd.VFSFileDescription(), nil
}

// Unlink implements kernfs.Inode.Unlink.
func (*directory) Unlink(context.Context, string, kernfs.Inode) error { return linuxerr.EPERM }

// RmDir implements kernfs.Inode.RmDir.
func (*directory) RmDir(context.Context, string, kernfs.Inode) error { return linuxerr.EPERM }

// Rename implements kernfs.Inode.Rename.
func (*directory) Rename(context.Context, string, string, kernfs.Inode, kernfs.Inode) error {
	return linuxerr.EPERM
}

// Valid implements kernfs.Inode.Valid.
func (d *directory) Valid(context.Context, *kernfs.Dentry, string) bool { return d.parent.has(d.name) }

// SetStat implements kernfs.Inode.SetStat.
func (*directory) SetStat(context.Context, *vfs.Filesystem, *auth.Credentials, vfs.SetStatOptions) error {
	return linuxerr.EPERM
}

// StatFS implements kernfs.Inode.StatFS.
func (*directory) StatFS(context.Context, *vfs.Filesystem) (linux.Statfs, error) {
	return vfs.GenericStatFS(linux.SYSFS_MAGIC), nil
}

// link is a symbolic link of ours.
type link struct {
	kernfs.StaticSymlink
	parent *directory
	name   string
}

// Valid implements kernfs.Inode.Valid.
func (l *link) Valid(context.Context, *kernfs.Dentry, string) bool { return l.parent.has(l.name) }

// file is a file of ours.
type file struct {
	kernfs.DynamicBytesFile
	parent *directory
	name   string
}

// Valid implements kernfs.Inode.Valid.
func (f *file) Valid(context.Context, *kernfs.Dentry, string) bool { return f.parent.has(f.name) }

// SetStat implements kernfs.Inode.SetStat. Opening a file to write may ask to truncate
// it first, which changes nothing.
func (*file) SetStat(_ context.Context, _ *vfs.Filesystem, _ *auth.Credentials, opts vfs.SetStatOptions) error {
	if opts.Stat.Mask&^linux.STATX_SIZE != 0 {
		return linuxerr.EPERM
	}
	return nil
}

// content implements vfs.DynamicBytesSource.
type content func() string

// Generate implements vfs.DynamicBytesSource.Generate.
func (c content) Generate(_ context.Context, buf *bytes.Buffer) error {
	buf.WriteString(c())
	return nil
}

// knob implements vfs.WritableDynamicBytesSource.
type knob struct {
	content
	write func(string) error
}

// Write implements vfs.WritableDynamicBytesSource.Write.
func (k knob) Write(ctx context.Context, _ *vfs.FileDescription, src usermem.IOSequence, _ int64) (int64, error) {
	if src.NumBytes() > hostarch.PageSize {
		return 0, linuxerr.EINVAL
	}
	text := make([]byte, src.NumBytes())
	n, err := src.CopyIn(ctx, text)
	if err != nil {
		return int64(n), err
	}
	if err := k.write(string(text)); err != nil {
		return 0, err
	}
	return int64(n), nil
}

// overlay is a directory of the Sentry's with entries of ours laid over it.
type overlay struct {
	kernfs.Inode
	ours *directory
}

// over lays a directory of ours over one of the Sentry's.
func (s *sysfs) over(inner kernfs.Inode, e Entry, path string) kernfs.Inode {
	return &overlay{Inode: inner, ours: &directory{sysfs: s, name: e.Name, path: path, entries: e.Dir}}
}

// Lookup implements kernfs.Inode.Lookup.
func (o *overlay) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	theirs, err := o.Inode.Lookup(ctx, name)
	e, ok := o.ours.find(name)
	switch {
	case !ok:
		return theirs, err
	case err != nil:
		return o.ours.sysfs.node(ctx, o.ours, e, o.ours.path+"/"+name), nil
	case e.Dir != nil && theirs.Mode().IsDir():
		return o.ours.sysfs.over(theirs, e, o.ours.path+"/"+name), nil
	}
	return theirs, nil
}

// IterDirents implements kernfs.Inode.IterDirents: the Sentry's entries came first.
func (o *overlay) IterDirents(ctx context.Context, m *vfs.Mount, cb vfs.IterDirentsCallback, offset, relOffset int64) (int64, error) {
	var added []Entry
	for _, e := range o.ours.entries() {
		theirs, err := o.Inode.Lookup(ctx, e.Name)
		if err != nil {
			added = append(added, e)
			continue
		}
		theirs.DecRef(ctx)
	}
	return list(added, o.ours.path, cb, offset, relOffset)
}

// HasChildren implements kernfs.Inode.HasChildren.
func (o *overlay) HasChildren() bool { return true }
