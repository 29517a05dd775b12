// Package rootfs makes a root file system out of a source: it reads the source into a
// tree, lets settings edit the tree, and lays it out on a disk as ext4. No mount, no
// temporary tree and no privilege are needed, and owners, modes, times to the
// nanosecond, extended attributes, hard links, nodes and holes arrive as they are in
// the source.
//
// The subpackages: tree is what will be in the image; hostdir, tarball, oci,
// debian and builtin are sources; inside does work in a machine; settings are what is edited (fstab, host name, root's password ...).
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/rootfs/settings"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Source is where a root file system comes from.
type Source interface {
	// Fill puts all that the source has into the tree, which is empty before. Content
	// that can be read only once goes to the store.
	Fill(ctx context.Context, t *tree.Tree, s tree.Store) error

	// Close lets go of the source. Contents cannot be read after it.
	Close() error

	// String names the source in messages.
	String() string
}

// Disk is what a file system is made on: it reads as zeros before.
type Disk interface {
	io.ReaderAt
	io.WriterAt

	// Size is the length of the disk in bytes.
	Size() int64

	// File is the host file that holds the disk, byte for byte, and where in it the disk
	// begins, or nil. With it the kernel can copy without bringing the bytes here.
	File() (*os.File, int64)
}

// Options say how to build.
type Options struct {
	// Filesystem is what ext4 to make. Its Time is the time of the build: of files that
	// settings write and of every change time.
	Filesystem mkfs.Options

	// Settings edit the tree, in this order.
	Settings []settings.Setting

	// Owners changes who owns what.
	Owners Owners

	// Reproducible makes the image a function of the source alone: times after
	// Filesystem.Time become that time, and access times become the times of
	// modification.
	Reproducible bool

	// Progress, where set, is called with the bytes that were written of all that will be;
	// while a source is read that can be read only once, with the bytes of it that were
	// read (a total of 0 when that is not known). Several goroutines call it.
	Progress func(done, total int64)
}

// Summary says what was built.
type Summary struct {
	Files       int64 // regular files
	Directories int64 // the root and lost+found counted
	Symlinks    int64
	Others      int64 // device nodes, FIFOs, sockets
	Names       int64 // directory entries, hard links counted each
	Inodes      int64 // inodes in use by all of those
	Bytes       int64 // file content, holes not counted
}

// SizeError says that a source does not fit a disk. errors.Is finds unix.ENOSPC in it.
type SizeError struct {
	Source     string
	Have, Need int64 // bytes; Need is the smallest size that would do
}

// Error names both sizes, and the one to ask for.
func (e *SizeError) Error() string {
	const mib = 1 << 20
	return fmt.Sprintf("%s does not fit a disk of %d bytes: it needs %d, --size %dM would do",
		e.Source, e.Have, e.Need, (e.Need+mib-1)/mib)
}

// Unwrap is unix.ENOSPC.
func (e *SizeError) Unwrap() error { return unix.ENOSPC }

// Build reads the source and makes a file system of it on the disk. After an error, or
// when the context ends, the disk holds no file system.
func Build(ctx context.Context, d Disk, src Source, o Options) (*Summary, error) {
	if o.Filesystem.Time.IsZero() {
		o.Filesystem.Time = time.Now()
	}
	b, err := mkfs.NewBuilder(d, o.Filesystem)
	tiny := errors.Is(err, unix.ENOSPC) // not even an empty file system fits
	if err != nil && !tiny {
		return nil, err
	}
	t := tree.New()
	st := newStore(d, b, told(src, o.Progress))
	st.full = tiny
	if err := fill(ctx, t, src, st, &o); err != nil {
		return nil, err
	}
	if st.hostErr != nil {
		return nil, hostFull(t, src, st, st.hostErr, &o)
	}
	if st.full {
		return nil, tooSmall(t, src, st, &o)
	}
	lay := layout{b: b, store: st, options: &o}
	if err := lay.run(t); err != nil {
		return nil, spaceOr(err, t, src, st, &o)
	}
	if err := b.Fits(); err != nil {
		return nil, spaceOr(err, t, src, st, &o)
	}
	err = lay.copy(ctx, d)
	if err == nil {
		err = b.Close()
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil, hostFull(t, src, st, err, &o)
	}
	if err != nil {
		return nil, err
	}
	return &lay.sum, nil
}

