package ubdfmt

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	wordBits = 64
	// A chunk is the part of a bitmap that is allocated, written and locked
	// together: one page of the COW file, 16 MiB of the disk.
	chunkWords   = 512
	chunkBytes   = chunkWords * 8
	chunkSectors = chunkWords * wordBits
	chunkDisk    = chunkSectors * SectorSize
)

type chunk [chunkWords]atomic.Uint64

// bitmap remembers which sectors a COW file holds. Bits are set and never cleared,
// by any number of goroutines; a reader takes no lock. Chunks without a bit take no
// memory, so that it grows with what the COW file holds and not with the disk.
type bitmap struct {
	sectors int64
	length  int64 // in the file, in bytes
	chunks  []atomic.Pointer[chunk]
	dirty   []atomic.Bool // by chunk: it is in dirtyList

	mu        sync.Mutex
	dirtyList []int
}

func newBitmap(l Layout) *bitmap {
	n := ceilDiv(l.Sectors, chunkSectors)
	return &bitmap{
		sectors: l.Sectors,
		length:  l.BitmapLength,
		chunks:  make([]atomic.Pointer[chunk], n),
		dirty:   make([]atomic.Bool, n),
	}
}

// load takes up bytes of the file's bitmap from the offset on, a multiple of
// chunkBytes. Bits past the last sector are ignored.
func (b *bitmap) load(p []byte, offset int64) {
	for len(p) > 0 {
		n := min(len(p), chunkBytes)
		var c *chunk
		for i := 0; i < n; i += 8 {
			var w uint64
			if n-i >= 8 {
				w = binary.LittleEndian.Uint64(p[i:])
			} else {
				var tail [8]byte
				copy(tail[:], p[i:n])
				w = binary.LittleEndian.Uint64(tail[:])
			}
			first := (offset + int64(i)) * 8
			if first+wordBits > b.sectors {
				if first >= b.sectors {
					break
				}
				w &= 1<<(b.sectors-first) - 1
			}
			if w == 0 {
				continue
			}
			if c == nil {
				c = b.chunk(int(offset / chunkBytes))
			}
			c[i/8].Store(w)
		}
		p, offset = p[n:], offset+int64(n)
	}
}

// chunk returns the chunk of that index, made if there is none.
func (b *bitmap) chunk(i int) *chunk {
	if c := b.chunks[i].Load(); c != nil {
		return c
	}
	c := new(chunk)
	if !b.chunks[i].CompareAndSwap(nil, c) {
		c = b.chunks[i].Load()
	}
	return c
}

func (b *bitmap) held(sector int64) bool {
	c := b.chunks[sector/chunkSectors].Load()
	return c != nil && c[sector%chunkSectors/wordBits].Load()>>(sector%wordBits)&1 != 0
}

// run returns whether sector is held, and the end of the run of sectors from there
// on that are held alike; the run ends at end at the latest. end is above sector.
func (b *bitmap) run(sector, end int64) (held bool, next int64) {
	held = b.held(sector)
	next = sector
	for next < end {
		c := b.chunks[next/chunkSectors].Load()
		if c == nil {
			if held {
				return held, next
			}
			next = (next/chunkSectors + 1) * chunkSectors
			continue
		}
		// Ones mark the sectors that end the run.
		w := c[next%chunkSectors/wordBits].Load()
		if held {
			w = ^w
		}
		w >>= uint(next % wordBits)
		if w != 0 {
			next += int64(bits.TrailingZeros64(w))
			return held, min(next, end)
		}
		next = (next/wordBits + 1) * wordBits
	}
	return held, min(next, end)
}

// set marks the sectors [first, end) as held.
func (b *bitmap) set(first, end int64) {
	for first < end {
		i := int(first / chunkSectors)
		c := b.chunk(i)
		stop := min(end, int64(i+1)*chunkSectors)
		changed := false
		for first < stop {
			upto := min(stop, (first/wordBits+1)*wordBits)
			mask := ^uint64(0) >> (wordBits - uint(upto-first)) << uint(first%wordBits)
			w := &c[first%chunkSectors/wordBits]
			if w.Load()&mask != mask {
				w.Or(mask)
				changed = true
			}
			first = upto
		}
		if changed {
			b.markDirty(i)
		}
	}
}

// markDirty puts chunks on the list of those to be written.
func (b *bitmap) markDirty(chunks ...int) {
	for _, i := range chunks {
		if b.dirty[i].Load() || !b.dirty[i].CompareAndSwap(false, true) {
			continue
		}
		b.mu.Lock()
		b.dirtyList = append(b.dirtyList, i)
		b.mu.Unlock()
	}
}

// isDirty says whether a chunk of the sectors [first, end) waits to be written. One that
// takeDirty returned may still be on its way.
func (b *bitmap) isDirty(first, end int64) bool {
	for i := first / chunkSectors; i <= (end-1)/chunkSectors; i++ {
		if b.dirty[i].Load() {
			return true
		}
	}
	return false
}

// takeDirty returns the chunks changed since the last call. A bit that is set
// afterwards is in the next call's.
func (b *bitmap) takeDirty() []int {
	b.mu.Lock()
	list := b.dirtyList
	b.dirtyList = nil
	b.mu.Unlock()
	// The flag falls before the words are read: who sets a bit later finds it
	// down and lists the chunk again.
	for _, i := range list {
		b.dirty[i].Store(false)
	}
	return list
}

// encode puts the chunk of that index into p, as the file holds it.
func (b *bitmap) encode(i int, p *[chunkBytes]byte) {
	c := b.chunk(i)
	for j := range c {
		binary.LittleEndian.PutUint64(p[j*8:], c[j].Load())
	}
}

// span returns where in the bitmap the chunk of that index lies, in bytes. The last one
// is short.
func (b *bitmap) span(i int) (offset, n int64) {
	offset = int64(i) * chunkBytes
	return offset, min(chunkBytes, b.length-offset)
}

// any tells whether any sector is held.
func (b *bitmap) any() bool { return b.end() > 0 }

// end returns the sector after the last one held, 0 when none is.
func (b *bitmap) end() int64 {
	for i := len(b.chunks) - 1; i >= 0; i-- {
		c := b.chunks[i].Load()
		if c == nil {
			continue
		}
		for j := chunkWords - 1; j >= 0; j-- {
			if w := c[j].Load(); w != 0 {
				return int64(i)*chunkSectors + int64(j*wordBits+bits.Len64(w))
			}
		}
	}
	return 0
}
