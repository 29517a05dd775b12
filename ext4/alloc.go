package ext4

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// group is a block group. Block numbers within it are bits of its bitmap.
type group struct {
	mu   sync.Mutex
	desc format.GroupDesc

	// held marks blocks that are free on disk and yet not to be given out: those
	// freed by a transaction that is not stable, those set aside for a file. nil
	// when there are none.
	held  []uint64
	nheld uint32

	next    uint32 // where a search without a goal starts
	longest uint32 // no free run is longer; 0 for unknown
	inoNext uint32 // no inode below this bit is free
	checked bool   // the block bitmap agreed with the descriptor
	icheck  bool   // and the inode bitmap
	bad     bool   // one of them did not: nothing is allocated here
	dirty   bool   // on the transaction's list; guarded by txn.mu

	cut   bool   // the filesystem is to end before the group, or in it:
	limit uint32 // no block from this bit on is given out, and no inode when it is 0
}

// change puts the group's descriptor on the transaction. mu of the group is held.
func (h *handle) change(g uint32) error {
	fs := h.fs
	b, err := fs.cache.get(fs.descBlock(uint64(g) / uint64(fs.bs/fs.descSize)))
	if err != nil {
		return err
	}
	h.dirty(b, kindGroupDesc, 0)
	t := &fs.txn
	t.mu.Lock()
	if !fs.group(g).dirty {
		fs.group(g).dirty = true
		t.groups = append(t.groups, g)
	}
	t.mu.Unlock()
	return nil
}

// locate gives the group of a block and its bit there.
func (fs *FS) locate(block uint64) (g, bit uint32) {
	return uint32((block - fs.firstData) / fs.bpg), uint32((block - fs.firstData) % fs.bpg)
}

// blockBitmap gives the block bitmap of a group, made when it was never written. mu of
// the group is held.
func (fs *FS) blockBitmap(g uint32) (*buffer, error) {
	gr := fs.group(g)
	if gr.bad {
		return nil, fmt.Errorf("ext4: group %d is damaged: %w", g, errClean)
	}
	if gr.desc.Flags&format.GroupBlockUninit != 0 {
		b := fs.cache.peek(gr.desc.BlockBitmap)
		if b == nil || b.seen.Load() != uint64(kindBitmap)<<32 {
			b = fs.cache.fresh(gr.desc.BlockBitmap)
			fs.markZone(g, b.data)
			b.seen.Store(uint64(kindBitmap) << 32)
		}
		if !gr.checked {
			gr.checked = true
			// The descriptor's count is only a promise; this is what there is.
			if free := fs.countFree(g, b.data); free != gr.desc.FreeBlocks {
				gr.bad = true
				return nil, fs.badGroup(g, "free blocks", gr.desc.FreeBlocks)
			}
		}
		return b, nil
	}
	b, err := fs.cache.get(gr.desc.BlockBitmap)
	if err != nil || gr.checked {
		return b, err
	}
	if fs.csum && fs.trimSum(format.BitmapChecksum(fs.seed, b.data[:fs.bpg/8])) != gr.desc.BlockBitmapCsum {
		gr.bad = true
		return nil, fs.badGroup(g, "block bitmap checksum", fmt.Sprintf("%#x", gr.desc.BlockBitmapCsum))
	}
	if !fs.zoneMarked(g, b.data) {
		gr.bad = true
		return nil, fs.badGroup(g, "block bitmap has the filesystem's own blocks free, in block", gr.desc.BlockBitmap)
	}
	if free := fs.countFree(g, b.data); free != gr.desc.FreeBlocks {
		gr.bad = true
		return nil, fs.badGroup(g, "free blocks", fmt.Sprintf("%d, %d by the bitmap", gr.desc.FreeBlocks, free))
	}
	gr.checked = true
	return b, nil
}

func (fs *FS) badGroup(g uint32, field string, v any) error {
	return fs.corrupt(&CorruptError{fmt.Sprintf("group %d", g), field, v})
}

