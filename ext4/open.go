package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// maxGroups bounds the group table: 16 TiB in groups of 8 MiB.
const maxGroups = 1 << 21

// FS is an open filesystem.
type FS struct {
	dev Device
	opt Options

	// The geometry does not change while the filesystem is open.
	bs        int
	bsBits    uint
	firstData uint64
	bpg, ipg  uint64
	inodeSize int
	descSize  int
	firstIno  uint32
	seed      uint32
	roCompat  format.RoCompatFeatures
	incompat  format.IncompatFeatures // without those that come and go: needs_recovery, meta_bg
	csum      bool                    // metadata_csum
	groupCsum bool                    // uninit_bg or metadata_csum: descriptor flags count
	hasFtype  bool
	projects  bool // feature project

	hasEAInode  bool
	quotaInodes [3]uint32 // of the quota files of users, groups and projects, 0 for none
	orphanInode uint32    // of the orphan file, or 0
	dirIndex    bool
	hashSeed    [4]uint32
	hashBase    uint8 // added to a hash version: 3 when hashes are unsigned

	// The extent changes when the filesystem grows, each part after those above it: who
	// sees a block or an inode also sees its group.
	groups atomic.Pointer[[]*group]
	metaBG atomic.Uint64         // the first block of group descriptors that lies in its own groups
	zone   atomic.Pointer[[]run] // where the filesystem's own structures lie, sorted
	blocks atomic.Uint64
	inodes atomic.Uint32

	cache  *cache
	icache inodeCache
	txn    txn
	jnl    *journal // nil without a journal

	logged   loggedData
	dataMode atomic.Uint32 // a DataMode, not DataDefault

	freeBlocks atomic.Int64
	freeInodes atomic.Int64
	dirs       atomic.Int64
	reserved   atomic.Int64 // by Reserve

	superMu sync.Mutex // held while the superblock is written past the log; before sbMu
	sbMu    sync.Mutex // guards sb and what changes in it
	sb      format.Superblock

	stableSB   format.Superblock // what the disk has: sb as of the last commit
	superAside bool              // it was written since past the log, which may hold an older one; guarded by sbMu

	// inUse adds needs_recovery to what is written: sb itself does not have it, so that
	// its features can be looked at without sbMu.
	inUse bool

	readOnly atomic.Bool
	damaged  atomic.Bool // damage made the filesystem read-only
	discard  atomic.Bool
	lax      atomic.Bool   // Options.NoBarrier
	maxDir   atomic.Int64  // bytes that directories grow to, 0 for no limit
	every    atomic.Int64  // Options.CommitEvery, nanoseconds
	errors   atomic.Uint32 // ErrorPolicy
	closed   atomic.Bool

	values   valueInodes
	renameMu sync.Mutex // one rename that moves directories or between directories
	orphans  orphanList
	windows  windowList
	xattrMu  sync.Mutex // shared attribute blocks
	quotas   quotas
	resizeMu sync.Mutex // one change of the extent at a time
}

// run is a range of blocks.
type run struct{ start, count uint64 }

func (r run) end() uint64 { return r.start + r.count }

// ioError makes an error of the device one that is EIO when it says nothing better.
func ioError(err error) error {
	var no unix.Errno
	if errors.As(err, &no) && (no == unix.ENOSPC || no == unix.EIO || no == unix.EROFS || no == unix.EDQUOT || no == unix.EFBIG) {
		return err
	}
	return fmt.Errorf("%w: %w", unix.EIO, err)
}

func (fs *FS) logf(format string, args ...any) {
	if fs.opt.Logf != nil {
		fs.opt.Logf(format, args...)
	}
}

// Open checks the superblock, replays the journal and opens the filesystem on dev.
// The caller keeps dev open until Close has returned, and closes it.
func Open(dev Device, o Options) (*FS, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 64 << 20
	}
	if o.NoWrite {
		o.ReadOnly = true
	}
	fs := &FS{dev: dev, opt: o}
	fs.SetCommitEvery(o.CommitEvery)
	fs.txn.init(fs)
	fs.icache.m = make(map[uint32]*Inode)
	fs.logged.m = make(map[uint64]*buffer)
	fs.windows.m = make(map[*Inode]struct{})
	fs.readOnly.Store(true) // until everything stands
	if err := fs.open(); err != nil {
		if unixIs(err, unix.ESTALE) { // of one that must be there: the root, the journal
			err = &CorruptError{"filesystem", "one of its own inodes is not in use:", err}
		}
		return nil, err
	}
	return fs, nil
}

