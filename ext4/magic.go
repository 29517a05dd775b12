package ext4

import "strings"

// magics tell what else a disk may hold, by bytes at a fixed place (libblkid's
// superblocks and the formats' own documents). Filesystems come first, what surrounds
// them later: a disk can have both, and the filesystem says more.
var magics = []struct {
	off         int
	magic, name string
}{
	{0, "XFSB", "xfs"},
	{0x10040, "_BHRfS_M", "btrfs"},
	{0x8000, "JFS1", "jfs"},
	{0x10034, "ReIsErFs", "reiserfs"},
	{0x10034, "ReIsEr2Fs", "reiserfs"},
	{0x10034, "ReIsEr3Fs", "reiserfs"},
	{0x2034, "ReIsErFs", "reiserfs"},
	{0x10000, "ReIsEr4", "reiser4"},
	{0x400, "\x10\x20\xF5\xF2", "f2fs"},
	{0x400, "\xE2\xE1\xF5\xE0", "erofs"},
	{0x1018, "\xC6\x85\x73\xF6\x66\xCE\x90\xA9\xD9\x6A\x60\xCF\x80\x3D\xF7\xEF", "bcachefs"},
	{0x1018, "\xC6\x85\x73\xF6\x4E\x1A\x45\xCA\x82\x65\xF5\x7F\x48\xBA\x6D\x81", "bcache"},
	{0x406, "\x34\x34", "nilfs2"},
	{0x400, "OCFSV2", "ocfs2"},
	{0x1000, "OCFSV2", "ocfs2"},
	{0x10000, "\x01\x16\x19\x70", "gfs2"},
	{0x20, "NXSB", "apfs"},
	{0x400, "H+\x00\x04", "hfsplus"},
	{0x400, "HX\x00\x05", "hfsplus"},
	{0x400, "BD", "hfs"},
	{0x10 + 0x400, "\x7F\x13", "minix"},
	{0x10 + 0x400, "\x8F\x13", "minix"},
	{0x10 + 0x400, "\x68\x24", "minix"},
	{0x10 + 0x400, "\x78\x24", "minix"},
	{0x18 + 0x400, "\x5A\x4D", "minix"},
	{0x2000 + 0x55C, "\x54\x19\x01\x00", "ufs"},
	{0x10000 + 0x55C, "\x19\x01\x54\x19", "ufs"},
	{0, "hsqs", "squashfs"},
	{0, "sqsh", "squashfs"},
	{0, "\x45\x3D\xCD\x28", "cramfs"},
	{0x200, "\x45\x3D\xCD\x28", "cramfs"},
	{0, "-rom1fs-", "romfs"},
	{3, "NTFS    ", "ntfs"},
	{3, "-FVE-FS-", "BitLocker"},
	{3, "EXFAT   ", "exfat"},
	{0x52, "FAT32   ", "vfat"},
	{0x36, "FAT16   ", "vfat"},
	{0x36, "FAT12   ", "vfat"},
	{0x36, "FAT     ", "vfat"},
	{0x8001, "CD001", "iso9660"},
	{0x8001, "BEA01", "udf"},
	{0xFF6, "SWAPSPACE2", "swap"},
	{0xFF6, "SWAP-SPACE", "swap"},
	{0xFF6, "S1SUSPEND", "swap with a suspended system"},
	{0x3FF6, "SWAPSPACE2", "swap"},
	{0xFFF6, "SWAPSPACE2", "swap"},
	{0, "LUKS\xBA\xBE", "LUKS"},
	{0x218, "LVM2 001", "LVM"},
	{0x18, "LVM2 001", "LVM"},
	{0x1000, "\xFC\x4E\x2B\xA9", "a RAID member"},
	{0, "\xFC\x4E\x2B\xA9", "a RAID member"},
	{0, "OOOM", "a COW file"},
	{0, "MOOO", "a COW file"},
	{0, "QFI\xFB", "a qcow2 file"},
	{0, "KDMV", "a VMDK file"},
	{0, "vhdxfile", "a VHDX file"},
	{0x40, "\x7F\x10\xDA\xBE", "a VDI file"},
	{0, "\x1F\x8B\x08", "a gzip file"},
	{0, "\xFD7zXZ\x00", "an xz file"},
	{0, "\x28\xB5\x2F\xFD", "a zstd file"},
	{0, "BZh", "a bzip2 file"},
	{0x101, "ustar", "a tar file"},
	{0, "070701", "a cpio archive"},
	{0x200, "EFI PART", "a GPT partition table"},
	{0x1000, "EFI PART", "a GPT partition table"},
	{0, "ER\x02\x00", "an Apple partition table"},
	{0x1FE, "\x55\xAA", "a partition table or boot sector"},
}

// A ZFS label has its uberblocks from 128 to 256 KiB.
const (
	zfsFirst = 0x20000
	zfsEnd   = 0x40000
	zfsStep  = 0x400
	zfsMagic = 0x00BAB10C
)

// whatElse names what the disk holds when it is no ext filesystem; "" when unknown.
func (fs *FS) whatElse() string {
	head := make([]byte, min(zfsEnd, fs.dev.Size()))
	n, _ := fs.dev.ReadAt(head, 0)
	head = head[:n]
	for _, m := range magics {
		if m.off <= len(head) && strings.HasPrefix(string(head[m.off:min(len(head), m.off+len(m.magic))]), m.magic) {
			return m.name
		}
	}
	for off := zfsFirst; off+8 <= len(head); off += zfsStep {
		if le.Uint64(head[off:]) == zfsMagic || be.Uint64(head[off:]) == zfsMagic {
			return "zfs"
		}
	}
	if allZero(head) {
		return "an empty disk"
	}
	return ""
}
