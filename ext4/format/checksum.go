package format

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C is the checksum of metadata_csum and jbd2: the Castagnoli polynomial,
// reflected, with neither the first nor the last inversion of the usual crc32c.
func CRC32C(seed uint32, b []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli, b)
}

func crcWord(seed, v uint32) uint32 {
	var w [4]byte
	le.PutUint32(w[:], v)
	return CRC32C(seed, w[:])
}

func crcWord64(seed uint32, v uint64) uint32 {
	var w [8]byte
	le.PutUint64(w[:], v)
	return CRC32C(seed, w[:])
}

var zeros [4]byte

// SuperblockChecksum is the checksum of a superblock's bytes.
func SuperblockChecksum(b []byte) uint32 { return CRC32C(^uint32(0), b[:SuperblockSize-4]) }

// Seed is where every checksum but the superblock's begins: kept in the superblock
// with metadata_csum_seed, else made from the UUID.
func (s *Superblock) Seed() uint32 {
	if s.FeatureIncompat&IncompatCsumSeed != 0 {
		return s.ChecksumSeed
	}
	return CRC32C(^uint32(0), s.UUID[:])
}

// GroupDescChecksum is the checksum of an encoded group descriptor with
// metadata_csum.
func GroupDescChecksum(seed, group uint32, desc []byte) uint16 {
	c := crcWord(seed, group)
	c = CRC32C(c, desc[:0x1E])
	c = CRC32C(c, zeros[:2])
	if len(desc) > 0x20 {
		c = CRC32C(c, desc[0x20:])
	}
	return uint16(c)
}

// GroupDescCRC16 is the checksum of an encoded group descriptor with uninit_bg and
// without metadata_csum.
func GroupDescCRC16(uuid [16]byte, group uint32, desc []byte) uint16 {
	var w [4]byte
	le.PutUint32(w[:], group)
	c := CRC16(0xFFFF, uuid[:])
	c = CRC16(c, w[:])
	c = CRC16(c, desc[:0x1E])
	if len(desc) > 0x20 {
		c = CRC16(c, desc[0x20:])
	}
	return c
}

var crc16Table = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
		t[i] = c
	}
	return
}()

// CRC16 is the reflected CRC-16 with the polynomial 0x8005.
func CRC16(seed uint16, b []byte) uint16 {
	for _, c := range b {
		seed = seed>>8 ^ crc16Table[byte(seed)^c]
	}
	return seed
}

// BitmapChecksum is the checksum of a block or inode bitmap; b is as long as the
// group has blocks or inodes, in bytes.
func BitmapChecksum(seed uint32, b []byte) uint32 { return CRC32C(seed, b) }

// InodeSeed is where the checksums of an inode, and of its directory blocks, extent
// nodes and orphan blocks, begin.
func InodeSeed(seed, ino, generation uint32) uint32 {
	return crcWord(crcWord(seed, ino), generation)
}

// InodeChecksum is the checksum of an encoded inode of len(b) bytes, from its
// InodeSeed, and whether the inode stores all 32 bits of it or only the low 16.
func InodeChecksum(iseed uint32, b []byte) (sum uint32, full bool) {
	c := CRC32C(iseed, b[:0x7C])
	c = CRC32C(c, zeros[:2])
	c = CRC32C(c, b[0x7E:InodeBaseSize])
	if len(b) <= InodeBaseSize {
		return c, false
	}
	c = CRC32C(c, b[InodeBaseSize:0x82])
	off := 0x82
	if le.Uint16(b[0x80:]) >= 4 {
		c = CRC32C(c, zeros[:2])
		off = 0x84
		full = true
	}
	return CRC32C(c, b[off:]), full
}

// SetInodeChecksum computes and stores the checksum of an encoded inode.
func SetInodeChecksum(iseed uint32, b []byte) {
	c, full := InodeChecksum(iseed, b)
	le.PutUint16(b[0x7C:], uint16(c))
	if full {
		le.PutUint16(b[0x82:], uint16(c>>16))
	}
}

// InodeChecksumOK compares an encoded inode's checksum with its bytes.
func InodeChecksumOK(iseed uint32, b []byte) bool {
	c, full := InodeChecksum(iseed, b)
	if uint16(c) != le.Uint16(b[0x7C:]) {
		return false
	}
	return !full || uint16(c>>16) == le.Uint16(b[0x82:])
}