// open reads what Open needs, and replays the journal.
func (fs *FS) open() error {
	if err := fs.loadSuper(); err != nil {
		return err
	}
	if err := fs.checkFeatures(fs.opt.ReadOnly); err != nil {
		return err
	}
	if err := fs.loadGroups(!fs.replays()); err != nil {
		return err
	}
	if err := fs.openJournal(); err != nil {
		return err
	}
	root, err := fs.iget(format.RootIno)
	if err != nil {
		return err
	}
	isDir := root.isDir() && !root.isValue()
	root.unref()
	if !isDir {
		return &CorruptError{"inode 2", "root is not a directory, mode", root.d.Mode}
	}
	fs.discard.Store(fs.opt.Discard)
	fs.lax.Store(fs.opt.NoBarrier)
	fs.errors.Store(uint32(fs.opt.Errors))
	fs.SetDataMode(fs.opt.Data)
	if !fs.opt.ReadOnly {
		if err := fs.startWriting(); err != nil {
			return err
		}
	}
	return nil
}

// loadSuper reads the superblock and takes the geometry from it.
func (fs *FS) loadSuper() error {
	raw := make([]byte, format.SuperblockSize)
	if fs.dev.Size() < format.SuperblockOffset+format.SuperblockSize {
		return &NotExtError{}
	}
	if _, err := fs.dev.ReadAt(raw, format.SuperblockOffset); err != nil && err != io.EOF {
		return fmt.Errorf("ext4: read superblock: %w", ioError(err))
	}
	sb := &fs.sb
	if err := sb.Decode(raw); err != nil {
		return err
	}
	if sb.Magic != format.SuperMagic {
		return &NotExtError{Found: fs.whatElse()}
	}
	if sb.FeatureIncompat&format.IncompatJournalDev != 0 {
		return &UnsupportedError{Features: []string{"journal_dev"}}
	}
	if err := fs.takeGeometry(raw); err != nil {
		return err
	}
	fs.stableSB = fs.sb
	return nil
}

func badSuper(field string, v any) error { return &CorruptError{"superblock", field, v} }

