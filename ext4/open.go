package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
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

	freeBlocks atomic.Int64
	freeInodes atomic.Int64
	dirs       atomic.Int64
	reserved   atomic.Int64 // by Reserve

	sbMu sync.Mutex // guards sb and what changes in it
	sb   format.Superblock

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
	if errors.As(err, &no) && (no == unix.ENOSPC || no == unix.EIO || no == unix.EROFS || no == unix.EDQUOT) {
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
	fs.windows.m = make(map[*Inode]struct{})
	fs.readOnly.Store(true) // until everything stands
	if err := fs.loadSuper(); err != nil {
		return nil, err
	}
	if err := fs.checkFeatures(o.ReadOnly); err != nil {
		return nil, err
	}
	if err := fs.loadGroups(!fs.replays()); err != nil {
		return nil, err
	}
	if err := fs.openJournal(); err != nil {
		return nil, err
	}
	root, err := fs.iget(format.RootIno)
	if err != nil {
		return nil, err
	}
	isDir := root.isDir()
	root.unref()
	if !isDir {
		return nil, &CorruptError{"inode 2", "root is not a directory, mode", root.d.Mode}
	}
	fs.discard.Store(o.Discard)
	fs.lax.Store(o.NoBarrier)
	fs.errors.Store(uint32(o.Errors))
	if !o.ReadOnly {
		if err := fs.startWriting(); err != nil {
			return nil, err
		}
	}
	return fs, nil
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

// setMetaBG takes from the superblock which group descriptors lie in their own groups.
func (fs *FS) setMetaBG(sb *format.Superblock) {
	if sb.FeatureIncompat&format.IncompatMetaBG == 0 {
		fs.metaBG.Store(1<<64 - 1)
		return
	}
	fs.metaBG.Store(uint64(sb.FirstMetaBg))
}

// descBlock is where block i of the group descriptors lies.
func (fs *FS) descBlock(i uint64) uint64 {
	if i < fs.metaBG.Load() {
		return uint64(format.SuperblockOffset>>fs.bsBits) + 1 + i
	}
	g := i * uint64(fs.bs/fs.descSize)
	nr := fs.firstData + g*fs.bpg
	if fs.sb.GroupHasSuper(uint32(g)) {
		nr++
	}
	if fs.bs == 1024 && fs.firstData == 0 && g == 0 {
		nr++ // bigalloc with 1 KiB blocks: the boot block shares the cluster
	}
	return nr
}

// replays says whether opening replays a log, whose blocks can be on their way home: then
// the group descriptors are read again after it.
func (fs *FS) replays() bool {
	if fs.sb.FeatureCompat&format.CompatHasJournal == 0 {
		return fs.opt.Log.Len > 0 && !fs.opt.ReadOnly
	}
	return fs.sb.FeatureIncompat&format.IncompatRecover != 0
}

// loadGroups reads the group descriptors and remembers where metadata lies. Before a
// replay (not strict) it takes them as they are, but for the one that leads to the log.
func (fs *FS) loadGroups(strict bool) error {
	count := fs.sb.GroupCount()
	per := uint64(fs.bs / fs.descSize)
	descBlocks := (count + per - 1) / per
	tableBlocks := fs.tableBlocks()
	if descBlocks > fs.blocks.Load() {
		return badSuper("number of groups", count)
	}
	all, list := make([]group, count), make([]*group, count)
	for g := range all {
		list[g] = &all[g]
	}
	fs.groups.Store(&list)
	var free, freeIno, dirs int64
	flex := fs.sb.FeatureIncompat&format.IncompatFlexBG != 0
	var raw []byte
	buf := make([]byte, fs.bs)
	for g := range count {
		if g%per == 0 {
			nr := fs.descBlock(g / per)
			if nr >= fs.blocks.Load() {
				return badSuper("first meta_bg", fs.sb.FirstMetaBg)
			}
			if o := fs.cache.overlay[nr]; o != nil {
				copy(buf, o)
			} else if _, err := fs.dev.ReadAt(buf, int64(nr)<<fs.bsBits); err != nil {
				return fmt.Errorf("ext4: read group descriptors: %w", ioError(err))
			}
			raw = buf
		}
		d := raw[:fs.descSize]
		raw = raw[fs.descSize:]
		gr := list[g]
		if err := gr.desc.Decode(d); err != nil {
			return err
		}
		what := func() string { return fmt.Sprintf("group descriptor %d", g) }
		if !strict {
			if d := &gr.desc; g == 0 && (d.InodeTable < fs.firstData || tableBlocks > fs.blocks.Load() || d.InodeTable > fs.blocks.Load()-tableBlocks) {
				return &CorruptError{what(), "inode table", d.InodeTable}
			}
			continue
		}
		if fs.groupCsum {
			if c := fs.descSum(uint32(g), d); c != gr.desc.Checksum {
				return &CorruptError{what(), "checksum", fmt.Sprintf("%#x, computed %#x", gr.desc.Checksum, c)}
			}
		} else {
			gr.desc.Flags = 0
			gr.desc.ItableUnused = 0
		}
		first, last := fs.firstData, fs.blocks.Load()
		if !flex {
			first = fs.firstData + g*fs.bpg
			last = min(fs.blocks.Load(), first+fs.bpg)
		}
		inside := func(start, n uint64) bool { return start >= first && n <= last && start <= last-n }
		if !inside(gr.desc.BlockBitmap, 1) {
			return &CorruptError{what(), "block bitmap", gr.desc.BlockBitmap}
		}
		if !inside(gr.desc.InodeBitmap, 1) {
			return &CorruptError{what(), "inode bitmap", gr.desc.InodeBitmap}
		}
		if !inside(gr.desc.InodeTable, tableBlocks) {
			return &CorruptError{what(), "inode table", gr.desc.InodeTable}
		}
		if uint64(gr.desc.ItableUnused) > fs.ipg {
			return &CorruptError{what(), "unused inodes", gr.desc.ItableUnused}
		}
		if uint64(gr.desc.FreeBlocks) > fs.groupBlocks(uint32(g)) || uint64(gr.desc.FreeInodes) > fs.ipg {
			return &CorruptError{what(), "free blocks or inodes", fmt.Sprintf("%d, %d", gr.desc.FreeBlocks, gr.desc.FreeInodes)}
		}
		free += int64(gr.desc.FreeBlocks)
		freeIno += int64(gr.desc.FreeInodes)
		dirs += int64(gr.desc.UsedDirs)
	}
	if !strict {
		fs.zone.Store(new([]run))
		return nil
	}
	fs.freeBlocks.Store(free)
	fs.freeInodes.Store(freeIno)
	fs.dirs.Store(dirs)
	return fs.makeZone()
}

// descSum is the checksum of an encoded group descriptor.
func (fs *FS) descSum(g uint32, d []byte) uint16 {
	if fs.csum {
		return format.GroupDescChecksum(fs.seed, g, d)
	}
	return format.GroupDescCRC16(fs.sb.UUID, g, d)
}

// groupBlocks is the number of blocks of group g: the last can be short.
func (fs *FS) groupBlocks(g uint32) uint64 {
	return min(fs.bpg, fs.blocks.Load()-fs.groupStart(g))
}

func (fs *FS) groupStart(g uint32) uint64 { return fs.firstData + uint64(g)*fs.bpg }

// group is a block group that there is.
func (fs *FS) group(g uint32) *group { return (*fs.groups.Load())[g] }

func (fs *FS) groupCount() uint32 { return uint32(len(*fs.groups.Load())) }

// tableBlocks is the length of an inode table.
func (fs *FS) tableBlocks() uint64 {
	return (fs.ipg*uint64(fs.inodeSize) + uint64(fs.bs) - 1) >> fs.bsBits
}

// headBlocks is the number of blocks at the start of a group, under a superblock, that
// hold a copy of that, group descriptors, and blocks reserved for more of them.
func (fs *FS) headBlocks(sb *format.Superblock, g uint32) uint64 {
	per := uint64(fs.bs / fs.descSize)
	old := (sb.GroupCount() + per - 1) / per // blocks of descriptors before those of meta_bg
	metaBG := sb.FeatureIncompat&format.IncompatMetaBG != 0
	if metaBG {
		old = min(old, uint64(sb.FirstMetaBg))
	}
	meta := metaBG && uint64(g)/per >= uint64(sb.FirstMetaBg)
	n := uint64(0)
	if sb.GroupHasSuper(g) {
		if n = 1; !meta {
			n += old + uint64(sb.ReservedGDTBlocks)
		}
		if fs.bs == 1024 && fs.firstData == 0 && g == 0 {
			n++
		}
	}
	if i := uint64(g) % per; meta && (i == 0 || i == 1 || i == per-1) {
		n++
	}
	return n
}

// makeZone collects the blocks of superblocks, descriptors, bitmaps and inode tables.
// Two structures in one block are damage: writing one would destroy the other.
func (fs *FS) makeZone() error {
	var zone []run
	add := func(r run) {
		if r.count == 0 {
			return
		}
		if n := len(zone); n > 0 && zone[n-1].end() == r.start {
			zone[n-1].count += r.count
			return
		}
		zone = append(zone, r)
	}
	if fs.firstData == 1 {
		add(run{0, 1})
	}
	groups := *fs.groups.Load()
	for g := range uint32(len(groups)) {
		add(run{fs.groupStart(g), min(fs.headBlocks(&fs.sb, g), fs.groupBlocks(g))})
	}
	for _, gr := range groups {
		add(run{gr.desc.BlockBitmap, 1})
	}
	for _, gr := range groups {
		add(run{gr.desc.InodeBitmap, 1})
	}
	for _, gr := range groups {
		add(run{gr.desc.InodeTable, fs.tableBlocks()})
	}
	slices.SortFunc(zone, func(a, b run) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	out := zone[:0]
	for _, r := range zone {
		if n := len(out); n > 0 {
			if r.start < out[n-1].end() {
				return &CorruptError{"group descriptors", "two structures in block", r.start}
			}
			if r.start == out[n-1].end() {
				out[n-1].count += r.count
				continue
			}
		}
		out = append(out, r)
	}
	out = slices.Clip(out)
	fs.zone.Store(&out)
	return nil
}

// mayHold says whether count blocks from start on can belong to a file: inside the
// filesystem and clear of its own structures.
func (fs *FS) mayHold(start, count uint64) bool {
	blocks := fs.blocks.Load()
	if start < fs.firstData || start >= blocks || count > blocks-start {
		return false
	}
	zone := *fs.zone.Load()
	i, _ := slices.BinarySearchFunc(zone, start, func(r run, s uint64) int {
		if r.end() <= s {
			return -1
		}
		return 1
	})
	return i == len(zone) || zone[i].start >= start+count
}

// UUID is the filesystem's.
func (fs *FS) UUID() [16]byte {
	fs.sbMu.Lock()
	defer fs.sbMu.Unlock()
	return fs.sb.UUID
}

func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// Label is the volume's name.
func (fs *FS) Label() string {
	fs.sbMu.Lock()
	defer fs.sbMu.Unlock()
	return cstring(fs.sb.VolumeName[:])
}

// SetLabel changes the volume's name, of 16 bytes at most, and makes it stable. The
// copies of the superblock keep the old one.
func (fs *FS) SetLabel(label string) error {
	if len(label) > len(fs.sb.VolumeName) {
		return fmt.Errorf("ext4: label of %d bytes: %w", len(label), errInvalid)
	}
	h, err := fs.begin()
	if err != nil {
		return err
	}
	b, err := fs.cache.get(uint64(format.SuperblockOffset >> fs.bsBits))
	if err == nil {
		fs.sbMu.Lock()
		clear(fs.sb.VolumeName[:])
		copy(fs.sb.VolumeName[:], label)
		fs.sbMu.Unlock()
		h.dirty(b, kindPlain, 0) // the commit puts the superblock in
	}
	h.end()
	if err != nil {
		return err
	}
	return fs.commitNow()
}

// BlockSize is in bytes.
func (fs *FS) BlockSize() int { return fs.bs }

// ReadOnly says whether changes are refused: so opened, so remounted, or after damage.
func (fs *FS) ReadOnly() bool { return fs.readOnly.Load() }

// SetDiscard switches Options.Discard.
func (fs *FS) SetDiscard(on bool) { fs.discard.Store(on) }

// SetBarrier switches Options.NoBarrier off and on.
func (fs *FS) SetBarrier(on bool) { fs.lax.Store(!on) }

// SetCommitEvery changes Options.CommitEvery, from the next transaction on; 0 means 5
// seconds.
func (fs *FS) SetCommitEvery(d time.Duration) {
	if d <= 0 {
		d = 5 * time.Second
	}
	fs.every.Store(int64(d))
}

// SetMaxDir keeps directories of bytes or more from growing; 0 means no limit.
func (fs *FS) SetMaxDir(bytes int64) { fs.maxDir.Store(bytes) }

// Damaged says whether changes are refused because damage was found, or because the
// Device failed.
func (fs *FS) Damaged() bool { return fs.damaged.Load() }

// SetErrors changes what happens when damage is found; 0 means as the superblock says.
func (fs *FS) SetErrors(p ErrorPolicy) { fs.errors.Store(uint32(p)) }

// Info tells what the superblock says.
func (fs *FS) Info() Info {
	fs.sbMu.Lock()
	defer fs.sbMu.Unlock()
	sb := &fs.sb
	i := Info{
		UUID: sb.UUID, Label: cstring(sb.VolumeName[:]), LastMounted: cstring(sb.LastMounted[:]),
		BlockSize: fs.bs, Blocks: fs.blocks.Load(), Inodes: fs.inodes.Load(), Reserved: sb.RBlocksCount(),
		ReservedUID: uint32(sb.DefResUID) | uint32(sb.DefResUIDHi)<<16,
		ReservedGID: uint32(sb.DefResGID) | uint32(sb.DefResGIDHi)<<16,
		Compat:      sb.FeatureCompat, Incompat: sb.FeatureIncompat, RoCompat: sb.FeatureRoCompat,
		DefaultMount: sb.DefaultMountOpts, MountOpts: cstring(sb.MountOpts[:]),
		Errors: ErrorPolicy(sb.Errors), ErrorCount: sb.ErrorCount, Journal: fs.jnl != nil && !fs.jnl.lent,
		MaxTime: format.MaxTimeSec32, MaxFileSize: int64(format.MaxLogicalBlock+1) << fs.bsBits,
		XattrMaxValue: min(fs.bs-format.XattrHeaderSize-format.XattrEntryLen(1)-4, 65535),
	}
	if fs.inodeSize >= format.DefaultInode {
		i.MaxTime = format.MaxTimeSec
	}
	if fs.hasEAInode {
		i.XattrMaxValue = maxXattr
	}
	if i.Errors < ErrorsContinue || i.Errors > ErrorsPanic {
		i.Errors = ErrorsContinue
	}
	return i
}

// overhead is the number of blocks that files can never have.
func (fs *FS) overhead() uint64 {
	n := fs.firstData
	for _, r := range *fs.zone.Load() {
		n += r.count
	}
	if fs.firstData == 1 {
		n-- // block 0 is in the zone already
	}
	if fs.jnl != nil && !fs.jnl.lent {
		n += uint64(fs.jnl.super.MaxLen)
	}
	return min(n, fs.blocks.Load())
}

// Statfs counts blocks and inodes.
func (fs *FS) Statfs() Statfs {
	fs.sbMu.Lock()
	uuid, reserved := fs.sb.UUID, fs.sb.RBlocksCount()
	fs.sbMu.Unlock()
	free := uint64(max(fs.freeBlocks.Load()-fs.reserved.Load(), 0))
	s := Statfs{
		BlockSize: int64(fs.bs), Blocks: fs.blocks.Load() - fs.overhead(), Free: free,
		Files: uint64(fs.inodes.Load()), FilesFree: uint64(max(fs.freeInodes.Load(), 0)),
		ID: le.Uint64(uuid[:]) ^ le.Uint64(uuid[8:]), NameMax: format.MaxName,
	}
	if keep := reserved + fs.spare(); free > keep {
		s.Available = free - keep
	}
	return s
}

// spare is the number of blocks that are kept for metadata of data that was promised
// room, as the kernel keeps them: 2 %, 4096 at most.
func (fs *FS) spare() uint64 {
	if fs.incompat&format.IncompatExtents == 0 {
		return 0
	}
	return min(fs.blocks.Load()/50, 4096)
}
