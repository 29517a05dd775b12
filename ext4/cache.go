package ext4

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// bufKind says what a metadata block holds, and so where its checksum lies.
type bufKind uint8

const (
	kindPlain     bufKind = iota // no checksum of its own
	kindBitmap                   // checksum in the group descriptor
	kindInodes                   // one checksum per inode
	kindExtent                   // node of an extent tree
	kindIndirect                 // block of block numbers
	kindDirLeaf                  // directory block with entries
	kindDxRoot                   // root of an htree
	kindDxNode                   // index block of an htree
	kindXattr                    // block of extended attributes
	kindOrphan                   // block of the orphan file
	kindGroupDesc                // block of group descriptors
	kindQuota                    // block of a quota file
	kindData                     // data of a file, in loggedData
)

// buffer is a block of metadata in memory.
//
// Who may touch data: a block of one inode (directory, extents, attributes) belongs to
// the holder of that inode's lock, a bitmap to the holder of its group's lock. Inode
// table blocks and group descriptors are written during a commit only. Changes happen
// within a handle, and eviction only while no handle is open; so a buffer found within
// a handle stays the one in the cache until the handle ends. A reader without a handle
// can hold a buffer that was evicted meanwhile: its bytes still are the block's, because
// whoever changes them needs the lock the reader holds.
type buffer struct {
	nr   uint64
	data []byte

	load   sync.Mutex // held while data is read
	loaded atomic.Bool
	used   atomic.Bool   // since the last sweep
	seen   atomic.Uint64 // checked as: kind<<32 | inode number, 0 for not yet
	flying atomic.Bool   // on its way home: the disk does not have it yet

	// The rest is guarded by txn.mu.
	dirty bool
	kind  bufKind
	seed  uint32 // of the checksum
}

const cacheShards = 16

// cache holds the blocks of metadata in memory.
type cache struct {
	dev   Device
	bs    int
	limit int64 // blocks

	count  atomic.Int64
	shards [cacheShards]struct {
		sync.Mutex
		m map[uint64]*buffer
	}

	// overlay holds replayed blocks that must not be written (Options.NoWrite).
	// It is set before the cache is used and not changed after.
	overlay map[uint64][]byte

	failed func(error) error // told of reads that fail
}

func newCache(dev Device, blockSize int, bytes int64) *cache {
	c := &cache{dev: dev, bs: blockSize, limit: max(bytes/int64(blockSize), 64)}
	for i := range c.shards {
		c.shards[i].m = make(map[uint64]*buffer)
	}
	return c
}

// get returns a block, read from the device unless it is in memory. A read that fails
// is met as errors= says, for it can leave an operation half done.
func (c *cache) get(nr uint64) (*buffer, error) {
	b, err := c.load(nr)
	if err != nil && c.failed != nil {
		return b, c.failed(err)
	}
	return b, err
}

// load is get for those who hold txn.mu and fail by themselves.
func (c *cache) load(nr uint64) (*buffer, error) {
	s := &c.shards[nr%cacheShards]
	s.Lock()
	b := s.m[nr]
	if b == nil {
		b = &buffer{nr: nr}
		s.m[nr] = b
		c.count.Add(1)
	}
	s.Unlock()
	if !b.used.Load() {
		b.used.Store(true)
	}
	if b.loaded.Load() {
		return b, nil
	}
	return b, c.read(b)
}

func (c *cache) read(b *buffer) error {
	b.load.Lock()
	defer b.load.Unlock()
	if b.loaded.Load() {
		return nil
	}
	data := make([]byte, c.bs)
	if o, ok := c.overlay[b.nr]; ok {
		copy(data, o)
	} else if _, err := c.dev.ReadAt(data, int64(b.nr)*int64(c.bs)); err != nil {
		return fmt.Errorf("ext4: read block %d: %w", b.nr, ioError(err))
	}
	b.data = data
	b.loaded.Store(true)
	return nil
}

// fresh returns a block of zeros in place of what the disk holds there.
func (c *cache) fresh(nr uint64) *buffer {
	b := &buffer{nr: nr, data: make([]byte, c.bs)}
	b.loaded.Store(true)
	b.used.Store(true)
	s := &c.shards[nr%cacheShards]
	s.Lock()
	if s.m[nr] == nil {
		c.count.Add(1)
	}
	s.m[nr] = b
	s.Unlock()
	return b
}

// peek returns a block when it is in memory.
func (c *cache) peek(nr uint64) *buffer {
	s := &c.shards[nr%cacheShards]
	s.Lock()
	defer s.Unlock()
	return s.m[nr]
}

// forget drops a block whose content nobody needs any more.
func (c *cache) forget(nr uint64) {
	s := &c.shards[nr%cacheShards]
	s.Lock()
	if s.m[nr] != nil {
		delete(s.m, nr)
		c.count.Add(-1)
	}
	s.Unlock()
}

func (c *cache) over() bool { return c.count.Load() > c.limit }

// evict drops clean blocks that were not used since the last sweep until a quarter of
// the room is free. No handle may be open.
func (c *cache) evict() {
	goal := c.limit - c.limit/4
	for range 2 {
		for i := range c.shards {
			s := &c.shards[i]
			s.Lock()
			for nr, b := range s.m {
				if c.count.Load() <= goal {
					s.Unlock()
					return
				}
				if b.dirty || b.flying.Load() || b.used.Swap(false) {
					continue
				}
				delete(s.m, nr)
				c.count.Add(-1)
			}
			s.Unlock()
		}
	}
}

// claim says whether the buffer is known as what the caller takes it for. fresh means
// that nobody has looked yet: the caller checks the content and then says settle. A
// block that is known as something else belongs to two structures of a damaged
// filesystem; changing it as one would break the other under its user's hands.
func (b *buffer) claim(kind bufKind, ino uint32) (fresh, ok bool) {
	switch b.seen.Load() {
	case uint64(kind)<<32 | uint64(ino):
		return false, true
	case 0:
		return true, true
	}
	return false, false
}

// settle says what the buffer is; false when somebody else said otherwise meanwhile.
func (b *buffer) settle(kind bufKind, ino uint32) bool {
	want := uint64(kind)<<32 | uint64(ino)
	return b.seen.CompareAndSwap(0, want) || b.seen.Load() == want
}
