package mkfs

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
)

// Builder makes a filesystem with a tree in it. Its methods must be called from one goroutine
// at a time; the ranges that Place returned may be written by any number of goroutines until
// Close is called.
type Builder struct {
	dev Device // nil in a plan
	o   *resolved
	g   *geometry // nil in a plan
	l   *layout
	s   space

	journal []Extent
	own     []ownFile

	root, lost *Node
	nodes      [][]Node // in chunks, so that a Node never moves; by number from firstIno on
	count      int      // nodes in the chunks
	extents    []Extent // empty, with room for what Place returns next

	names  names
	xattrs sharedXattrs

	out          output // of blocks all over the device
	table        output // of inode tables
	written      int64  // bytes of metadata
	journalInode format.Inode
	resizeLarge  bool // the resize inode says that it is 2 GiB or more
	checksumSeed uint32

	// Space that is used again and again.
	scratch []run
	small   []format.Extent
	sorted  []slot
	leaves  []int
	buffer  []byte

	closed bool
}

const nodeChunk = 512

// SpaceError says that a tree does not fit. errors.Is(err, unix.ENOSPC) holds.
type SpaceError struct {
	// Have is the device's size in bytes and Need the smallest that would do, as far as
	// the tree is known.
	Have, Need int64
}

// Error says both numbers.
func (e *SpaceError) Error() string {
	return fmt.Sprintf("does not fit in %s: needs at least %s", sizeString(e.Have), sizeString(e.Need))
}

// Is says that the error is ENOSPC.
func (e *SpaceError) Is(target error) bool { return target == unix.ENOSPC }

