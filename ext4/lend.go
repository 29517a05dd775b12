package ext4

import (
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/umlkit/umlkit/ext4/format"
)

// Log is a place on a Device, in bytes and whole blocks, behind the end of a filesystem.
type Log struct {
	Off, Len int64
}

// FindLog says where a log of n bytes lies that a killed use of Options.Log left at the end
// of dev; ok is false when there is none.
func FindLog(dev Device, n int64) (l Log, ok bool, err error) {
	var sb format.Superblock
	var super format.JournalSuperblock
	raw := make([]byte, format.SuperblockSize)
	off := dev.Size() - n
	if off < format.SuperblockOffset+format.SuperblockSize {
		return l, false, nil
	}
	for at, s := range map[int64]interface{ Decode([]byte) error }{format.SuperblockOffset: &sb, off: &super} {
		if _, err := dev.ReadAt(raw, at); err != nil && err != io.EOF {
			return l, false, fmt.Errorf("ext4: look for a log: %w", ioError(err))
		}
		if err := s.Decode(raw); err != nil {
			return l, false, err
		}
	}
	ok = sb.Magic == format.SuperMagic && sb.FeatureCompat&format.CompatHasJournal == 0 && super.Header.Magic == format.JournalMagic &&
		super.UUID == sb.UUID && int64(super.MaxLen)*int64(super.BlockSize) == n
	return Log{off, n}, ok, nil
}

// openLent begins the log that Options.Log lends to a filesystem without a journal, or
// replays it when an earlier use was killed. It belongs to that use alone: once somebody
// else has mounted the filesystem for writing, what the log holds is void.
func (fs *FS) openLent() error {
	l := fs.opt.Log
	r := run{uint64(l.Off) >> fs.bsBits, uint64(l.Len) >> fs.bsBits}
	if r.start < fs.blocks.Load() || r.count < 64 || r.end() > uint64(fs.dev.Size())>>fs.bsBits {
		return fmt.Errorf("ext4: log of %d bytes at %d: %w: it lies within the filesystem or beyond the disk", l.Len, l.Off, errInvalid)
	}
	j := &journal{fs: fs, raw: make([]byte, fs.bs), logged: make(map[uint64]uint32), blocks: []run{r}, lent: true}
	if err := j.read(0, j.raw); err != nil {
		return err
	}
	s := &j.super
	if err := s.Decode(j.raw); err != nil {
		return err
	}
	ours := s.Header.Magic == format.JournalMagic && s.Header.Type == format.JournalSuperblockV2 && s.UUID == fs.sb.UUID &&
		int(s.BlockSize) == fs.bs && uint64(s.MaxLen) == r.count && s.First == 1 && s.Start < s.MaxLen && s.FeatureIncompat&^lentFeatures == 0 &&
		(!s.HasChecksums() || s.Checksum == format.JournalSuperblockChecksum(j.raw)) &&
		s.Padding[0] == uint32(fs.sb.MntCount) && s.Padding[1] == fs.sb.Mtime
	replay := ours && s.Start != 0
	if !ours {
		*s = format.JournalSuperblock{
			Header:    format.JournalHeader{Magic: format.JournalMagic, Type: format.JournalSuperblockV2},
			BlockSize: uint32(fs.bs), MaxLen: uint32(r.count), First: 1, NrUsers: 1, UUID: fs.sb.UUID,
			Sequence: rand.Uint32(), // what lies in the log has another
		}
		clear(j.raw)
	}
	j.incomp, j.csum, j.seed = s.FeatureIncompat, s.HasChecksums(), s.Seed()
	j.first, j.last = 1, s.MaxLen
	j.head, j.tail = j.first, j.first
	if replay {
		if err := j.recover(); err != nil {
			return err
		}
		fs.icache.clear()
		fs.bsBits = 0
		if err := fs.loadSuper(); err != nil {
			return err
		}
	}
	if err := fs.loadGroups(true); err != nil {
		return err
	}
	s.Start = 0
	j.sequence, j.tailSeq = s.Sequence, s.Sequence
	fs.jnl = j
	return j.writeSuper()
}

const lentFeatures = format.JournalIncompatRevoke | format.JournalIncompat64Bit | format.JournalIncompatCsumV3
