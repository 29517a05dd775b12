package ext4

import (
	"fmt"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// journal is the log of the filesystem: an inode whose blocks hold, in a ring,
// transactions that may not have reached their home yet.
type journal struct {
	fs     *FS
	super  format.JournalSuperblock
	raw    []byte // the block of super
	blocks []run  // where the journal's blocks lie, in order
	incomp uint32
	seed   uint32
	csum   bool
	first  uint32 // the ring is [first, last)
	last   uint32
	lent   bool // by Options.Log: the filesystem has none

	// The rest changes with commits, one at a time.
	head     uint32 // where the next transaction goes
	sequence uint32 // its number
	tail     uint32 // where the oldest transaction starts that replay may need
	tailSeq  uint32
	empty    bool // the superblock on disk says that the log is empty
	live     []logged
	logged   map[uint64]uint32 // block: the last live transaction that holds a copy
	writer   logWriter
}

// logged is a committed transaction whose copies still fill a part of the ring.
type logged struct {
	seq    uint32
	start  uint32
	blocks uint32
}

func badJournal(field string, v any) error { return &CorruptError{"journal", field, v} }

// home gives the place on disk of block i of the journal.
func (j *journal) home(i uint32) uint64 {
	n := uint64(i)
	for _, r := range j.blocks {
		if n < r.count {
			return r.start + n
		}
		n -= r.count
	}
	return 0 // not reached: i < MaxLen, and the blocks were counted
}

// contiguous is the number of the journal's blocks, up to max, that lie together on
// disk from block i on.
func (j *journal) contiguous(i, max uint32) uint32 {
	n := uint64(i)
	for _, r := range j.blocks {
		if n < r.count {
			return uint32(min(r.count-n, uint64(max)))
		}
		n -= r.count
	}
	return 0
}

func (j *journal) read(i uint32, p []byte) error {
	if _, err := j.fs.dev.ReadAt(p, int64(j.home(i))<<j.fs.bsBits); err != nil {
		return fmt.Errorf("ext4: read journal block %d: %w", i, ioError(err))
	}
	return nil
}

// openJournal finds the journal, and replays it when the filesystem was not left
// cleanly. After a replay the superblock and the groups are read again.
func (fs *FS) openJournal() error {
	if fs.sb.FeatureCompat&format.CompatHasJournal == 0 {
		if fs.sb.FeatureIncompat&format.IncompatRecover != 0 {
			return badSuper("needs_recovery without", "has_journal")
		}
		if fs.opt.Log.Len > 0 && !fs.opt.ReadOnly {
			return fs.openLent()
		}
		return nil
	}
	if fs.sb.JournalInum == 0 {
		if fs.sb.JournalDev != 0 {
			return &UnsupportedError{Features: []string{"external journal"}}
		}
		return badSuper("journal inode", 0)
	}
	j, err := fs.loadJournal()
	if err != nil {
		return err
	}
	fs.jnl = j
	if fs.sb.FeatureIncompat&format.IncompatRecover == 0 {
		return nil
	}
	if err := j.recover(); err != nil {
		return err
	}
	fs.icache.clear()
	before := fs.sb
	if o := fs.cache.overlay; o != nil {
		fs.cache = newCache(fs.dev, fs.bs, fs.opt.CacheBytes)
		fs.cache.failed = fs.report
		if raw := o[format.SuperblockOffset>>fs.bsBits]; raw != nil {
			raw = raw[format.SuperblockOffset&(fs.bs-1):]
			if err := fs.sb.Decode(raw); err != nil {
				return err
			}
			fs.bsBits = 0
			if err := fs.takeGeometry(raw); err != nil { // the filesystem may have grown
				return err
			}
		}
		fs.cache.overlay = o
		fs.sb.FeatureIncompat &^= format.IncompatRecover
		fs.sb.KeepErrors(&before)
		return fs.loadGroups(true)
	}
	o := fs.cache.overlay
	fs.bsBits = 0
	if err := fs.loadSuper(); err != nil {
		return err
	}
	fs.cache.overlay = o
	if err := fs.checkFeatures(fs.opt.ReadOnly); err != nil {
		return err
	}
	if err := fs.loadGroups(true); err != nil {
		return err
	}
	if fs.jnl, err = fs.loadJournal(); err != nil {
		return err
	}
	if err := fs.writeSuper(func(sb *format.Superblock) {
		sb.FeatureIncompat &^= format.IncompatRecover
		sb.KeepErrors(&before) // they were written past the journal
	}); err != nil {
		return err
	}
	return fs.devSync()
}

// takeJournalError takes over an error that a kernel left in the journal's superblock
// when it gave the journal up: the filesystem needs checking.
func (fs *FS) takeJournalError() error {
	if fs.jnl.super.Errno == 0 {
		return nil
	}
	fs.logf("EXT4-fs warning: journal: error %d from an earlier mount", int32(fs.jnl.super.Errno))
	if err := fs.writeSuper(func(sb *format.Superblock) { sb.State |= format.StateError }); err != nil {
		return err
	}
	if err := fs.devSync(); err != nil {
		return err
	}
	fs.jnl.super.Errno = 0
	return fs.jnl.writeSuper()
}

// loadJournal reads the journal's inode and superblock and checks both.
func (fs *FS) loadJournal() (*journal, error) {
	n, err := fs.igetSpecial(fs.sb.JournalInum)
	if err != nil {
		return nil, err
	}
	defer n.unref()
	if n.typ != format.ModeRegular || n.d.Links == 0 {
		return nil, badJournal("inode mode", fmt.Sprintf("%#o", n.d.Mode))
	}
	j := &journal{fs: fs, raw: make([]byte, fs.bs), logged: make(map[uint64]uint32)}
	want := n.d.Size >> fs.bsBits
	if want == 0 || want > fs.blocks.Load() || want > 1<<31 {
		return nil, badJournal("size", n.d.Size)
	}
	for b := uint64(0); b < want; {
		m, err := n.mapBlock(b)
		if err != nil {
			return nil, err
		}
		if m.state != Written || m.count == 0 {
			return nil, badJournal("hole at block", b)
		}
		c := min(m.count, want-b)
		if k := len(j.blocks); k > 0 && j.blocks[k-1].end() == m.disk {
			j.blocks[k-1].count += c
		} else {
			j.blocks = append(j.blocks, run{m.disk, c})
		}
		b += c
	}
	if err := j.read(0, j.raw); err != nil {
		return nil, err
	}
	s := &j.super
	if err := s.Decode(j.raw); err != nil {
		return nil, err
	}
	if s.Header.Magic != format.JournalMagic {
		return nil, badJournal("magic", fmt.Sprintf("%#x", s.Header.Magic))
	}
	switch s.Header.Type {
	case format.JournalSuperblockV1:
		s.FeatureCompat, s.FeatureIncompat, s.FeatureRoCompat = 0, 0, 0
	case format.JournalSuperblockV2:
	default:
		return nil, badJournal("superblock type", s.Header.Type)
	}
	if int(s.BlockSize) != fs.bs {
		return nil, badJournal("block size", s.BlockSize)
	}
	if s.MaxLen < 16 || uint64(s.MaxLen) > want {
		return nil, badJournal("length", s.MaxLen)
	}
	const known = format.JournalIncompatRevoke | format.JournalIncompat64Bit | format.JournalIncompatAsyncCommit |
		format.JournalIncompatCsumV2 | format.JournalIncompatCsumV3 | format.JournalIncompatFastCommit
	if bad := s.FeatureIncompat &^ known; bad != 0 {
		return nil, &UnsupportedError{Features: format.JournalIncompatNames(bad)}
	}
	if s.FeatureRoCompat != 0 {
		return nil, badJournal("read-only features", fmt.Sprintf("%#x", s.FeatureRoCompat))
	}
	const both = format.JournalIncompatCsumV2 | format.JournalIncompatCsumV3
	if s.FeatureIncompat&both == both {
		return nil, badJournal("features", "checksums v2 and v3 at once")
	}
	j.csum = s.HasChecksums()
	if j.csum {
		if s.ChecksumType != format.JournalChecksumCRC32C {
			return nil, badJournal("checksum type", s.ChecksumType)
		}
		if c := format.JournalSuperblockChecksum(j.raw); c != s.Checksum {
			return nil, badJournal("superblock checksum", fmt.Sprintf("%#x, computed %#x", s.Checksum, c))
		}
	}
	j.incomp, j.seed = s.FeatureIncompat, s.Seed()
	j.first, j.last = s.First, s.MaxLen
	if s.FeatureIncompat&format.JournalIncompatFastCommit != 0 {
		fc := s.NumFCBlocks
		if fc == 0 {
			fc = format.JournalDefaultFCBlocks
		}
		if fc >= s.MaxLen {
			return nil, badJournal("fast commit blocks", fc)
		}
		j.last -= fc
	}
	if j.first == 0 || j.first+8 > j.last {
		return nil, badJournal("first block", s.First)
	}
	if s.Start != 0 && (s.Start < j.first || s.Start >= j.last) {
		return nil, badJournal("start", s.Start)
	}
	j.sequence, j.tailSeq = s.Sequence, s.Sequence
	j.head, j.tail = j.first, j.first
	j.empty = s.Start == 0
	return j, nil
}

// fastCommits says whether the area for fast commits holds some that belong to the
// transaction after the last whole one: those of others are void.
func (j *journal) fastCommits(next uint32) (bool, error) {
	if j.super.FeatureIncompat&format.JournalIncompatFastCommit == 0 {
		return false, nil
	}
	b := make([]byte, j.fs.bs)
	if err := j.read(j.last+1, b); err != nil { // jbd2 leaves the first block of the area out
		return false, err
	}
	// The first tag of a fast commit is a head: type 9 and 8 bytes, the transaction
	// number last.
	const tagHead = 9
	return le.Uint16(b) == tagHead && le.Uint16(b[2:]) == 8 && le.Uint32(b[8:]) == next, nil
}

// copyTag is a block of a transaction: where it belongs and where its copy lies.
type copyTag struct {
	home   uint64
	log    uint32
	seq    uint32
	escape bool
	sum    uint32
}

// recover replays the log: onto the device, or into the cache's overlay with
// Options.NoWrite.
func (j *journal) recover() error {
	fs := j.fs
	copies, revoked, next, err := j.scan()
	if err != nil {
		return err
	}
	if used, err := j.fastCommits(next); err != nil {
		return err
	} else if used {
		return &UnsupportedError{Features: []string{"fast_commit (in a journal that was not left cleanly)"}}
	}
	latest := make(map[uint64]copyTag, len(copies))
	for _, c := range copies {
		if r, ok := revoked[c.home]; ok && int32(r-c.seq) >= 0 {
			continue
		}
		latest[c.home] = c // a later copy replaces an earlier one
	}
	if fs.opt.NoWrite {
		fs.cache.overlay = make(map[uint64][]byte, len(latest))
	}
	b := make([]byte, fs.bs)
	for _, c := range copies {
		if latest[c.home] != c {
			continue
		}
		if err := j.read(c.log, b); err != nil {
			return err
		}
		if j.csum { // over the block as it lies in the log, escaped
			sum := format.JournalDataChecksum(j.seed, c.seq, b)
			if j.incomp&format.JournalIncompatCsumV3 == 0 {
				sum &= 0xFFFF
			}
			if sum != c.sum {
				return badJournal(fmt.Sprintf("transaction %d, checksum of block", c.seq), c.home)
			}
		}
		if c.escape {
			putBE32(b, format.JournalMagic)
		}
		if fs.opt.NoWrite {
			fs.cache.overlay[c.home] = append([]byte(nil), b...)
			continue
		}
		if _, err := fs.dev.WriteAt(b, int64(c.home)<<fs.bsBits); err != nil {
			return fmt.Errorf("ext4: replay journal to block %d: %w", c.home, ioError(err))
		}
	}
	fs.logf("EXT4-fs: recovery complete: %d blocks of %d transactions", len(latest), next-j.super.Sequence)
	if fs.opt.NoWrite {
		return nil
	}
	if err := fs.devSync(); err != nil {
		return err
	}
	j.super.Start, j.super.Sequence = 0, next+1
	return j.writeSuper()
}

// scan walks the log from its start to the last whole transaction. It returns the
// copies in the order they were logged, the last transaction that revoked a block, and
// the number after the last transaction.
func (j *journal) scan() (copies []copyTag, revoked map[uint64]uint32, next uint32, err error) {
	revoked = make(map[uint64]uint32)
	seq := j.super.Sequence
	if j.super.Start == 0 {
		return nil, revoked, seq, nil
	}
	at, left := j.super.Start, j.last-j.first
	step := func() bool { // to the next block of the ring; false when all were seen
		if at++; at == j.last {
			at = j.first
		}
		left--
		return left > 0
	}
	b, data := make([]byte, j.fs.bs), make([]byte, j.fs.bs)
	var pending []copyTag
	var revokes []uint64
	crc := ^uint32(0) // of JournalCompatChecksum
	for left > 0 {
		if err := j.read(at, b); err != nil {
			return nil, nil, 0, err
		}
		var h format.JournalHeader
		if err := h.Decode(b); err != nil {
			return nil, nil, 0, err
		}
		if h.Magic != format.JournalMagic || h.Sequence != seq {
			break
		}
		switch h.Type {
		case format.JournalDescriptor:
			if j.csum && !j.tailOK(b) {
				j.fs.logf("EXT4-fs: journal: transaction %d: descriptor checksum, log ends", seq)
				return copies, revoked, seq, nil
			}
			tags, err := j.tags(b)
			if err != nil {
				return nil, nil, 0, err
			}
			if j.super.FeatureCompat&format.JournalCompatChecksum != 0 && !j.csum {
				crc = format.CRC32BE(crc, b)
			}
			for _, t := range tags {
				if !step() {
					return copies, revoked, seq, nil
				}
				if j.super.FeatureCompat&format.JournalCompatChecksum != 0 && !j.csum {
					if err := j.read(at, data); err != nil {
						return nil, nil, 0, err
					}
					crc = format.CRC32BE(crc, data)
				}
				if t.Block >= uint64(j.fs.dev.Size())>>j.fs.bsBits { // a growing one's new blocks are in it
					return nil, nil, 0, badJournal(fmt.Sprintf("transaction %d, block", seq), t.Block)
				}
				pending = append(pending, copyTag{t.Block, at, seq, t.Flags&format.TagEscape != 0, t.Checksum})
			}
		case format.JournalRevoke:
			if j.csum && !j.tailOK(b) {
				return copies, revoked, seq, nil
			}
			r, err := j.revokes(b)
			if err != nil {
				return nil, nil, 0, err
			}
			revokes = append(revokes, r...)
		case format.JournalCommit:
			if !j.commitOK(b, crc) {
				j.fs.logf("EXT4-fs: journal: transaction %d: commit checksum, log ends", seq)
				return copies, revoked, seq, nil
			}
			copies = append(copies, pending...)
			for _, r := range revokes {
				revoked[r] = seq
			}
			pending, revokes, crc = pending[:0], revokes[:0], ^uint32(0)
			seq++
		default:
			return copies, revoked, seq, nil
		}
		if !step() {
			break
		}
	}
	return copies, revoked, seq, nil
}

func (j *journal) tailOK(b []byte) bool {
	return getBE32(b[len(b)-format.JournalTailSize:]) == format.JournalTailChecksum(j.seed, b)
}

func (j *journal) commitOK(b []byte, crc uint32) bool {
	stored := getBE32(b[format.CommitChecksum:])
	if j.csum {
		return stored == format.JournalCommitChecksum(j.seed, b)
	}
	if j.super.FeatureCompat&format.JournalCompatChecksum == 0 {
		return true
	}
	typ, size := b[format.CommitChecksumType], b[format.CommitChecksumSize]
	if typ == 0 && size == 0 && stored == 0 {
		return true // written before the feature was switched on
	}
	return typ == 1 && size == 4 && stored == crc
}

// tags reads the tags of a descriptor block.
func (j *journal) tags(b []byte) ([]format.JournalTag, error) {
	end := len(b)
	if j.csum {
		end -= format.JournalTailSize
	}
	size := format.JournalTagSize(j.incomp)
	var out []format.JournalTag
	for off := format.JournalHeaderSize; off+size <= end; {
		var t format.JournalTag
		if err := t.Decode(b[off:end], j.incomp); err != nil {
			return nil, err
		}
		out = append(out, t)
		off += size
		if t.Flags&format.TagSameUUID == 0 {
			off += 16
		}
		if t.Flags&format.TagLast != 0 {
			break
		}
	}
	return out, nil
}

// revokes reads the block numbers of a revoke block.
func (j *journal) revokes(b []byte) ([]uint64, error) {
	end := len(b)
	if j.csum {
		end -= format.JournalTailSize
	}
	used := int(getBE32(b[format.JournalHeaderSize:]))
	if used < format.JournalRevokeHeaderSize || used > end {
		return nil, badJournal("revoke count", used)
	}
	size := 4
	if j.incomp&format.JournalIncompat64Bit != 0 {
		size = 8
	}
	var out []uint64
	for off := format.JournalRevokeHeaderSize; off+size <= used; off += size {
		v := uint64(getBE32(b[off:]))
		if size == 8 {
			v = v<<32 | uint64(getBE32(b[off+4:]))
		}
		out = append(out, v)
	}
	return out, nil
}

// writeSuper writes the journal's superblock.
func (j *journal) writeSuper() error {
	if err := j.super.Encode(j.raw); err != nil {
		return err
	}
	if _, err := j.fs.dev.WriteAt(j.raw, int64(j.home(0))<<j.fs.bsBits); err != nil {
		return fmt.Errorf("ext4: write journal superblock: %w", ioError(err))
	}
	j.empty = j.super.Start == 0
	return j.fs.devSync()
}

func getBE32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func putBE32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
}

