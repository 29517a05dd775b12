package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/rootfs/tree"
)

func diskTime(t time.Time) format.Time {
	return format.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// stored is content that lies in the filesystem already, in a file without a name.
type stored struct{ n *ext4.Inode }

// Open implements tree.Content.
func (s stored) Open() (tree.Reader, error) {
	s.n.Ref()
	return nodeReader{Ext{s.n}}, nil
}

// Store keeps what can be read only once, as a packed archive's content, in the filesystem:
// in files without names, which are gone when the volume is closed unless they got one.
type Store struct {
	V     *Volume
	Wrote func(n int64)

	dir   *ext4.Inode
	files []*ext4.Inode
}

// Put implements tree.Store.
func (s *Store) Put(size int64, data []tree.Region, r io.Reader) (tree.Content, error) {
	if s.dir == nil {
		dir, err := s.V.ext.Root()
		if err != nil {
			return nil, err
		}
		s.dir = dir
	}
	n, err := s.dir.CreateUnlinked(ext4.NewInode{Mode: format.ModeRegular | 0o600})
	if err != nil {
		return nil, Short(err)
	}
	s.files = append(s.files, n)
	if data == nil {
		data = []tree.Region{{Off: 0, Len: size}}
	}
	var buf []byte
	for _, run := range data {
		if err := tree.CopyRun(context.Background(), readFull{r}, run, &buf, into(n, s.Wrote)); err != nil {
			return nil, err
		}
	}
	if end := n.Attr().Size; end < size {
		if err := n.Truncate(size); err != nil {
			return nil, Short(err)
		}
	}
	return stored{n}, nil
}

// Close lets go of the files; those that got no name are freed.
func (s *Store) Close() error {
	var errs []error
	for _, n := range s.files {
		errs = append(errs, n.Put())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.Put())
	}
	s.files, s.dir = nil, nil
	return errors.Join(errs...)
}

// readFull reads a stream where a file is expected.
type readFull struct{ r io.Reader }

