package ext4

import (
	"fmt"
	"sync"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// Inode is a file of any type. There is one *Inode per number in memory.
//
// Locks, outermost first: FS.renameMu; mu of directories, parents before children;
// mu of other inodes, by number; then a handle; then within it group locks, FS.xattrMu,
// amu and the other small ones, none of which is held while waiting for one further
// out.
type Inode struct {
	fs    *FS
	ino   uint32
	iseed uint32 // of checksums
	typ   uint16 // the type bits of the mode, which never change
	value bool   // the content is an attribute's value, which never changes either
	refs  int32  // guarded by inodeCache.mu

	loading sync.Mutex // held while it is read
	loadErr error

	// mu guards the content: the blocks and what is in them, the extended
	// attributes, the directory. Data is read under it and, unless whole written
	// blocks are overwritten, written under it.
	mu sync.RWMutex

	// amu guards d but for d.Block, which mu guards, and body. Every change is made
	// within a handle, so that a commit sees none half done.
	amu   sync.Mutex
	d     format.Inode
	body  []byte  // the whole inode as on disk; the attributes after the fixed fields count, the rest is made from d
	dirty bool    // on the running transaction's list
	table *buffer // while dirty

	window  window
	orphan  orphanLink
	dead    bool   // freed, or being freed; guarded by inodeCache.mu
	changed uint32 // the transaction that last changed it; guarded by amu
	grew    uint32 // the transaction that last changed what fdatasync needs
}

// inodeCache holds the inodes that are referenced or dirty.
type inodeCache struct {
	mu sync.Mutex
	m  map[uint32]*Inode
}

func (c *inodeCache) clear() {
	c.mu.Lock()
	clear(c.m)
	c.mu.Unlock()
}

func (n *Inode) what() string { return fmt.Sprintf("inode %d", n.ino) }

func (n *Inode) bad(field string, v any) error {
	return n.fs.corrupt(&CorruptError{n.what(), field, v})
}

func (n *Inode) isDir() bool     { return n.typ == format.ModeDir }
func (n *Inode) isRegular() bool { return n.typ == format.ModeRegular }
func (n *Inode) extents() bool   { return n.d.Flags&format.FlagExtents != 0 }
func (n *Inode) inline() bool    { return n.d.Flags&format.FlagInlineData != 0 }

// inodePlace gives the table block and the offset in it of an inode.
func (fs *FS) inodePlace(ino uint32) (block uint64, off int, group uint32) {
	g := uint64(ino-1) / fs.ipg
	at := uint64(ino-1) % fs.ipg * uint64(fs.inodeSize)
	return fs.group(uint32(g)).desc.InodeTable + at>>fs.bsBits, int(at & uint64(fs.bs-1)), uint32(g)
}

// Inode takes a reference to an inode; unix.ESTALE when the number is not in use.
func (fs *FS) Inode(ino uint32) (*Inode, error) {
	if fs.closed.Load() {
		return nil, errClosed
	}
	if ino > fs.inodes.Load() || fs.own(ino) {
		return nil, fmt.Errorf("ext4: inode %d: %w", ino, unix.ESTALE)
	}
	n, err := fs.iget(ino)
	if err == nil && n.isValue() {
		n.unref()
		return nil, fmt.Errorf("ext4: inode %d: %w", ino, unix.ESTALE)
	}
	return n, err
}

var errClosed = fmt.Errorf("ext4: filesystem is closed: %w", unix.EIO)

// Root takes a reference to the root directory.
func (fs *FS) Root() (*Inode, error) { return fs.Inode(format.RootIno) }

// iget takes a reference to an inode in use.
func (fs *FS) iget(ino uint32) (*Inode, error) { return fs.load(ino, false, false) }

// igetSpecial takes a reference to one of the filesystem's own inodes, or to an orphan,
// which can be without links.
func (fs *FS) igetSpecial(ino uint32) (*Inode, error) {
	if ino == 0 || ino > fs.inodes.Load() {
		return nil, &CorruptError{"superblock", "inode number", ino}
	}
	return fs.load(ino, true, false)
}

// igetOrphan takes a reference to an orphan, be it one whose last user is just freeing it.
func (fs *FS) igetOrphan(ino uint32) (*Inode, error) { return fs.load(ino, true, true) }

// load takes a reference. The first to ask for an inode reads it; others wait.
func (fs *FS) load(ino uint32, special, dead bool) (*Inode, error) {
	c := &fs.icache
	c.mu.Lock()
	n := c.m[ino]
	if n != nil {
		if n.dead && !dead {
			c.mu.Unlock()
			return nil, fmt.Errorf("ext4: inode %d: %w", ino, unix.ESTALE)
		}
		n.refs++
		c.mu.Unlock()
		n.loading.Lock() // until it is read
		err := n.loadErr
		n.loading.Unlock()
		if err != nil {
			n.unref()
			return nil, err
		}
		return n, nil
	}
	n = &Inode{fs: fs, ino: ino, refs: 1}
	n.loading.Lock()
	c.m[ino] = n
	c.mu.Unlock()
	err := n.read(special)
	n.loadErr = err
	if err != nil {
		c.mu.Lock()
		if c.m[ino] == n {
			delete(c.m, ino)
		}
		c.mu.Unlock()
	}
	n.loading.Unlock()
	fs.shrink()
	if err != nil {
		return nil, err
	}
	return n, nil
}

// read decodes and checks the inode.
func (n *Inode) read(special bool) error {
	fs, ino := n.fs, n.ino
	block, off, _ := fs.inodePlace(ino)
	b, err := fs.cache.get(block)
	if err != nil {
		return err
	}
	n.body = make([]byte, fs.inodeSize)
	fs.txn.mu.Lock()
	n.changed = fs.txn.seq - 1 // a commit under way can hold its last change: fsync waits for it
	n.grew = n.changed
	fs.txn.mu.Unlock()
	fs.txn.tableMu.Lock()
	copy(n.body, b.data[off:])
	fs.txn.tableMu.Unlock()
	d := &n.d
	if err := d.Decode(n.body); err != nil {
		return err
	}
	n.iseed = format.InodeSeed(fs.seed, ino, d.Generation)
	n.typ = d.Mode & format.ModeType
	n.value = d.Flags&format.FlagEAInode != 0
	if d.Mode == 0 && d.Links == 0 {
		return fmt.Errorf("ext4: inode %d: %w", ino, unix.ESTALE)
	}
	if fs.inodeSize > format.InodeBaseSize && (int(d.ExtraIsize) > fs.inodeSize-format.InodeBaseSize || d.ExtraIsize%4 != 0) {
		return n.bad("extra size", d.ExtraIsize)
	}
	if fs.csum && !format.InodeChecksumOK(n.iseed, n.body) {
		return n.bad("checksum", d.Checksum)
	}
	if d.Links == 0 && !special {
		return fmt.Errorf("ext4: inode %d: %w", ino, unix.ESTALE)
	}
	return n.check()
}

// check looks at the fields that the rest relies on.
func (n *Inode) check() error {
	d, fs := &n.d, n.fs
	switch n.typ {
	case format.ModeRegular, format.ModeDir, format.ModeSymlink:
	case format.ModeChar, format.ModeBlock, format.ModeFIFO, format.ModeSocket:
		return n.checkACL()
	default:
		if n.ino == fs.sb.JournalInum || n.ino >= fs.firstIno || n.ino == format.RootIno {
			return n.bad("mode", fmt.Sprintf("%#o", d.Mode))
		}
	}
	if d.Flags&(format.FlagEncrypt|format.FlagCasefold) != 0 {
		return &UnsupportedError{Features: []string{fmt.Sprintf("encrypt or casefold (inode %d)", n.ino)}}
	}
	if d.Flags&format.FlagExtents != 0 && fs.incompat&format.IncompatExtents == 0 && d.Flags&format.FlagInlineData == 0 {
		return n.bad("extents flag without the feature, flags", fmt.Sprintf("%#x", d.Flags))
	}
	if d.Flags&format.FlagInlineData != 0 && fs.incompat&format.IncompatInlineData == 0 {
		return n.bad("inline data flag without the feature, flags", fmt.Sprintf("%#x", d.Flags))
	}
	if d.Size > n.maxSize() {
		return n.bad("size", d.Size)
	}
	if n.isDir() && !n.inline() && d.Size%uint64(fs.bs) != 0 {
		return n.bad("directory size", d.Size)
	}
	if n.typ == format.ModeSymlink && d.Size > uint64(fs.bs) {
		return n.bad("symlink size", d.Size)
	}
	return n.checkACL()
}

func (n *Inode) checkACL() error {
	if a := n.d.FileACL; a != 0 && !n.fs.mayHold(a, 1) {
		return n.bad("attribute block", a)
	}
	return nil
}

// maxSize is the largest size the file can have, in bytes.
func (n *Inode) maxSize() uint64 {
	if n.extents() || n.inline() {
		return (format.MaxLogicalBlock + 1) << n.fs.bsBits
	}
	return min(n.fs.mapLimit()<<n.fs.bsBits, 1<<62)
}

// Number is the inode number.
func (n *Inode) Number() uint32 { return n.ino }

// Generation tells one use of an inode number from the next.
func (n *Inode) Generation() uint32 { return n.d.Generation }

// FS is the filesystem of the inode.
func (n *Inode) FS() *FS { return n.fs }

// Ref takes a further reference.
func (n *Inode) Ref() {
	n.fs.icache.mu.Lock()
	n.refs++
	n.fs.icache.mu.Unlock()
}

// unref gives a reference back without freeing anything.
func (n *Inode) unref() {
	c := &n.fs.icache
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.refs--; n.refs == 0 && c.m[n.ino] == n && !n.isDirty() {
		delete(c.m, n.ino)
	}
}

func (n *Inode) isDirty() bool {
	n.amu.Lock()
	defer n.amu.Unlock()
	return n.dirty
}

// Attr tells the inode's attributes.
func (n *Inode) Attr() Attr {
	n.amu.Lock()
	defer n.amu.Unlock()
	d := &n.d
	a := Attr{
		Mode: d.Mode, UID: d.UID, GID: d.GID, Links: uint32(d.Links), Size: int64(d.Size),
		Atime: d.Atime, Mtime: d.Mtime, Ctime: d.Ctime, Btime: d.Crtime,
		Flags: d.Flags & format.FlagsUserVisible, Project: d.ProjID, Generation: d.Generation,
	}
	a.Blocks512 = n.sectors()
	switch n.typ {
	case format.ModeChar, format.ModeBlock:
		a.Major, a.Minor = format.DecodeDevice(&d.Block)
	}
	return a
}

// sectors is the space the file takes in sectors of 512 bytes. amu is held.
func (n *Inode) sectors() int64 {
	if n.d.Flags&format.FlagHugeFile != 0 && n.fs.roCompat&format.RoHugeFile != 0 {
		return int64(n.d.Blocks << (n.fs.bsBits - 9))
	}
	return int64(n.d.Blocks)
}

// fastSymlink says whether a symlink's target lies in the inode.
func (n *Inode) fastSymlink() bool {
	if n.extents() || n.inline() {
		return false
	}
	if n.d.Size >= format.InodeBlockSize {
		return false
	}
	if n.fs.hasEAInode {
		return true // the values of attributes count, too
	}
	own := int64(0) // a block of attributes does not make a symlink slow
	if n.d.FileACL != 0 {
		own = int64(n.fs.bs / 512)
	}
	return n.sectors() <= own
}

// Readlink is the target of a symlink; EINVAL for other types.
func (n *Inode) Readlink() (string, error) {
	if n.typ != format.ModeSymlink {
		return "", fmt.Errorf("ext4: readlink of inode %d: %w", n.ino, unix.EINVAL)
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	n.amu.Lock()
	size, fast := int(n.d.Size), n.fastSymlink()
	n.amu.Unlock()
	if fast {
		return string(n.d.Block[:size]), nil
	}
	if size == 0 || size > n.fs.bs {
		return "", n.bad("symlink size", size)
	}
	p := make([]byte, size)
	if n.inline() {
		if _, err := n.readInlineFile(p, 0); err != nil {
			return "", err
		}
	} else {
		m, err := n.mapBlock(0)
		if err != nil {
			return "", err
		}
		if m.state != Written {
			return "", n.bad("symlink target is a", m.state)
		}
		b, err := n.fs.cache.get(m.disk) // metadata: it may not be home yet
		if err != nil {
			return "", err
		}
		copy(p, b.data)
	}
	for i, c := range p {
		if c == 0 {
			p = p[:i]
			break
		}
	}
	return string(p), nil
}
