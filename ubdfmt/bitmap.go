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
	// A region is what is read from the file at once, when its first sector is asked
	// for: 1 MiB of the file, 4 GiB of the disk.
	regionChunks  = 256
	regionBytes   = regionChunks * chunkBytes
	regionSectors = regionChunks * chunkSectors
)

type (
	part   [partWords]atomic.Uint64
	chunk  [chunkParts]atomic.Pointer[part]
	region struct {
		chunks [regionChunks]atomic.Pointer[chunk]
		dirty  [regionChunks]atomic.Bool // by chunk: it is in dirtyList
	}
)

// vacant is every region without a bit. Nothing is ever set in it.
var vacant = new(region)

// bitmap remembers which sectors a COW file holds. Bits are set and never cleared,
// by any number of goroutines; a reader takes no lock. What it has read and set takes
// memory, by the part with a bit, so that it grows with what the COW file holds and not
// with the disk.
type bitmap struct {
	sectors int64
	length  int64                    // in the file, in bytes
	regions []atomic.Pointer[region] // nil: not read yet
	// read brings a region that nobody else knows from the file, and says whether it
	// has a bit. It is called once at a time, and again if it fails. nil: the file has
	// none.
	read    func(i int64, r *region) (bool, error)
	reading sync.Mutex

	mu        sync.Mutex
	dirtyList []int
}

func newBitmap(l Layout) *bitmap {
	return &bitmap{
		sectors: l.Sectors,
		length:  l.BitmapLength,
		regions: make([]atomic.Pointer[region], ceilDiv(l.Sectors, regionSectors)),
	}
}

// region returns the region of that index, read from the file if it was not. It is not to
// be written to: it may be vacant.
func (b *bitmap) region(i int64) (*region, error) {
	if r := b.regions[i].Load(); r != nil {
		return r, nil
	}
	return b.readRegion(i)
}

func (b *bitmap) readRegion(i int64) (*region, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if r := b.regions[i].Load(); r != nil {
		return r, nil
	}
	r := vacant
	if b.read != nil {
		r = new(region)
		some, err := b.read(i, r)
		if err != nil {
			return nil, err
		}
		if !some {
			r = vacant
		}
	}
	b.regions[i].Store(r)
	return r, nil
}

// readAll reads what was not read yet.
func (b *bitmap) readAll() error {
	for i := range b.regions {
		if _, err := b.region(int64(i)); err != nil {
			return err
		}
	}
	return nil
}

// load takes up bytes of the file's bitmap from the offset on, a multiple of chunkBytes,
// that lie in a region, and says whether there is a bit. Bits past the last sector are
// ignored.
func (b *bitmap) load(r *region, p []byte, offset int64) bool {
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
		made(&r.chunks[at%regionBytes/chunkBytes])[at%chunkBytes/partBytes].Store(words)
	}
	return len(used) > 0
}

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

// word returns the word that has the bit of a sector.
func (b *bitmap) word(sector int64) (uint64, error) {
	r, err := b.region(sector / regionSectors)
	if err != nil {
		return 0, err
	}
	c := r.chunks[sector%regionSectors/chunkSectors].Load()
	if c == nil {
		return 0, nil
	}
	p := c[sector%chunkSectors/partSectors].Load()
	if p == nil {
		return 0, nil
	}
	return p[sector%partSectors/wordBits].Load(), nil
}