// ReadAt reads on; the place is the caller's to keep.
func (r readFull) ReadAt(p []byte, _ int64) (int, error) {
	n, err := io.ReadFull(r.r, p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// into writes to a file, and tells wrote, where that is set, how much.
func into(f *ext4.Inode, wrote func(int64)) func(p []byte, off int64) error {
	return func(p []byte, off int64) error {
		if err := writeAt(f, p, off); err != nil {
			return err
		}
		if wrote != nil {
			wrote(int64(len(p)))
		}
		return nil
	}
}

// writeAt writes to a file; blocks that were freed and are not free on the disk yet are
// made so when there are no others.
func writeAt(f *ext4.Inode, p []byte, off int64) error {
	done, err := f.WriteAt(p, off)
	if errors.Is(err, unix.ENOSPC) {
		if err := f.FS().Sync(); err != nil {
			return err
		}
		_, err = f.WriteAt(p[done:], off+int64(done))
	}
	return err
}

// file writes a regular file.
func (w *Writer) file(j job, buf *[]byte) error {
	err := w.writeFile(j, buf)
	var source *tree.ReadError
	if err == nil || errors.As(err, &source) || w.ctx.Err() != nil && errors.Is(err, w.ctx.Err()) {
		return err
	}
	return &PathError{Path: j.path, Err: Short(err)}
}

func (w *Writer) writeFile(j job, buf *[]byte) error {
	have, err := j.dir.Lookup(j.name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	a := w.newAttr(j.dir, j.node)
	if have == nil {
		return w.newFile(j, a, buf)
	}
	defer have.Put()
	if w.leave(have, j.node) {
		return nil
	}
	old := have.Attr()
	if old.Mode&format.ModeType == format.ModeDir && !w.Overlay {
		return unix.EISDIR
	}
	if s, ok := j.node.Content.(extContent); ok && s.v == w.V && s.ino == have.Number() {
		return errors.New("it would be copied to itself")
	}
	if old.Mode&format.ModeType == format.ModeRegular && !w.Preserve {
		// Only the content is another: whose the file is, who may read it and the rest stay.
		if old.Links > 1 {
			return w.rewrite(j, have, buf)
		}
		return w.swap(j, have, old, buf)
	}
	made, err := w.unnamed(j, a, buf)
	if err != nil {
		return err
	}
	defer made.Put()
	return w.replace(j.dir, j.name, made)
}

// newFile makes a file that is not there yet. It is gone again when its content does not
// arrive.
func (w *Writer) newFile(j job, a Attr, buf *[]byte) error {
	if s, ok := j.node.Content.(stored); ok {
		if err := w.finish(s.n, a, j.node); err != nil {
			return err
		}
		return j.dir.Link(j.name, s.n)
	}
	f, err := w.create(j.dir, j.name, ext4.NewInode{Mode: a.Mode, UID: a.UID, GID: a.GID})
	if err != nil {
		return err
	}
	if err = w.content(f, j.node, buf); err == nil && w.Preserve {
		err = w.attributes(f, j.node, "")
	}
	if err != nil {
		if e := j.dir.Unlink(j.name); e != nil && !w.V.ext.ReadOnly() {
			err = errors.Join(err, e)
		}
	}
	if e := f.Put(); err == nil {
		err = e
	}
	return err
}

// unnamed makes a file without a name, with content and attributes.
func (w *Writer) unnamed(j job, a Attr, buf *[]byte) (*ext4.Inode, error) {
	if s, ok := j.node.Content.(stored); ok {
		s.n.Ref()
		return s.n, w.finish(s.n, a, j.node)
	}
	f, err := w.create(j.dir, "", ext4.NewInode{Mode: a.Mode, UID: a.UID, GID: a.GID})
	if err != nil {
		return nil, err
	}
	if err = w.content(f, j.node, buf); err == nil && w.Preserve {
		err = w.attributes(f, j.node, "")
	}
	if err != nil {
		f.Put()
		return nil, err
	}
	return f, nil
}

// finish gives a file without a name the attributes that it is to have.
func (w *Writer) finish(f *ext4.Inode, a Attr, n *tree.Node) error {
	if w.Preserve {
		return w.attributes(f, n, "")
	}
	return f.SetAttr(ext4.AttrMode|ext4.AttrUID|ext4.AttrGID, a)
}

// swap replaces a file by one with other content and the same attributes.
func (w *Writer) swap(j job, have *ext4.Inode, old Attr, buf *[]byte) error {
	f, err := j.dir.CreateUnlinked(ext4.NewInode{Mode: old.Mode, UID: old.UID, GID: old.GID})
	if err != nil {
		return err
	}
	defer f.Put()
	if err := w.content(f, j.node, buf); err != nil {
		return err
	}
	if err := CopyAttributes(f, have); err != nil {
		return err
	}
	return j.dir.Replace(j.name, f)
}

// rewrite gives a file of several names another content, which all of them show.
func (w *Writer) rewrite(j job, have *ext4.Inode, buf *[]byte) error {
	need := int64(0)
	for _, run := range j.node.Runs() {
		need += run.Len
	}
	s := w.V.ext.Statfs()
	if room := int64(s.Free)*s.BlockSize + have.Attr().Blocks512*512; need > room {
		return unix.ENOSPC
	}
	if err := have.Truncate(0); err != nil {
		return err
	}
	return w.content(have, j.node, buf)
}

// CopyAttributes gives a file the owner, the mode and the extended attributes of another.
func CopyAttributes(to, from *ext4.Inode) error {
	attrs, err := Ext{from}.Xattrs()
	if err != nil {
		return err
	}
	for name, value := range attrs {
		if err := to.SetXattr(name, value, ext4.XattrFlags{}); err != nil {
			return fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return to.SetAttr(ext4.AttrMode|ext4.AttrUID|ext4.AttrGID|ext4.AttrProject, from.Attr())
}

// content writes what is in a file.
func (w *Writer) content(f *ext4.Inode, n *tree.Node, buf *[]byte) error {
	if n.Size == 0 {
		return nil
	}
	if err := n.Copy(w.ctx, buf, into(f, w.Wrote)); err != nil {
		return err
	}
	if f.Attr().Size < n.Size {
		return f.Truncate(n.Size)
	}
	return nil
}

// Stream puts what a stream gives under a name into a directory: a new file with Mode, or
// what a shell with the usual umask would make, or another content for the one that is
// there. The file appears, or changes, when all has arrived.
func (w *Writer) Stream(ctx context.Context, dir Node, where, name string, r io.Reader) error {
	err := w.stream(ctx, inode(dir), name, r)
	var source *tree.ReadError
	if err == nil || errors.As(err, &source) || errors.Is(err, context.Canceled) {
		return err
	}
	return &PathError{Path: path.Join(where, name), Err: Short(err)}
}

func (w *Writer) stream(ctx context.Context, dir *ext4.Inode, name string, r io.Reader) error {
	if err := tree.CheckName(name); err != nil {
		return err
	}
	have, err := dir.Lookup(name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if have != nil {
		defer have.Put()
		if w.NoClobber {
			if w.Left != nil {
				w.Left(&tree.Node{Mode: unix.S_IFREG})
			}
			return nil
		}
		switch have.Attr().Mode & format.ModeType {
		case format.ModeRegular:
		case format.ModeDir:
			return unix.EISDIR
		default:
			return ErrNotRegular
		}
	}
	a := w.newAttr(dir, &tree.Node{Mode: unix.S_IFREG})
	m := ext4.NewInode{Mode: a.Mode | 0o666, UID: a.UID, GID: a.GID}
	var f *ext4.Inode
	if have == nil {
		f, err = Create(dir, "", m, usualUmask)
	} else {
		f, err = dir.CreateUnlinked(m)
	}
	if err != nil {
		return err
	}
	defer f.Put()
	if err := w.copyStream(ctx, f, r); err != nil {
		return err
	}
	if have != nil {
		if err := CopyAttributes(f, have); err != nil {
			return err
		}
		if w.Owner != nil {
			if err := f.SetAttr(ext4.AttrUID|ext4.AttrGID, a); err != nil {
				return err
			}
		}
	}
	if w.Mode != nil {
		if err := Chmod(f, *w.Mode); err != nil {
			return err
		}
	}
	if have == nil {
		return dir.Link(name, f)
	}
	return dir.Replace(name, f)
}

// ErrNotRegular says that a device, a FIFO or a socket is where a file's content was wanted.
var ErrNotRegular = fmt.Errorf("not a regular file: %w", unix.EINVAL)

// usualUmask is that of files whose permissions nobody names: this machine's is none of the
// image's.
const usualUmask = 0o022

func (w *Writer) copyStream(ctx context.Context, f *ext4.Inode, r io.Reader) error {
	buf, write := make([]byte, 1<<20), into(f, w.Wrote)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := write(buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return nil
		case err != nil:
			return &tree.ReadError{Err: err}
		}
	}
}
