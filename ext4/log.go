package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
)

// capacity is the number of blocks that the ring holds.
func (j *journal) capacity() uint32 { return j.last - j.first }

// used is the number of blocks between the oldest transaction and the head.
func (j *journal) used() uint32 {
	n := uint32(0)
	for _, l := range j.live {
		n += l.blocks
	}
	return n
}

// tagsPerBlock is the number of tags that a descriptor block holds: the first carries a
// UUID.
func (j *journal) tagsPerBlock() int {
	n := j.fs.bs - format.JournalHeaderSize - 16
	if j.csum {
		n -= format.JournalTailSize
	}
	return n / format.JournalTagSize(j.incomp)
}

// revokesPerBlock is the number of block numbers that a revoke block holds.
func (j *journal) revokesPerBlock() int {
	n := j.fs.bs - format.JournalRevokeHeaderSize
	if j.csum {
		n -= format.JournalTailSize
	}
	if j.incomp&format.JournalIncompat64Bit != 0 {
		return n / 8
	}
	return n / 4
}

// cost is the number of blocks of the log that a transaction takes.
func (j *journal) cost(blocks, revokes int) int {
	tags, revs := j.tagsPerBlock(), j.revokesPerBlock()
	return blocks + (blocks+tags-1)/tags + (revokes+revs-1)/revs + 1
}

// commit writes a transaction to the log, makes it stable, and writes its blocks home.
func (j *journal) commit(c *closing, copies []byte) error {
	fs := j.fs
	// A revoked block that an older live transaction holds must not come back at a
	// replay. One that no live transaction holds needs no revoke record.
	revokes := c.revokes[:0]
	for _, nr := range c.revokes {
		if _, ok := j.logged[nr]; ok {
			revokes = append(revokes, nr)
		}
	}
	for start := 0; start < len(c.bufs); {
		n := len(c.bufs) - start
		for uint32(j.cost(n, len(revokes))) > j.capacity() {
			// Larger than the whole log: it goes in parts, which a crash can part.
			// The limits on handles keep this from happening.
			n /= 2
		}
		if n < len(c.bufs)-start {
			fs.logf("EXT4-fs warning: journal: %d blocks in one transaction, more than the log's %d", len(c.bufs), j.capacity())
		}
		if n == 0 {
			return badJournal("length", j.super.MaxLen)
		}
		part := c.bufs[start : start+n]
		data := copies[start*fs.bs : (start+n)*fs.bs]
		if err := j.write(part, data, revokes); err != nil {
			return err
		}
		revokes = nil
		home := func() error { return fs.writeHome(part, data, nil) }
		if c.grows {
			home = func() error { return fs.writeGrown(part, data) }
		}
		if err := home(); err != nil {
			return err
		}
		start += n
	}
	return nil
}

// write puts one transaction in the log and makes it stable.
func (j *journal) write(bufs []*buffer, data []byte, revokes []uint64) error {
	fs := j.fs
	need := uint32(j.cost(len(bufs), len(revokes)))
	if err := j.room(need); err != nil {
		return err
	}
	if j.empty {
		if err := j.announce(); err != nil {
			return err
		}
	}
	start := j.head
	w := &j.writer
	w.j, w.written, w.apart = j, 0, fs.apart()
	j.writeRevokes(w, revokes)
	w.copies(bufs, data)
	if err := w.flush(); err != nil {
		return err
	}
	w.commit()
	if err := w.flush(); err != nil {
		return err
	}
	if w.written != need {
		return fmt.Errorf("ext4: journal: transaction of %d blocks took %d", need, w.written)
	}
	for _, b := range bufs {
		j.logged[b.nr] = j.sequence
	}
	j.live = append(j.live, logged{seq: j.sequence, start: start, blocks: need})
	j.sequence++
	return nil
}

// prepare switches on the journal's features that the filesystem's ask for. The log is
// empty.
func (j *journal) prepare() {
	s := &j.super
	if s.Header.Type != format.JournalSuperblockV2 {
		return
	}
	s.FeatureIncompat |= format.JournalIncompatRevoke
	s.FeatureIncompat &^= format.JournalIncompatAsyncCommit
	s.FeatureCompat &^= format.JournalCompatChecksum
	if j.fs.incompat&format.Incompat64Bit != 0 {
		s.FeatureIncompat |= format.JournalIncompat64Bit
	}
	if j.fs.csum && s.FeatureIncompat&format.JournalIncompatCsumV2 == 0 {
		s.FeatureIncompat |= format.JournalIncompatCsumV3
		s.ChecksumType = format.JournalChecksumCRC32C
	}
	j.incomp, j.csum = s.FeatureIncompat, s.HasChecksums()
	j.seed = s.Seed()
}

// room makes the log have need free blocks, by dropping transactions whose blocks are
// home from its tail.
func (j *journal) room(need uint32) error {
	if j.used()+need <= j.capacity() {
		return nil
	}
	if err := j.fs.devSync(); err != nil { // what was written home is stable after it
		return err
	}
	drop := 0
	for used := j.used(); drop < len(j.live) && used+need > j.capacity()/2; drop++ {
		used -= j.live[drop].blocks
	}
	j.live = append(j.live[:0], j.live[drop:]...)
	for nr, seq := range j.logged {
		if len(j.live) == 0 || int32(seq-j.live[0].seq) < 0 {
			delete(j.logged, nr)
		}
	}
	return j.announce()
}

// announce writes where the log starts.
func (j *journal) announce() error {
	j.tail, j.tailSeq = j.head, j.sequence
	if len(j.live) > 0 {
		j.tail, j.tailSeq = j.live[0].start, j.live[0].seq
	}
	j.super.Start, j.super.Sequence = j.tail, j.tailSeq
	return j.writeSuper()
}