// zoneIn calls f for the runs of the filesystem's own blocks in a group, as bits.
func (fs *FS) zoneIn(g uint32, f func(from, to uint32)) {
	start := fs.groupStart(g)
	end := start + fs.groupBlocks(g)
	zone := *fs.zone.Load()
	lo, hi := 0, len(zone)
	for lo < hi {
		if m := (lo + hi) / 2; zone[m].end() <= start {
			lo = m + 1
		} else {
			hi = m
		}
	}
	for ; lo < len(zone) && zone[lo].start < end; lo++ {
		z := zone[lo]
		f(uint32(max(z.start, start)-start), uint32(min(z.end(), end)-start))
	}
}

// markZone fills an empty bitmap with what is never free.
func (fs *FS) markZone(g uint32, bitmap []byte) {
	fs.zoneIn(g, func(from, to uint32) { setBits(bitmap, from, to) })
	setBits(bitmap, uint32(fs.groupBlocks(g)), uint32(len(bitmap))*8)
}

// zoneMarked says whether a bitmap has the filesystem's own blocks in use.
func (fs *FS) zoneMarked(g uint32, bitmap []byte) bool {
	ok := true
	fs.zoneIn(g, func(from, to uint32) {
		for i := from; i < to && ok; i++ {
			ok = bitmap[i/8]>>(i%8)&1 != 0
		}
	})
	return ok
}

// countFree counts the free blocks of a group by its bitmap.
func (fs *FS) countFree(g uint32, bitmap []byte) uint32 {
	n := uint32(fs.groupBlocks(g))
	used := uint32(0)
	i := uint32(0)
	for ; i+64 <= n; i += 64 {
		used += uint32(bits.OnesCount64(le.Uint64(bitmap[i/8:])))
	}
	for ; i < n; i++ {
		used += uint32(bitmap[i/8] >> (i % 8) & 1)
	}
	return n - used
}

func setBits(b []byte, from, to uint32) {
	for ; from < to && from%8 != 0; from++ {
		b[from/8] |= 1 << (from % 8)
	}
	for ; from+8 <= to; from += 8 {
		b[from/8] = 0xFF
	}
	for ; from < to; from++ {
		b[from/8] |= 1 << (from % 8)
	}
}

func clearBits(b []byte, from, to uint32) {
	for ; from < to && from%8 != 0; from++ {
		b[from/8] &^= 1 << (from % 8)
	}
	for ; from+8 <= to; from += 8 {
		b[from/8] = 0
	}
	for ; from < to; from++ {
		b[from/8] &^= 1 << (from % 8)
	}
}

// hold and unhold mark blocks in held. mu is held.
func (gr *group) hold(from, to uint32, words int) {
	if gr.held == nil {
		gr.held = make([]uint64, words)
	}
	for i := from; i < to; i++ {
		gr.held[i/64] |= 1 << (i % 64)
	}
	gr.nheld += to - from
}

func (gr *group) unhold(from, to uint32) {
	for i := from; i < to; i++ {
		gr.held[i/64] &^= 1 << (i % 64)
	}
	if gr.nheld -= to - from; gr.nheld == 0 {
		gr.held = nil
	}
	gr.longest = 0
}

// taken gives 64 bits of the bitmap, with held ones.
func (gr *group) taken(bitmap []byte, word uint32) uint64 {
	w := le.Uint64(bitmap[word*8:])
	if gr.held != nil {
		w |= gr.held[word]
	}
	return w
}

// nextFree gives the first block from bit on that can be given out, or n.
func (gr *group) nextFree(bitmap []byte, bit, n uint32) uint32 {
	for bit < n {
		w := ^gr.taken(bitmap, bit/64) >> (bit % 64)
		if w != 0 {
			return min(bit+uint32(bits.TrailingZeros64(w)), n)
		}
		bit = bit/64*64 + 64
	}
	return n
}

// nextTaken gives the first block from bit on that cannot be given out, or n.
func (gr *group) nextTaken(bitmap []byte, bit, n uint32) uint32 {
	for bit < n {
		w := gr.taken(bitmap, bit/64) >> (bit % 64)
		if w != 0 {
			return min(bit+uint32(bits.TrailingZeros64(w)), n)
		}
		bit = bit/64*64 + 64
	}
	return n
}