// run returns whether sector is held, and the end of the run of sectors from there
// on that are held alike; the run ends at end at the latest. end is above sector. The
// error is that of reading the file.
func (b *bitmap) run(sector, end int64) (held bool, next int64, err error) {
	w, err := b.word(sector)
	if err != nil {
		return false, sector, err
	}
	w >>= uint(sector % wordBits)
	held = w&1 != 0
	alike := uint64(0) // a word of sectors like it
	if held {
		alike = ^alike
	}
	// Most runs that are asked for are a page of the guest: they end here.
	next = (sector/wordBits + 1) * wordBits
	// Ones mark the sectors that end the run; what was shifted in is beyond the word.
	if n := sector + int64(bits.TrailingZeros64(w^alike)); n < next || next >= end {
		return held, min(n, next, end), nil
	}
	for next < end {
		r, err := b.region(next / regionSectors)
		if err != nil {
			return false, sector, err
		}
		if r == vacant && !held {
			next = (next/regionSectors + 1) * regionSectors
			continue
		}
		c := r.chunks[next%regionSectors/chunkSectors].Load()
		if c == nil {
			if held {
				return held, next, nil
			}
			next = (next/chunkSectors + 1) * chunkSectors
			continue
		}
		p := c[next%chunkSectors/partSectors].Load()
		if p == nil {
			if held {
				return held, next, nil
			}
			next = (next/partSectors + 1) * partSectors
			continue
		}
		i := next % partSectors / wordBits
		if w := p[i].Load() ^ alike; w != 0 {
			return held, min(next+int64(bits.TrailingZeros64(w)), end), nil
		}
		next += wordBits
		for i++; i < partWords && next < end && p[i].Load() == alike; i++ {
			next += wordBits
		}
	}
	return held, min(next, end), nil
}

// set marks the sectors [first, end) as held. The error is that of reading the file.
func (b *bitmap) set(first, end int64) error {
	for first < end {
		i := int(first / chunkSectors)
		r, err := b.region(first / regionSectors)
		if err != nil {
			return err
		}
		if r == vacant {
			b.regions[first/regionSectors].CompareAndSwap(vacant, new(region))
			r = b.regions[first/regionSectors].Load()
		}
		c := made(&r.chunks[i%regionChunks])
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
	return nil
}

// markDirty puts chunks, which have bits, on the list of those to be written.
func (b *bitmap) markDirty(chunks ...int) {
	for _, i := range chunks {
		if d := b.dirty(i); d.Load() || !d.CompareAndSwap(false, true) {
			continue
		}
		b.mu.Lock()
		b.dirtyList = append(b.dirtyList, i)
		b.mu.Unlock()
	}
}

// dirty is the mark of a chunk in a region that was read.
func (b *bitmap) dirty(i int) *atomic.Bool {
	return &b.regions[i/regionChunks].Load().dirty[i%regionChunks]
}

// isDirty says whether a chunk of the sectors [first, end) waits to be written. One that
// takeDirty returned may still be on its way.
func (b *bitmap) isDirty(first, end int64) bool {
	for i := first / chunkSectors; i <= (end-1)/chunkSectors; i++ {
		if b.regions[i/regionChunks].Load() != nil && b.dirty(int(i)).Load() {
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
		b.dirty(i).Store(false)
	}
	return list
}

// encode puts the chunk of that index, of a region that was read, into p, as the file holds
// it.
func (b *bitmap) encode(i int, p *[chunkBytes]byte) {
	clear(p[:])
	c := b.regions[i/regionChunks].Load().chunks[i%regionChunks].Load()
	for k := 0; c != nil && k < chunkParts; k++ {
		words := c[k].Load()
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

// end returns the sector after the last one held, 0 when none is. The error is that of
// reading the file.
func (b *bitmap) end() (int64, error) {
	for i := len(b.regions) - 1; i >= 0; i-- {
		r, err := b.region(int64(i))
		if err != nil {
			return 0, err
		}
		if last := r.end(); last > 0 {
			return int64(i)*regionSectors + last, nil
		}
	}
	return 0, nil
}

// end is the same within a region.
func (r *region) end() int64 {
	for i := regionChunks - 1; i >= 0; i-- {
		c := r.chunks[i].Load()
		for k := chunkParts - 1; c != nil && k >= 0; k-- {
			p := c[k].Load()
			for j := partWords - 1; p != nil && j >= 0; j-- {
				if w := p[j].Load(); w != 0 {
					return int64(i*chunkSectors + k*partSectors + j*wordBits + bits.Len64(w))
				}
			}
		}
	}
	return 0
}