// devSync is the barrier between writes, unless Options.NoBarrier leaves it out.
func (fs *FS) devSync() error {
	if fs.lax.Load() {
		return nil
	}
	return fs.flush()
}

// flush makes the writes before it stable.
func (fs *FS) flush() error {
	if err := fs.dev.Sync(); err != nil {
		return fmt.Errorf("ext4: sync disk: %w", ioError(err))
	}
	return nil
}

// writeSuper changes the superblock and writes it to its first place at once, past the
// transactions: with what is stable but for the change, and nothing of the running one.
func (fs *FS) writeSuper(change func(sb *format.Superblock)) error {
	if fs.opt.NoWrite {
		return fmt.Errorf("ext4: write superblock: %w", unix.EROFS)
	}
	fs.superMu.Lock() // one that is older must not be written after one that is newer
	defer fs.superMu.Unlock()
	raw := make([]byte, format.SuperblockSize)
	fs.sbMu.Lock()
	change(&fs.sb)
	change(&fs.stableSB)
	fs.superAside = true
	err := fs.encodeUse(fs.stableSB, raw)
	fs.sbMu.Unlock()
	if err != nil {
		return err
	}
	if _, err := fs.dev.WriteAt(raw, format.SuperblockOffset); err != nil {
		return fmt.Errorf("ext4: write superblock: %w", ioError(err))
	}
	return nil
}