// search finds a free run of want blocks from bit on, or before it, or else the longest
// there is. mu is held.
func (gr *group) search(bitmap []byte, bit, n, want uint32) (at, count uint32) {
	full := true
	scan := func(from, to uint32) bool {
		for i := gr.nextFree(bitmap, from, to); i < to; {
			end := gr.nextTaken(bitmap, i, min(n, i+want))
			if end-i > count {
				at, count = i, end-i
				if count >= want {
					count, full = want, false
					return true
				}
			}
			i = gr.nextFree(bitmap, end, to)
		}
		return false
	}
	if !scan(bit, n) {
		scan(0, bit)
	}
	if full {
		gr.longest = max(count, 1)
	}
	return at, count
}

// setAside finds a run of up to want free blocks, at goal or after it if possible, and
// holds it: nobody else gets it, and the disk says nothing of it yet. It may return
// fewer blocks, never none.
func (fs *FS) setAside(goal, want uint64) (run, error) {
	if goal < fs.firstData || goal >= fs.blocks.Load() {
		goal = fs.firstData
	}
	want = min(want, fs.bpg, 1<<15)
	g0, bit0 := fs.locate(goal)
	n := fs.groupCount()
	// First a group with room for all of it, then any room.
	for pass := range 2 {
		tries := 0
		for i := range n {
			g := g0 + i
			if g >= n {
				g -= n
			}
			bit := uint32(0)
			if i == 0 {
				bit = bit0
			}
			if r, ok, looked, err := fs.setAsideIn(g, bit, uint32(want), pass == 0, i == 0); err != nil {
				return run{}, err
			} else if ok {
				return r, nil
			} else if looked {
				tries++
			}
			if pass == 0 && tries == 16 {
				break // little is left in one piece: take pieces
			}
		}
	}
	return run{}, fmt.Errorf("ext4: no free block: %w", unix.ENOSPC)
}

