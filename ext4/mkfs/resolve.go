package mkfs

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
)

// resolved are Options checked and with their defaults in place, as far as they do not depend on
// the device's size.
type resolved struct {
	label          string
	uuid, hashSeed [16]byte
	now            format.Time

	blockSize int
	blockBits uint
	inodeSize int

	inodeRatio, inodes int64
	reserved           float64
	journalBlocks      int64

	resizeLimit         int64 // bytes
	stride, stripeWidth int
	lazyTables          bool
	rootOwner           *Owner

	f           features
	mountOpts   uint32
	errors      uint16
	lastMounted string
}

var errorBehaviours = map[string]uint16{
	"": format.ErrorsContinue, "continue": format.ErrorsContinue,
	"remount-ro": format.ErrorsReadOnly, "panic": format.ErrorsPanic,
}

func (o *Options) resolve() (*resolved, error) {
	r := &resolved{
		label: o.Label, uuid: o.UUID, hashSeed: o.HashSeed,
		blockSize: o.BlockSize, inodeSize: o.InodeSize,
		inodeRatio: o.InodeRatio, inodes: o.Inodes,
		reserved: o.ReservedPercent, journalBlocks: o.JournalBlocks,
		lastMounted: o.LastMounted,
		resizeLimit: o.ResizeLimit, stride: o.Stride, stripeWidth: o.StripeWidth,
		lazyTables: o.LazyTables, rootOwner: o.RootOwner,
	}
	if len(o.Label) > 16 {
		return nil, fmt.Errorf("label %q has %d bytes: at most 16", o.Label, len(o.Label))
	}
	if len(o.LastMounted) > 64 {
		return nil, fmt.Errorf("last mounted directory %q has %d bytes: at most 64", o.LastMounted, len(o.LastMounted))
	}
	if hasNUL(o.Label) || hasNUL(o.LastMounted) {
		return nil, fmt.Errorf("label %q, last mounted directory %q: a zero byte ends them on disk", o.Label, o.LastMounted)
	}
	switch r.blockSize {
	case 0:
		r.blockSize = 4096
	case 1024, 2048, 4096:
	default:
		return nil, fmt.Errorf("block size %d: it is 1024, 2048 or 4096", o.BlockSize)
	}
	r.blockBits = uint(bits.TrailingZeros(uint(r.blockSize)))
	if r.inodeSize == 0 {
		r.inodeSize = format.DefaultInode
	}
	if r.inodeSize < format.InodeBaseSize || r.inodeSize > r.blockSize || r.inodeSize&(r.inodeSize-1) != 0 {
		return nil, fmt.Errorf("inode size %d: a power of two from 128 to the block size, %d", o.InodeSize, r.blockSize)
	}
	if r.inodeRatio != 0 && (r.inodeRatio < 1024 || r.inodeRatio > 64<<20) {
		return nil, fmt.Errorf("inode ratio %d: it is from 1024 to %d bytes", o.InodeRatio, 64<<20)
	}
	if r.inodes < 0 || r.inodes > maxInodes {
		return nil, fmt.Errorf("%d inodes: from 1 to %d, or 0 for as many as the size asks for", o.Inodes, uint64(maxInodes))
	}
	if r.inodes != 0 && r.inodeRatio != 0 {
		return nil, fmt.Errorf("inodes %d and inode ratio %d: one of the two", o.Inodes, o.InodeRatio)
	}
	if !(r.reserved >= 0 && r.reserved <= 50) {
		return nil, fmt.Errorf("reserved blocks %v%%: from 0 to 50", o.ReservedPercent)
	}
	if o.NoReserve && r.reserved != 0 {
		return nil, fmt.Errorf("reserved blocks %v%% and none: one of the two", o.ReservedPercent)
	}
	if r.reserved == 0 && !o.NoReserve {
		r.reserved = 5
	}
	if r.stride < 0 || r.stride > math.MaxUint16 {
		return nil, fmt.Errorf("stride of %d blocks: from 1 to %d, or 0 for none", o.Stride, math.MaxUint16)
	}
	if r.stripeWidth < 0 || r.stripeWidth > math.MaxInt32 {
		return nil, fmt.Errorf("stripe width of %d blocks: from 1 to %d, or 0 for none", o.StripeWidth, math.MaxInt32)
	}
	if r.stride > 0 && r.stripeWidth%r.stride != 0 {
		return nil, fmt.Errorf("stripe width of %d blocks: a multiple of the stride, %d", o.StripeWidth, o.Stride)
	}
	if err := r.resolveFeatures(o); err != nil {
		return nil, err
	}
	if err := r.resolveIdentity(o); err != nil {
		return nil, err
	}
	return r, nil
}