// told is how the store tells of progress: by what was read of the source, where that
// is known.
func told(src Source, tell func(done, total int64)) func(wrote int64) {
	of, ok := src.(interface{ Progress() (done, total int64) })
	return func(wrote int64) {
		switch {
		case tell == nil:
		case ok:
			tell(of.Progress())
		default:
			tell(wrote, 0)
		}
	}
}

// spaceOr is an error of the layout: of a disk that is too small, with the size that
// would do, or of an entry, with the source.
func spaceOr(err error, t *tree.Tree, src Source, st *store, o *Options) error {
	var space *mkfs.SpaceError
	if errors.As(err, &space) {
		return tooSmall(t, src, st, o)
	}
	return fmt.Errorf("%s: %w", src, err)
}

// fill reads the source into the tree and edits it.
func fill(ctx context.Context, t *tree.Tree, src Source, st *store, o *Options) error {
	if err := src.Fill(ctx, t, st); err != nil {
		return err
	}
	if err := o.Owners.apply(t); err != nil {
		return fmt.Errorf("%s: %w", src, err)
	}
	for _, s := range o.Settings {
		err := s.Apply(t)
		if st.full && errors.Is(err, errNotKept) {
			continue // what it wanted to edit is not there, and its size does not matter
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	if st.full {
		return nil
	}
	err := st.finish()
	if errors.Is(err, unix.ENOSPC) {
		st.full, st.hostErr = true, err
		return nil
	}
	return err
}

// plan lays the tree out on a disk that is nowhere, and beside it what was stored and
// then replaced.
func plan(t *tree.Tree, src Source, replaced []*stored, size int64, o *Options) (*mkfs.Builder, *layout, error) {
	b, err := mkfs.NewBuilder(nowhere(size), o.Filesystem)
	if err != nil {
		return nil, nil, err
	}
	lay := &layout{b: b, options: o}
	if err := lay.run(t); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", src, err)
	}
	if err := lay.beside(replaced); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", src, err)
	}
	return b, lay, nil
}

// ample is a size that holds a tree whatever the options: twice what files and inodes
// take, and a start that no option exceeds.
func ample(t *tree.Tree, replaced []*stored) (int64, error) {
	size := int64(4 << 30)
	for _, c := range replaced {
		size += 2 * 16384
		for _, r := range c.data {
			size += 2 * r.Len
		}
	}
	err := t.Walk(func(_ string, _ *tree.Node, _ string, n *tree.Node, first bool) error {
		if first {
			size += 2 * 16384
			for _, r := range n.Runs() {
				size += 2 * r.Len
			}
		}
		return nil
	})
	return size, err
}

// tooSmall says which size of the disk would do.
func tooSmall(t *tree.Tree, src Source, st *store, o *Options) error {
	have, replaced := st.d.Size(), st.replaced(t)
	size, err := ample(t, replaced)
	if err != nil {
		return err
	}
	b, _, err := plan(t, src, replaced, size, o)
	if err != nil {
		return err
	}
	need, err := b.Need()
	if err != nil {
		return fmt.Errorf("%s: %w", src, err)
	}
	// A larger disk can hold less: from 8 MiB on it has a journal. Nobody who asked for
	// much wants to hear of little.
	const mib = 1 << 20
	for size := have/mib*mib + mib; need <= have; size += max(size/8/mib*mib, mib) {
		b, _, err := plan(t, src, replaced, size, o)
		if err == nil {
			err = b.Fits()
		}
		switch {
		case err == nil:
			need = size
		case !errors.Is(err, unix.ENOSPC):
			return err
		}
	}
	return &SizeError{Source: src.String(), Have: have, Need: need}
}

// hostFull adds to the error of a full host how much the image takes there.
func hostFull(t *tree.Tree, src Source, st *store, cause error, o *Options) error {
	replaced := st.replaced(t)
	size, err := ample(t, replaced)
	if err != nil {
		return errors.Join(cause, err)
	}
	_, lay, err := plan(t, src, replaced, size, o)
	if err != nil {
		return errors.Join(cause, err)
	}
	const metadata = 6 << 20 // bitmaps and the journal's ends, of a large disk
	need := lay.total + lay.sum.Inodes*256 + lay.sum.Directories*4096 + metadata
	return fmt.Errorf("%w: the image takes about %d MiB there", cause, (need+1<<20-1)>>20)
}

// nowhere is a disk of some size. What is written is gone.
type nowhere int64

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (n nowhere) Size() int64                          { return int64(n) }