// extentTail gives the offset of an extent block's checksum, and false when the
// header's Max leaves no room for it.
func extentTail(block []byte) (int, bool) {
	off := ExtentHeaderSize + ExtentSize*int(le.Uint16(block[4:]))
	return off, off+ExtentTailSize <= len(block)
}

// SetExtentChecksum computes and stores the checksum of an extent tree's block.
func SetExtentChecksum(iseed uint32, block []byte) {
	if off, ok := extentTail(block); ok {
		le.PutUint32(block[off:], CRC32C(iseed, block[:off]))
	}
}

// ExtentChecksumOK compares an extent block's checksum with its bytes.
func ExtentChecksumOK(iseed uint32, block []byte) bool {
	off, ok := extentTail(block)
	return ok && le.Uint32(block[off:]) == CRC32C(iseed, block[:off])
}

// SetDirChecksum computes and stores the checksum in a directory block's DirTail.
func SetDirChecksum(iseed uint32, block []byte) {
	n := len(block)
	le.PutUint32(block[n-4:], CRC32C(iseed, block[:n-DirTailSize]))
}

// DirChecksumOK says whether a directory block has a DirTail with the right checksum.
func DirChecksumOK(iseed uint32, block []byte) bool {
	n := len(block)
	return HasDirTail(block) && le.Uint32(block[n-4:]) == CRC32C(iseed, block[:n-DirTailSize])
}

// dxSum computes an index block's checksum; entries is the offset of its count.
func dxSum(iseed uint32, block []byte, entries int) (sum uint32, tail int, ok bool) {
	limit, count := int(le.Uint16(block[entries:])), int(le.Uint16(block[entries+2:]))
	tail = entries + limit*DxEntrySize
	if count > limit || tail+DxTailSize > len(block) {
		return 0, 0, false
	}
	c := CRC32C(iseed, block[:entries+count*DxEntrySize])
	c = CRC32C(c, block[tail:tail+4])
	return CRC32C(c, zeros[:4]), tail, true
}

// SetDxChecksum computes and stores the checksum of an htree's index block whose
// count lies at offset entries (DxRootEntries or DxNodeEntries).
func SetDxChecksum(iseed uint32, block []byte, entries int) {
	if c, tail, ok := dxSum(iseed, block, entries); ok {
		le.PutUint32(block[tail+4:], c)
	}
}

// DxChecksumOK compares an index block's checksum with its bytes.
func DxChecksumOK(iseed uint32, block []byte, entries int) bool {
	c, tail, ok := dxSum(iseed, block, entries)
	return ok && le.Uint32(block[tail+4:]) == c
}

// XattrBlockChecksum is the checksum of a block of extended attributes that lies in
// block blockNr.
func XattrBlockChecksum(seed uint32, blockNr uint64, block []byte) uint32 {
	c := crcWord64(seed, blockNr)
	c = CRC32C(c, block[:0x10])
	c = CRC32C(c, zeros[:4])
	return CRC32C(c, block[0x14:])
}

// OrphanFileMagic ends every block of the orphan file, before its checksum.
const OrphanFileMagic = 0x0B10CA04

// OrphanTailSize is the length of an orphan block's magic and checksum.
const OrphanTailSize = 8

// OrphansPerBlock is the number of inode numbers in a block of the orphan file.
func OrphansPerBlock(blockSize int) int { return (blockSize - OrphanTailSize) / 4 }

// OrphanBlockChecksum is the checksum of a block of the orphan file, from the
// InodeSeed of that file and the block's place on disk. Without metadata_csum the
// stored value is not looked at.
func OrphanBlockChecksum(iseed uint32, blockNr uint64, block []byte) uint32 {
	return CRC32C(crcWord64(iseed, blockNr), block[:OrphansPerBlock(len(block))*4])
}

// InodeGeneration is the generation that gives inode ino the InodeSeed want: with it an
// inode can change its number, and every checksum that begins from there stays right.
func InodeGeneration(seed, ino, want uint32) uint32 {
	// A checksum of four bytes is what comes of state^bytes in 32 steps, each of which
	// can be undone.
	for range 32 {
		if want&(1<<31) != 0 {
			want = (want^crc32.Castagnoli)<<1 | 1
		} else {
			want <<= 1
		}
	}
	return want ^ crcWord(seed, ino)
}
