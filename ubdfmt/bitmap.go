package ubdfmt

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	wordBits = 64
	// A part is what of a bitmap takes memory together: 2 MiB of the disk.
	partWords   = 64
	partBytes   = partWords * 8
	partSectors = partWords * wordBits
	// A chunk is what is written and locked together: one page of the COW file,
	// 16 MiB of the disk.
	chunkParts   = 8
	chunkBytes   = chunkParts * partBytes
	chunkSectors = chunkParts * partSectors
	chunkDisk    = chunkSectors * SectorSize
)

type (
	part  [partWords]atomic.Uint64
	chunk [chunkParts]atomic.Pointer[part]
)

// bitmap remembers which sectors a COW file holds. Bits are set and never cleared,
// by any number of goroutines; a reader takes no lock. Parts without a bit take no
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
	var used []int // where p has parts that are not zeros
	for at := 0; at < len(p) && (offset+int64(at))*8 < b.sectors; at += partBytes {
		if !isZero(p[at:min(len(p), at+partBytes)]) {
			used = append(used, at)
		}
	}
	// To touch memory for the first time is most of what a large bitmap costs.
	parts := make([]part, len(used))
	for n, at := range used {
		words, raw := &parts[n], p[at:min(len(p), at+partBytes)]
		at := offset + int64(at)
		first := at * 8
		for i := 0; i < len(raw) && first < b.sectors; i += 8 {
			var w uint64
			if len(raw)-i >= 8 {
				w = binary.LittleEndian.Uint64(raw[i:])
			} else {
				var tail [8]byte
				copy(tail[:], raw[i:])
				w = binary.LittleEndian.Uint64(tail[:])
			}
			if left := b.sectors - first; left < wordBits {
				w &= 1<<left - 1
			}
			if w != 0 {
				words[i/8].Store(w)
			}
			first += wordBits
		}
		b.chunk(int(at / chunkBytes))[at%chunkBytes/partBytes].Store(words)
	}
}

// chunk returns the chunk of that index, made if there is none.
func (b *bitmap) chunk(i int) *chunk { return made(&b.chunks[i]) }

// made returns what p points to, made if there is nothing.
func made[T any](p *atomic.Pointer[T]) *T {
	if t := p.Load(); t != nil {
		return t
	}
	t := new(T)
	if !p.CompareAndSwap(nil, t) {
		t = p.Load()
	}
	return t
}

func (b *bitmap) held(sector int64) bool { return b.word(sector)>>(sector%wordBits)&1 != 0 }

// word returns the word that has the bit of a sector.
func (b *bitmap) word(sector int64) uint64 {
	c := b.chunks[sector/chunkSectors].Load()
	if c == nil {
		return 0
	}
	p := c[sector%chunkSectors/partSectors].Load()
	if p == nil {
		return 0
	}
	return p[sector%partSectors/wordBits].Load()
}

// run returns whether sector is held, and the end of the run of sectors from there
// on that are held alike; the run ends at end at the latest. end is above sector.
func (b *bitmap) run(sector, end int64) (held bool, next int64) {
	w := b.word(sector) >> uint(sector%wordBits)
	held = w&1 != 0
	alike := uint64(0) // a word of sectors like it
	if held {
		alike = ^alike
	}
	// Most runs that are asked for are a page of the guest: they end here.
	next = (sector/wordBits + 1) * wordBits
	// Ones mark the sectors that end the run; what was shifted in is beyond the word.
	if n := sector + int64(bits.TrailingZeros64(w^alike)); n < next || next >= end {
		return held, min(n, next, end)
	}
	for next < end {
		c := b.chunks[next/chunkSectors].Load()
		if c == nil {
			if held {
				return held, next
			}
			next = (next/chunkSectors + 1) * chunkSectors
			continue
		}
		p := c[next%chunkSectors/partSectors].Load()
		if p == nil {
			if held {
				return held, next
			}
			next = (next/partSectors + 1) * partSectors
			continue
		}
		i := next % partSectors / wordBits
		if w := p[i].Load() ^ alike; w != 0 {
			return held, min(next+int64(bits.TrailingZeros64(w)), end)
		}
		next += wordBits
		for i++; i < partWords && next < end && p[i].Load() == alike; i++ {
			next += wordBits
		}
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
			w := &made(&c[first%chunkSectors/partSectors])[first%partSectors/wordBits]
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
	clear(p[:])
	for k := range b.chunk(i) {
		words := b.chunk(i)[k].Load()
		if words == nil {
			continue
		}
		for j := range words {
			binary.LittleEndian.PutUint64(p[k*partBytes+j*8:], words[j].Load())
		}
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
		for k := chunkParts - 1; k >= 0; k-- {
			p := c[k].Load()
			if p == nil {
				continue
			}
			for j := partWords - 1; j >= 0; j-- {
				if w := p[j].Load(); w != 0 {
					return int64(i)*chunkSectors + int64(k*partSectors+j*wordBits+bits.Len64(w))
				}
			}
		}
	}
	return 0
}
