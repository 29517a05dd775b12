package ext4

import (
	"bytes"
	"fmt"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
)

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
		NeedsCheck: sb.State&format.StateError != 0,
		MaxTime:    format.MaxTimeSec32, MaxFileSize: int64(format.MaxLogicalBlock+1) << fs.bsBits,
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

// FitsType says whether Linux mounts the filesystem as "ext2" or "ext3" as well: these do
// not know the features of ext4, and an ext3 has a journal. Reading needs less.
func (i *Info) FitsType(name string, readOnly bool) bool {
	incompat := format.IncompatFiletype | format.IncompatMetaBG
	if name == "ext3" {
		if !i.Journal {
			return false
		}
		incompat |= format.IncompatRecover
	}
	const ro = format.RoSparseSuper | format.RoLargeFile | format.RoBtreeDir
	return i.Incompat&^incompat == 0 && (readOnly || i.RoCompat&^ro == 0)
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