// finish marks the log as empty: every transaction is home.
func (j *journal) finish() error {
	if j.empty {
		return nil
	}
	if err := j.fs.devSync(); err != nil {
		return err
	}
	j.live = nil
	clear(j.logged)
	j.head, j.tail, j.tailSeq = j.first, j.first, j.sequence
	j.super.Start, j.super.Sequence = 0, j.sequence
	return j.writeSuper()
}

// keepBuffer is the most memory that stays allocated from one commit to the next, in
// bytes.
const keepBuffer = 4 << 20

// logWriter collects blocks for the log and writes them in long runs.
type logWriter struct {
	j       *journal
	buf     []byte
	at      uint32 // where buf goes
	written uint32 // blocks, those in buf included

	apart StableWriter // when the log alone is made stable, not what was written before
}

// block returns the next block of the log, zeroed.
func (w *logWriter) block() []byte {
	j := w.j
	if len(w.buf) == 0 {
		w.at = j.head
	}
	n := len(w.buf)
	if cap(w.buf) < n+j.fs.bs {
		w.buf = append(make([]byte, 0, max(2*cap(w.buf), 64*j.fs.bs)), w.buf...)
	}
	w.buf = w.buf[:n+j.fs.bs]
	b := w.buf[n:]
	clear(b)
	w.written++
	if j.head++; j.head == j.last {
		j.head = j.first
	}
	return b
}

// flush writes what was collected and makes it stable.
func (w *logWriter) flush() error {
	j, bs := w.j, w.j.fs.bs
	write := j.fs.dev.WriteAt
	if w.apart != nil {
		write = w.apart.WriteStable
	}
	for p, at := w.buf, w.at; len(p) > 0; {
		n := j.contiguous(at, min(uint32(len(p)/bs), j.last-at))
		if _, err := write(p[:int(n)*bs], int64(j.home(at))<<j.fs.bsBits); err != nil {
			return fmt.Errorf("ext4: write journal: %w", ioError(err))
		}
		p = p[int(n)*bs:]
		if at += n; at == j.last {
			at = j.first
		}
	}
	w.buf = w.buf[:0]
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	if w.apart != nil {
		return nil
	}
	return j.fs.devSync()
}

func (w *logWriter) header(b []byte, kind uint32) {
	h := format.JournalHeader{Magic: format.JournalMagic, Type: kind, Sequence: w.j.sequence}
	_ = h.Encode(b) // a block has room
}

// tail stores the checksum of a descriptor or revoke block.
func (w *logWriter) tail(b []byte) {
	if w.j.csum {
		putBE32(b[len(b)-format.JournalTailSize:], format.JournalTailChecksum(w.j.seed, b))
	}
}

// copies writes descriptor blocks, each followed by the blocks it describes.
func (w *logWriter) copies(bufs []*buffer, data []byte) {
	j, bs := w.j, w.j.fs.bs
	per, size := j.tagsPerBlock(), format.JournalTagSize(j.incomp)
	for len(bufs) > 0 {
		n := min(per, len(bufs))
		tags := make([]byte, bs)
		off := format.JournalHeaderSize
		w.header(tags, format.JournalDescriptor)
		w.block() // the descriptor; filled below, when the buffer no longer moves
		at := len(w.buf) - bs
		for i := range n {
			b := w.block()
			copy(b, data[i*bs:][:bs])
			t := format.JournalTag{Block: bufs[i].nr}
			if getBE32(b) == format.JournalMagic {
				t.Flags |= format.TagEscape
				putBE32(b, 0)
			}
			if i > 0 {
				t.Flags |= format.TagSameUUID
			}
			if i == n-1 {
				t.Flags |= format.TagLast
			}
			if j.csum {
				t.Checksum = format.JournalDataChecksum(j.seed, j.sequence, b)
			}
			_ = t.Encode(tags[off:], j.incomp) // tagsPerBlock of them fit
			off += size
			if i == 0 {
				copy(tags[off:], j.super.UUID[:])
				off += 16
			}
		}
		w.tail(tags)
		copy(w.buf[at:], tags)
		bufs, data = bufs[n:], data[n*bs:]
	}
}

// writeRevokes writes revoke blocks.
func (j *journal) writeRevokes(w *logWriter, list []uint64) {
	wide := j.incomp&format.JournalIncompat64Bit != 0
	for per := j.revokesPerBlock(); len(list) > 0; {
		n := min(per, len(list))
		b := w.block()
		w.header(b, format.JournalRevoke)
		off := format.JournalRevokeHeaderSize
		for _, nr := range list[:n] {
			if wide {
				putBE32(b[off:], uint32(nr>>32))
				off += 4
			}
			putBE32(b[off:], uint32(nr))
			off += 4
		}
		putBE32(b[format.JournalHeaderSize:], uint32(off))
		w.tail(b)
		list = list[n:]
	}
}

// commit writes the block that ends the transaction.
func (w *logWriter) commit() {
	j := w.j
	b := w.block()
	w.header(b, format.JournalCommit)
	now := j.fs.opt.Now()
	putBE32(b[format.CommitSec:], uint32(now.Unix()>>32))
	putBE32(b[format.CommitSec+4:], uint32(now.Unix()))
	putBE32(b[format.CommitNsec:], uint32(now.Nanosecond()))
	if j.csum {
		putBE32(b[format.CommitChecksum:], format.JournalCommitChecksum(j.seed, b))
	}
}
