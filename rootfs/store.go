package rootfs

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// store is the tree.Store of a build: content goes to its place on the disk as it is
// read, under a name in a directory that is gone before the tree is laid out.
type store struct {
	d     Disk
	b     *mkfs.Builder
	dir   *mkfs.Node
	name  string
	count int
	files []*mkfs.Node
	all   []*stored

	// full says that content did not fit the disk, or the host's (then hostErr says
	// how): the rest is only counted, to tell which size would do.
	full    bool
	hostErr error

	wrote int64
	tell  func(wrote int64)

	mu  sync.Mutex // of buf, which stored readers flush
	buf []byte     // written next at at
	at  int64
}

func newStore(d Disk, b *mkfs.Builder, tell func(wrote int64)) *store {
	// The name is random, so that no source can have it on purpose. It is in no image:
	// directories are written when it is gone.
	return &store{d: d, b: b, name: ".stored-" + rand.Text(), tell: tell}
}

// errNotKept is why content cannot be read that did not fit.
var errNotKept = errors.New("file content was not kept: the disk is full")

// Put implements tree.Store.
func (s *store) Put(size int64, data []tree.Region, r io.Reader) (tree.Content, error) {
	if err := tree.CheckRegions(data, size); err != nil {
		return nil, err
	}
	if data == nil {
		data = []tree.Region{{Off: 0, Len: size}}
	}
	c := &stored{s: s, size: size, data: data}
	s.all = append(s.all, c)
	if s.full {
		return c, nil
	}
	if s.dir == nil {
		dir, err := s.b.Add(s.b.Root(), s.name, mkfs.Header{Mode: unix.S_IFDIR | 0o700})
		if err != nil {
			return nil, err
		}
		s.dir = dir
	}
	node, err := s.b.Add(s.dir, strconv.Itoa(s.count), mkfs.Header{Mode: unix.S_IFREG | 0o600, Size: size})
	if err != nil {
		if err := s.overflow(err); err != nil {
			return nil, err
		}
		return c, nil
	}
	s.count++
	s.files = append(s.files, node)
	regions := make([]mkfs.Region, len(data))
	for i, run := range data {
		regions[i] = mkfs.Region{Offset: run.Off, Length: run.Len}
	}
	extents, err := s.b.Place(node, regions)
	if err != nil {
		if err := s.overflow(err); err != nil {
			return nil, err
		}
		return c, nil
	}
	c.node, c.extents = node, extents
	for _, run := range data {
		err := s.fill(c, run, r)
		if errors.Is(err, unix.ENOSPC) {
			s.full, s.hostErr = true, err
			c.node, c.extents = nil, nil
			return c, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// overflow notes that the disk is full, and gives back every other error.
func (s *store) overflow(err error) error {
	var space *mkfs.SpaceError
	if !errors.As(err, &space) {
		return err
	}
	s.full = true
	return nil
}

// storeBuffer is how much is written at once, in bytes.
const storeBuffer = 1 << 20

// fill writes one run of a file, taken from r, to where the file lies.
func (s *store) fill(c *stored, run tree.Region, r io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.pieces(run.Off, run.Len, func(disk, off, n int64) error {
		for n > 0 {
			if disk != s.at+int64(len(s.buf)) {
				// Small gaps are the ends of blocks, which read as zeros.
				gap := disk - (s.at + int64(len(s.buf)))
				if len(s.buf) > 0 && gap > 0 && gap < 4096 && int64(cap(s.buf)-len(s.buf)) > gap {
					s.buf = append(s.buf, make([]byte, gap)...)
				} else if err := s.flush(); err != nil {
					return err
				}
			}
			if len(s.buf) == 0 {
				s.at = disk
				if s.buf == nil {
					s.buf = make([]byte, 0, storeBuffer)
				}
			}
			free := s.buf[len(s.buf):cap(s.buf)]
			free = free[:min(int64(len(free)), n)]
			got, err := io.ReadFull(r, free)
			s.buf = s.buf[:len(s.buf)+got]
			if err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			disk, n = disk+int64(got), n-int64(got)
			if len(s.buf) == cap(s.buf) {
				if err := s.flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// flush writes what is buffered; mu is held.
func (s *store) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	if _, err := s.d.WriteAt(s.buf, s.at); err != nil {
		return err
	}
	s.wrote += int64(len(s.buf))
	s.tell(s.wrote)
	s.buf = s.buf[:0]
	return nil
}

// finish writes what is still in memory.
func (s *store) finish() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

// drop takes the temporary names away; what got no other name is gone with them, from the
// image's file too: a layer of a container may have hidden it for good reason.
func (s *store) drop(t *tree.Tree) error {
	if s.dir == nil {
		return nil
	}
	if f, base := s.d.File(); f != nil {
		for _, c := range s.replaced(t) {
			for _, e := range c.extents {
				const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
				err := unix.Fallocate(int(f.Fd()), punch, base+e.Disk, e.Length)
				if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
					return err
				}
			}
		}
	}
	for i := range s.files {
		if err := s.b.Remove(s.dir, strconv.Itoa(i)); err != nil {
			return err
		}
	}
	return s.b.Remove(s.b.Root(), s.name)
}

// replaced is what was put and has no name in the tree: a later entry took it.
func (s *store) replaced(t *tree.Tree) []*stored {
	named := make(map[*stored]bool)
	// Walk ends early only for an error of what it calls.
	_ = t.Walk(func(_ string, _ *tree.Node, _ string, n *tree.Node, _ bool) error {
		if c, ok := n.Content.(*stored); ok {
			named[c] = true
		}
		return nil
	})
	var gone []*stored
	for _, c := range s.all {
		if !named[c] {
			gone = append(gone, c)
		}
	}
	return gone
}

// stored is content that was put. It lies on the disk already, unless node is nil: then
// it did not fit.
type stored struct {
	s       *store
	size    int64
	data    []tree.Region
	node    *mkfs.Node
	extents []mkfs.Extent
}

// pieces visits the parts of [off, off+n) that lie on the disk.
func (c *stored) pieces(off, n int64, visit func(disk, off, n int64) error) error {
	for _, e := range c.extents {
		start, end := max(off, e.Offset), min(off+n, e.Offset+e.Length)
		if start >= end {
			continue
		}
		if err := visit(e.Disk+(start-e.Offset), start, end-start); err != nil {
			return err
		}
	}
	return nil
}

// Open implements tree.Content.
func (c *stored) Open() (tree.Reader, error) {
	if c.node == nil {
		return nil, errNotKept
	}
	if err := c.s.finish(); err != nil {
		return nil, err
	}
	return storedReader{c}, nil
}

type storedReader struct{ c *stored }

// ReadAt implements tree.Reader.
func (r storedReader) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	err := r.c.pieces(off, int64(len(p)), func(disk, at, n int64) error {
		_, err := r.c.s.d.ReadAt(p[at-off:at-off+n], disk)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Host implements tree.Reader.
func (storedReader) Host(tree.Region) (*os.File, int64) { return nil, 0 }

// Close implements tree.Reader.
func (storedReader) Close() error { return nil }