// Limits of mke2fs for the length of a journal, in blocks.
const maxJournal = 10240000

func (r *resolved) resolveFeatures(o *Options) (err error) {
	begin, ok := byType[o.Type]
	if !ok {
		return fmt.Errorf("type %q: ext2, ext3 or ext4", o.Type)
	}
	if r.journalBlocks != 0 && !o.NoJournal {
		begin.compat |= format.CompatHasJournal
	}
	if r.f, err = parseFeatures(begin, o.Features); err != nil {
		return err
	}
	if o.NoJournal {
		r.f.compat &^= format.CompatHasJournal
	}
	if r.journalBlocks != 0 {
		if r.journalBlocks < format.JournalMinBlocks || r.journalBlocks > maxJournal {
			return fmt.Errorf("journal of %d blocks: from %d to %d", o.JournalBlocks, format.JournalMinBlocks, maxJournal)
		}
		if !r.f.journal() {
			return fmt.Errorf("journal of %d blocks and no journal: one of the two", o.JournalBlocks)
		}
	}
	if r.f.orphanFile() && !r.f.journal() {
		return fmt.Errorf("feature orphan_file needs has_journal")
	}
	if r.inodeSize == format.InodeBaseSize {
		if r.f.ro&format.RoProject != 0 {
			return fmt.Errorf("feature project needs inodes of at least 256 bytes")
		}
	}
	if r.mountOpts, err = parseMountOptions(o.MountOptions); err != nil {
		return err
	}
	if r.resizeLimit != 0 && !r.f.resize() {
		return fmt.Errorf("resize limit of %d bytes: it needs the feature resize_inode", o.ResizeLimit)
	}
	if r.lazyTables && !r.f.lazy() {
		return fmt.Errorf("lazy inode tables: they need the feature metadata_csum or uninit_bg")
	}
	behaviour, ok := errorBehaviours[o.Errors]
	if !ok {
		return fmt.Errorf("errors behaviour %q: continue, remount-ro or panic", o.Errors)
	}
	r.errors = behaviour
	return nil
}

// resolveIdentity settles what differs between two filesystems of the same content.
func (r *resolved) resolveIdentity(o *Options) error {
	if r.uuid == ([16]byte{}) {
		if _, err := rand.Read(r.uuid[:]); err != nil {
			return fmt.Errorf("random UUID: %w", err)
		}
		r.uuid[6] = r.uuid[6]&0x0F | 0x40 // version 4
		r.uuid[8] = r.uuid[8]&0x3F | 0x80 // of RFC 9562
	}
	if r.hashSeed == ([16]byte{}) {
		sum := sha256.Sum256(append([]byte("umlkit directory hash seed "), r.uuid[:]...))
		copy(r.hashSeed[:], sum[:])
	}
	now := o.Time
	if now.IsZero() {
		now = time.Now()
	}
	r.now = Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
	if r.now.Sec < 0 || r.now.Sec > format.MaxTimeSec {
		return fmt.Errorf("time %v: a filesystem's is from 1970 to 2446", now)
	}
	return nil
}

func hasNUL(s string) bool {
	for i := range len(s) {
		if s[i] == 0 {
			return true
		}
	}
	return false
}