// sizeString writes a size the way --size takes it: 96M, 1536K, or plain bytes.
func sizeString(n int64) string {
	switch {
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n%(1<<10) == 0:
		return fmt.Sprintf("%dK", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

var (
	errClosed = errors.New("the filesystem is finished")
	errPlan   = errors.New("a plan has no device")
)

// NewBuilder begins a filesystem on dev and writes nothing. A nil dev makes a plan: everything
// that describes the tree works, Need answers, Place and Close fail.
//
// A wrong option, and a device that is too small for any filesystem, are errors in one line;
// errors.Is finds unix.ENOSPC in the second.
func NewBuilder(dev Device, o Options) (*Builder, error) {
	r, err := o.resolve()
	if err != nil {
		return nil, fmt.Errorf("ext4 options: %w", err)
	}
	b := &Builder{dev: dev, o: r}
	b.names.seed = maphash.MakeSeed()
	b.checksumSeed = format.CRC32C(^uint32(0), r.uuid[:])
	if dev != nil {
		if b.g, err = newGeometry(dev.Size(), r); err != nil {
			return nil, fmt.Errorf("ext4: %w", err)
		}
		b.l = newLayout(b.g)
		b.s = newSpace(b.l.free)
		if b.g.journal > 0 {
			b.scratch = b.s.take(b.g.journal, b.scratch[:0])
			b.journal = b.toExtents(nil, b.scratch, 0)
		}
	}
	head := Header{Mode: format.ModeDir | 0o755, Atime: r.now, Mtime: r.now, Ctime: r.now}
	b.root = &Node{ino: format.RootIno, links: 2, dir: &directory{first: -1, last: -1}}
	b.root.dir.parent = b.root
	if err := b.setHeader(b.root, &head); err != nil {
		return nil, err
	}
	head.Mode = format.ModeDir | 0o700
	if b.lost, err = b.Add(b.root, lostFoundName, head); err != nil {
		return nil, err
	}
	b.addOwn()
	return b, nil
}

const lostFoundName = "lost+found"

// Root is the root directory. It begins as mode 0755 owned by root, with Options.Time.
func (b *Builder) Root() *Node { return b.root }

// newNode makes the next inode.
func (b *Builder) newNode() *Node {
	if b.count%nodeChunk == 0 {
		b.nodes = append(b.nodes, make([]Node, nodeChunk))
	}
	n := &b.nodes[b.count/nodeChunk][b.count%nodeChunk]
	n.ino = uint32(firstIno + b.count)
	b.count++
	return n
}

// node is the inode of a number from firstIno on.
func (b *Builder) node(i int) *Node { return &b.nodes[i/nodeChunk][i%nodeChunk] }

// Add makes an inode and gives it a name in a directory. Inodes are numbered in the order of
// Add. A name that exists is an error that is unix.EEXIST, except the root's lost+found, which is
// there from the start: adding it as a directory sets its header.
//
// The Builder keeps name and Header.Target; it is done with Header.Xattrs when Add returns.
func (b *Builder) Add(parent *Node, name string, h Header) (*Node, error) {
	if err := b.checkName(parent, name); err != nil {
		return nil, err
	}
	hash := b.names.hash(parent, name)
	if at := b.names.find(hash, parent, name); at >= 0 {
		if n := b.names.list[at].node; n == b.lost && h.Mode&format.ModeType == format.ModeDir {
			return n, b.setHeader(n, &h)
		}
		return nil, fmt.Errorf("add %q to directory %d: %w", name, parent.ino, unix.EEXIST)
	}
	if b.count >= maxInodes-firstIno {
		return nil, fmt.Errorf("add %q: %w: more than %d inodes", name, unix.ENOSPC, uint64(maxInodes))
	}
	isDir := h.Mode&format.ModeType == format.ModeDir
	if isDir && parent.dir.subdirs+2 >= format.MaxLinks && b.o.f.ro&format.RoDirNlink == 0 {
		return nil, fmt.Errorf("add %q to directory %d: %w: the feature dir_nlink is off", name, parent.ino, unix.EMLINK)
	}
	var n Node // on the stack, so that a header that is refused takes no number
	if err := b.setHeader(&n, &h); err != nil {
		return nil, fmt.Errorf("add %q: %w", name, err)
	}
	made := b.newNode()
	n.ino, n.links = made.ino, 1
	if isDir {
		n.links = 2
		n.dir = &directory{parent: parent, first: -1, last: -1}
		parent.dir.subdirs++
	}
	*made = n
	b.names.add(hash, parent, name, made)
	return made, nil
}

func (b *Builder) checkName(parent *Node, name string) error {
	switch {
	case b.closed:
		return errClosed
	case parent == nil || parent.dir == nil:
		return fmt.Errorf("add %q: %w: the parent is no directory", name, unix.ENOTDIR)
	case parent.links == 0:
		return fmt.Errorf("add %q: %w: the parent was removed", name, unix.ENOENT)
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("name %q: %w", name, unix.EINVAL)
	case len(name) > format.MaxName:
		return fmt.Errorf("name %q: %w: %d bytes, at most %d", name, unix.ENAMETOOLONG, len(name), format.MaxName)
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return fmt.Errorf("name %q: %w: a slash or a zero byte", name, unix.EINVAL)
		}
	}
	return nil
}

// Link gives an inode that is not a directory one more name.
func (b *Builder) Link(parent *Node, name string, n *Node) error {
	if err := b.checkName(parent, name); err != nil {
		return err
	}
	switch {
	case n == nil || n.links == 0:
		return fmt.Errorf("link %q: %w", name, unix.ENOENT)
	case n.dir != nil:
		return fmt.Errorf("link %q: %w: inode %d is a directory", name, unix.EPERM, n.ino)
	case n.links >= format.MaxLinks:
		return fmt.Errorf("link %q: %w: inode %d has %d names", name, unix.EMLINK, n.ino, n.links)
	}
	hash := b.names.hash(parent, name)
	if b.names.find(hash, parent, name) >= 0 {
		return fmt.Errorf("link %q in directory %d: %w", name, parent.ino, unix.EEXIST)
	}
	n.links++
	b.names.add(hash, parent, name, n)
	return nil
}

// Lookup is the node of that name in a directory, nil when there is none.
func (b *Builder) Lookup(parent *Node, name string) *Node {
	if parent == nil || parent.dir == nil {
		return nil
	}
	if at := b.names.find(b.names.hash(parent, name), parent, name); at >= 0 {
		return b.names.list[at].node
	}
	return nil
}

// Remove takes a name away, and with the last name the inode. A directory must be empty.
// The space of a file that was placed is free in the finished filesystem, but not used again
// by the Builder.
func (b *Builder) Remove(parent *Node, name string) error {
	if b.closed {
		return errClosed
	}
	if parent == nil || parent.dir == nil {
		return fmt.Errorf("remove %q: %w", name, unix.ENOTDIR)
	}
	at := b.names.find(b.names.hash(parent, name), parent, name)
	if at < 0 {
		return fmt.Errorf("remove %q: %w", name, unix.ENOENT)
	}
	n := b.names.list[at].node
	if n == b.lost {
		return fmt.Errorf("remove %q: %w: every ext4 has it", name, unix.EPERM)
	}
	if n.dir != nil {
		if n.dir.count > 0 {
			return fmt.Errorf("remove %q: %w", name, unix.ENOTEMPTY)
		}
		n.links = 1
		parent.dir.subdirs--
	}
	b.names.remove(at)
	if n.links--; n.links == 0 {
		for _, e := range n.ext {
			start := uint64(e.Disk) >> b.o.blockBits
			b.s.freed = append(b.s.freed, run{start, start + ceil(uint64(e.Length), uint64(b.o.blockSize))})
		}
		n.ext = nil
		b.xattrs.drop(n.xattrBlock)
		n.xattrBlock = nil
	}
	return nil
}

// SetHeader replaces what Add said of a node. The type must stay, and so must the size of a file
// that was placed.
func (b *Builder) SetHeader(n *Node, h Header) error {
	if b.closed {
		return errClosed
	}
	if h.Mode&format.ModeType != n.mode&format.ModeType {
		return fmt.Errorf("inode %d: %w: mode %#o changes its type, %#o", n.ino, unix.EINVAL, h.Mode, n.mode)
	}
	if n.placed && h.Size != n.size {
		return fmt.Errorf("inode %d: %w: it was placed with %d bytes, not %d", n.ino, unix.EINVAL, n.size, h.Size)
	}
	return b.setHeader(n, &h)
}

// Place puts a regular file's data on the device and returns where. The caller writes there
// before Close; what it leaves unwritten reads as zeros.
//
// regions are the parts of the file that hold data, ascending; between them are holes, kept
// as holes where they span whole blocks. nil means that all of the file is data, an
// empty slice that all is a hole. The extents are those of the regions widened to
// blocks. The slice belongs to the Builder and stays valid and unchanged.
//
// A file is placed once. A *SpaceError means that it does not fit.
func (b *Builder) Place(n *Node, regions []Region) ([]Extent, error) {
	switch {
	case b.dev == nil:
		return nil, errPlan
	case b.closed:
		return nil, errClosed
	case n.mode&format.ModeType != format.ModeRegular:
		return nil, fmt.Errorf("place inode %d: %w: mode %#o is no regular file", n.ino, unix.EINVAL, n.mode)
	case n.placed:
		return nil, fmt.Errorf("place inode %d: %w: it is placed already", n.ino, unix.EEXIST)
	case n.links == 0:
		return nil, fmt.Errorf("place inode %d: %w", n.ino, unix.ENOENT)
	}
	if regions == nil && n.size > 0 {
		regions = []Region{{0, n.size}}
	}
	blocks, err := b.dataBlocks(n, regions)
	if err != nil {
		return nil, err
	}
	if blocks > b.s.left {
		return nil, b.noSpace()
	}
	own := b.extents
	next := uint64(0) // first block of the file that is not placed yet
	for _, r := range regions {
		if r.Length == 0 {
			continue
		}
		start := max(uint64(r.Offset)>>b.o.blockBits, next)
		next = ceil(uint64(r.Offset+r.Length), uint64(b.o.blockSize))
		if next <= start {
			continue
		}
		b.scratch = b.s.take(next-start, b.scratch[:0])
		own = b.toExtents(own, b.scratch, start)
	}
	n.placed = true
	n.ext = own[:len(own):len(own)]
	if k := len(own); k > 0 {
		last := &own[k-1]
		last.Length = min(last.Length, n.size-last.Offset)
	}
	// The next file's extents follow these, in the same array as long as it has room.
	if rest := own[len(own):]; cap(rest) >= 64 {
		b.extents = rest
	} else {
		b.extents = make([]Extent, 0, 4096)
	}
	return n.ext, nil
}

// dataBlocks checks regions and counts the blocks that they touch.
func (b *Builder) dataBlocks(n *Node, regions []Region) (uint64, error) {
	var blocks, next uint64
	end := int64(0)
	for _, r := range regions {
		if r.Offset < end || r.Length < 0 || r.Offset > n.size || r.Length > n.size-r.Offset {
			return 0, fmt.Errorf("place inode %d: %w: data at %d, %d bytes, in a file of %d bytes, after %d",
				n.ino, unix.EINVAL, r.Offset, r.Length, n.size, end)
		}
		if r.Length == 0 {
			continue
		}
		end = r.Offset + r.Length
		start := max(uint64(r.Offset)>>b.o.blockBits, next)
		next = max(next, ceil(uint64(end), uint64(b.o.blockSize)))
		blocks += next - min(start, next)
	}
	return blocks, nil
}

// toExtents appends runs as extents of a file, from block at of the file on. One that continues
// the one before it, in the file and on the device, makes that one longer.
func (b *Builder) toExtents(list []Extent, runs []run, at uint64) []Extent {
	for _, r := range runs {
		e := Extent{
			Offset: int64(at << b.o.blockBits),
			Length: int64(r.len() << b.o.blockBits),
			Disk:   int64(r.start << b.o.blockBits),
		}
		at += r.len()
		if k := len(list); k > 0 && list[k-1].Offset+list[k-1].Length == e.Offset && list[k-1].Disk+list[k-1].Length == e.Disk {
			list[k-1].Length += e.Length
			continue
		}
		list = append(list, e)
	}
	return list
}

// copyBuffer is how much Data reads at once.
const copyBuffer = 1 << 20

// Data places a file and writes it from r, which must give Header.Size bytes: fewer are an
// error (io.ErrUnexpectedEOF), more are not read.
func (b *Builder) Data(n *Node, r io.Reader) error {
	extents, err := b.Place(n, nil)
	if err != nil {
		return err
	}
	if b.buffer == nil {
		b.buffer = make([]byte, copyBuffer)
	}
	for _, e := range extents {
		for e.Length > 0 {
			k := min(e.Length, copyBuffer)
			if _, err := io.ReadFull(r, b.buffer[:k]); err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("data of inode %d, %d bytes, at %d: %w", n.ino, n.size, e.Offset, err)
			}
			if _, err := b.dev.WriteAt(b.buffer[:k], e.Disk); err != nil {
				return fmt.Errorf("write data of inode %d: %w", n.ino, err)
			}
			e.Offset, e.Disk, e.Length = e.Offset+k, e.Disk+k, e.Length-k
		}
	}
	return nil
}

// noSpace is the error of a tree that does not fit.
func (b *Builder) noSpace() error {
	// From this size on: a smaller device can have more inodes, and would be no answer.
	need, err := b.need(uint64(b.dev.Size()) + 1)
	if err != nil {
		return err
	}
	return &SpaceError{Have: b.dev.Size(), Need: need}
}