func (fs *FS) setAsideIn(g, bit, want uint32, whole, home bool) (r run, ok, looked bool, err error) {
	gr := fs.group(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.bad || gr.desc.FreeBlocks <= gr.nheld {
		return r, false, false, nil
	}
	if whole && (gr.desc.FreeBlocks-gr.nheld < want || gr.longest != 0 && gr.longest < want) {
		return r, false, false, nil
	}
	b, err := fs.blockBitmap(g)
	if err != nil {
		if unixIs(err, unix.EUCLEAN) && !fs.readOnly.Load() {
			return r, false, true, nil // errors=continue: go on with other groups
		}
		return r, false, true, err
	}
	if !home {
		bit = gr.next
	}
	n := uint32(fs.groupBlocks(g))
	if gr.cut {
		n = min(n, gr.limit)
		bit = min(bit, n)
	}
	at, count := gr.search(b.data, bit, n, want)
	if count == 0 || whole && count < want {
		return r, false, true, nil
	}
	gr.hold(at, at+count, int(fs.bpg+63)/64)
	gr.next = at + count
	return run{fs.groupStart(g) + uint64(at), uint64(count)}, true, true, nil
}

// giveBack ends the holding of blocks that were set aside.
func (fs *FS) giveBack(r run) {
	if r.count == 0 {
		return
	}
	g, bit := fs.locate(r.start)
	gr := fs.group(g)
	gr.mu.Lock()
	gr.unhold(bit, bit+uint32(r.count))
	gr.mu.Unlock()
}

// claim marks blocks that were set aside as in use.
func (h *handle) claim(r run) error {
	fs := h.fs
	g, bit := fs.locate(r.start)
	gr := fs.group(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	b, err := fs.blockBitmap(g)
	if err != nil {
		return err
	}
	if err := h.change(g); err != nil {
		return err
	}
	h.dirty(b, kindBitmap, 0)
	gr.desc.Flags &^= format.GroupBlockUninit
	setBits(b.data, bit, bit+uint32(r.count))
	longest := gr.longest
	gr.unhold(bit, bit+uint32(r.count))
	gr.longest = longest
	gr.desc.FreeBlocks -= uint32(r.count)
	fs.freeBlocks.Add(-int64(r.count))
	return nil
}

// allocBlock takes one block for metadata, near goal.
func (h *handle) allocBlock(goal uint64) (uint64, error) {
	r, err := h.fs.setAside(goal, 1)
	if err != nil {
		return 0, err
	}
	if err := h.claim(r); err != nil {
		h.fs.giveBack(r)
		return 0, err
	}
	return r.start, nil
}

// free frees blocks. Until the transaction is stable they stay held. Metadata is
// forgotten, and revoked in the log, and so is data where some goes through the log.
func (h *handle) free(start, count uint64, metadata bool) error {
	fs := h.fs
	if !fs.mayHold(start, count) {
		return fs.corrupt(&CorruptError{"blocks to free", "run", fmt.Sprintf("%d+%d", start, count)})
	}
	if metadata || fs.logged.used.Load() {
		for i := range count {
			h.forget(start + i)
		}
	}
	for count > 0 {
		g, bit := fs.locate(start)
		n := uint32(min(count, uint64(uint32(fs.groupBlocks(g))-bit)))
		if err := h.freeIn(g, bit, n); err != nil {
			return err
		}
		start += uint64(n)
		count -= uint64(n)
	}
	return nil
}

func (h *handle) freeIn(g, bit, n uint32) error {
	fs, gr := h.fs, h.fs.group(g)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	b, err := fs.blockBitmap(g)
	if err != nil {
		return err
	}
	for i := bit; i < bit+n; i++ {
		if b.data[i/8]>>(i%8)&1 == 0 {
			return fs.badGroup(g, "freeing a free block, bit", i)
		}
	}
	if err := h.change(g); err != nil {
		return err
	}
	h.dirty(b, kindBitmap, 0)
	clearBits(b.data, bit, bit+n)
	gr.hold(bit, bit+n, int(fs.bpg+63)/64)
	gr.desc.FreeBlocks += n
	fs.freeBlocks.Add(int64(n))
	t := &fs.txn
	t.mu.Lock()
	t.freed = append(t.freed, freedRun{g, bit, n})
	t.mu.Unlock()
	return nil
}

// forget drops a block that was freed.
func (h *handle) forget(nr uint64) {
	fs, t := h.fs, &h.fs.txn
	fs.logged.forget(t, nr)
	t.mu.Lock()
	if b := fs.cache.peek(nr); b != nil {
		b.dirty = false
	}
	if fs.jnl != nil {
		t.revokes = append(t.revokes, nr)
	}
	t.mu.Unlock()
	fs.cache.forget(nr)
}

// release gives out again what a transaction freed, now that it is stable, and trims it.
func (fs *FS) release(freed []freedRun) {
	discard := fs.discard.Load()
	for _, f := range freed {
		if discard {
			off := int64(fs.groupStart(f.group)+uint64(f.bit)) << fs.bsBits
			if err := fs.dev.Trim(off, int64(f.count)<<fs.bsBits); err != nil {
				fs.logf("EXT4-fs warning: discard: %v", err)
				discard = false
			}
		}
		gr := fs.group(f.group)
		gr.mu.Lock()
		gr.unhold(f.bit, f.bit+f.count)
		gr.mu.Unlock()
	}
}

// pending says whether a commit would make blocks free.
func (fs *FS) pending() bool {
	fs.txn.mu.Lock()
	defer fs.txn.mu.Unlock()
	return len(fs.txn.freed) > 0
}

// retry runs an operation again, once, when it found no room and a commit makes some:
// blocks that were freed are not given out before that. No handle may be open.
func (fs *FS) retry(op func() error) error {
	err := op()
	if err == nil || !unixIs(err, unix.ENOSPC) || fs.readOnly.Load() {
		return err
	}
	dropped := fs.dropWindows()
	if !fs.pending() && !dropped {
		return err
	}
	if cerr := fs.commitNow(); cerr != nil {
		return cerr
	}
	return op()
}

// Reserve promises n blocks to data that a caller holds in memory and will allocate
// later; ENOSPC when they are not there. Unless privileged, the reserved blocks of the
// superblock count as taken. Unreserve gives n back, after allocating or instead.
func (fs *FS) Reserve(n int64, privileged bool) error {
	keep := int64(fs.spare())
	if !privileged {
		fs.sbMu.Lock()
		keep += int64(fs.sb.RBlocksCount())
		fs.sbMu.Unlock()
	}
	for {
		old := fs.reserved.Load()
		if fs.freeBlocks.Load()-old-keep < n {
			return fmt.Errorf("ext4: reserve %d blocks: %w", n, unix.ENOSPC)
		}
		if fs.reserved.CompareAndSwap(old, old+n) {
			return nil
		}
	}
}

// Unreserve undoes Reserve.
func (fs *FS) Unreserve(n int64) { fs.reserved.Add(-n) }