// takeGeometry checks every field that sizes or places something.
func (fs *FS) takeGeometry(raw []byte) error {
	sb := &fs.sb
	if sb.RevLevel > format.RevDynamic {
		return &UnsupportedError{Features: []string{fmt.Sprintf("revision %d", sb.RevLevel)}}
	}
	if sb.RevLevel == format.RevGoodOld {
		sb.FeatureCompat, sb.FeatureIncompat, sb.FeatureRoCompat = 0, 0, 0
	}
	if sb.FeatureRoCompat&format.RoMetadataCsum != 0 {
		if sb.ChecksumType != format.ChecksumCRC32C {
			return badSuper("checksum type", sb.ChecksumType)
		}
		if c := format.SuperblockChecksum(raw); c != sb.Checksum {
			return badSuper("checksum", fmt.Sprintf("%#x, computed %#x", sb.Checksum, c))
		}
	}
	fs.bs = sb.BlockSize()
	if fs.bs == 0 {
		return badSuper("log block size", sb.LogBlockSize)
	}
	for 1<<fs.bsBits < fs.bs {
		fs.bsBits++
	}
	if sb.LogClusterSize != sb.LogBlockSize && sb.FeatureRoCompat&format.RoBigalloc == 0 && sb.RevLevel != format.RevGoodOld {
		return badSuper("log cluster size", sb.LogClusterSize)
	}
	fs.inodeSize = sb.InodeRecordSize()
	if fs.inodeSize < format.GoodOldInode || fs.inodeSize > fs.bs || fs.inodeSize&(fs.inodeSize-1) != 0 {
		return badSuper("inode size", fs.inodeSize)
	}
	fs.descSize = sb.GroupDescSize()
	if fs.descSize < 32 || fs.descSize > fs.bs || fs.descSize&(fs.descSize-1) != 0 ||
		sb.FeatureIncompat&format.Incompat64Bit != 0 && fs.descSize < 64 {
		return badSuper("group descriptor size", fs.descSize)
	}
	bits := uint64(fs.bs) * 8
	fs.bpg, fs.ipg = uint64(sb.BlocksPerGroup), uint64(sb.InodesPerGroup)
	ratio := uint64(1)
	if sb.FeatureRoCompat&format.RoBigalloc != 0 {
		if sb.LogClusterSize < sb.LogBlockSize || sb.LogClusterSize > sb.LogBlockSize+16 {
			return badSuper("log cluster size", sb.LogClusterSize)
		}
		ratio = 1 << (sb.LogClusterSize - sb.LogBlockSize)
	}
	if fs.bpg < 64 || fs.bpg%8 != 0 || fs.bpg > bits*ratio {
		return badSuper("blocks per group", sb.BlocksPerGroup)
	}
	if fs.ipg == 0 || fs.ipg > bits || fs.ipg*uint64(fs.inodeSize) > fs.bpg*uint64(fs.bs) {
		return badSuper("inodes per group", sb.InodesPerGroup)
	}
	fs.firstData = uint64(sb.FirstDataBlock)
	if fs.firstData > 1 || fs.bs == 1024 && ratio == 1 && fs.firstData != 1 || fs.bs > 1024 && fs.firstData != 0 {
		return badSuper("first data block", sb.FirstDataBlock)
	}
	blocks := sb.BlocksCount()
	if blocks <= fs.firstData {
		return badSuper("blocks count", blocks)
	}
	if blocks > uint64(fs.dev.Size())>>fs.bsBits {
		return badSuper("blocks count", fmt.Sprintf("%d, more than the disk's %d", blocks, uint64(fs.dev.Size())>>fs.bsBits))
	}
	fs.blocks.Store(blocks)
	groups := sb.GroupCount()
	if groups > maxGroups {
		return badSuper("number of groups", groups)
	}
	if groups*fs.ipg != uint64(sb.InodesCount) {
		return badSuper("inodes count", sb.InodesCount)
	}
	fs.firstIno = sb.FirstFileIno()
	fs.inodes.Store(sb.InodesCount)
	if fs.firstIno < format.GoodOldFirst || uint64(fs.firstIno) > fs.ipg {
		return badSuper("first inode", fs.firstIno)
	}
	if sb.LogGroupsPerFlex > 31 {
		return badSuper("log groups per flex", sb.LogGroupsPerFlex)
	}
	fs.seed = sb.Seed()
	fs.roCompat = sb.FeatureRoCompat
	fs.csum = sb.FeatureRoCompat&format.RoMetadataCsum != 0
	fs.groupCsum = fs.csum || sb.FeatureRoCompat&format.RoGDTCsum != 0
	fs.incompat = sb.FeatureIncompat &^ (format.IncompatRecover | format.IncompatMetaBG)
	fs.setMetaBG(sb)
	fs.hasFtype = sb.FeatureIncompat&format.IncompatFiletype != 0
	fs.dirIndex = sb.FeatureCompat&format.CompatDirIndex != 0
	fs.hasEAInode = sb.FeatureIncompat&format.IncompatEAInode != 0
	fs.projects = sb.FeatureRoCompat&format.RoProject != 0
	if sb.FeatureRoCompat&format.RoQuota != 0 {
		fs.quotaInodes = [3]uint32{sb.UsrQuotaInum, sb.GrpQuotaInum, sb.PrjQuotaInum}
	}
	if sb.FeatureCompat&format.CompatOrphanFile != 0 {
		fs.orphanInode = sb.OrphanFileInum
	}
	fs.hashSeed = sb.HashSeed
	if sb.Flags&format.FlagUnsignedHash != 0 {
		fs.hashBase = format.HashLegacyUnsigned
	}
	fs.cache = newCache(fs.dev, fs.bs, fs.opt.CacheBytes)
	fs.cache.failed = fs.report
	return nil
}

// What this package reads and writes, and what it reads.
const (
	knownIncompat = format.IncompatFiletype | format.IncompatRecover | format.IncompatMetaBG |
		format.IncompatExtents | format.Incompat64Bit | format.IncompatFlexBG |
		format.IncompatCsumSeed | format.IncompatLargeDir | format.IncompatInlineData | format.IncompatEAInode
	knownRo = format.RoSparseSuper | format.RoLargeFile | format.RoBtreeDir | format.RoHugeFile |
		format.RoGDTCsum | format.RoDirNlink | format.RoExtraIsize | format.RoMetadataCsum |
		format.RoProject | format.RoQuota | format.RoOrphanPresent
)

// checkFeatures refuses by name what this package does not know.
func (fs *FS) checkFeatures(readOnly bool) error {
	sb := &fs.sb
	if bad := sb.FeatureIncompat &^ knownIncompat; bad != 0 {
		return &UnsupportedError{Features: bad.Names()}
	}
	if sb.FeatureRoCompat&(format.RoGDTCsum|format.RoMetadataCsum) == format.RoGDTCsum|format.RoMetadataCsum {
		return badSuper("features", "metadata_csum and uninit_bg at once")
	}
	if sb.FeatureRoCompat&format.RoMetadataCsum == 0 && sb.FeatureIncompat&format.IncompatCsumSeed != 0 {
		return badSuper("features", "metadata_csum_seed without metadata_csum")
	}
	if readOnly {
		return nil
	}
	if bad := sb.FeatureRoCompat &^ knownRo; bad != 0 {
		return &UnsupportedError{Features: bad.Names(), Write: true}
	}
	return nil
}
