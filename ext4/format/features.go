package format

import (
	"fmt"
	"math/bits"
	"strings"
)

// CompatFeatures are features that a program may ignore and still read and write.
type CompatFeatures uint32

// IncompatFeatures are features that a program must know to even read.
type IncompatFeatures uint32

// RoCompatFeatures are features that a program must know to write.
type RoCompatFeatures uint32

// Compatible features.
const (
	CompatDirPrealloc  CompatFeatures = 0x0001
	CompatImagicInodes CompatFeatures = 0x0002
	CompatHasJournal   CompatFeatures = 0x0004
	CompatExtAttr      CompatFeatures = 0x0008
	CompatResizeInode  CompatFeatures = 0x0010
	CompatDirIndex     CompatFeatures = 0x0020
	CompatLazyBG       CompatFeatures = 0x0040
	CompatExcludeInode CompatFeatures = 0x0080
	CompatExcludeBmap  CompatFeatures = 0x0100
	CompatSparseSuper2 CompatFeatures = 0x0200
	CompatFastCommit   CompatFeatures = 0x0400
	CompatStableInodes CompatFeatures = 0x0800
	CompatOrphanFile   CompatFeatures = 0x1000
)

// Incompatible features.
const (
	IncompatCompression IncompatFeatures = 0x00001
	IncompatFiletype    IncompatFeatures = 0x00002
	IncompatRecover     IncompatFeatures = 0x00004
	IncompatJournalDev  IncompatFeatures = 0x00008
	IncompatMetaBG      IncompatFeatures = 0x00010
	IncompatExtents     IncompatFeatures = 0x00040
	Incompat64Bit       IncompatFeatures = 0x00080
	IncompatMMP         IncompatFeatures = 0x00100
	IncompatFlexBG      IncompatFeatures = 0x00200
	IncompatEAInode     IncompatFeatures = 0x00400
	IncompatDirData     IncompatFeatures = 0x01000
	IncompatCsumSeed    IncompatFeatures = 0x02000
	IncompatLargeDir    IncompatFeatures = 0x04000
	IncompatInlineData  IncompatFeatures = 0x08000
	IncompatEncrypt     IncompatFeatures = 0x10000
	IncompatCasefold    IncompatFeatures = 0x20000
)

// Features that are compatible for reading only.
const (
	RoSparseSuper   RoCompatFeatures = 0x00001
	RoLargeFile     RoCompatFeatures = 0x00002
	RoBtreeDir      RoCompatFeatures = 0x00004
	RoHugeFile      RoCompatFeatures = 0x00008
	RoGDTCsum       RoCompatFeatures = 0x00010 // uninit_bg
	RoDirNlink      RoCompatFeatures = 0x00020
	RoExtraIsize    RoCompatFeatures = 0x00040
	RoHasSnapshot   RoCompatFeatures = 0x00080
	RoQuota         RoCompatFeatures = 0x00100
	RoBigalloc      RoCompatFeatures = 0x00200
	RoMetadataCsum  RoCompatFeatures = 0x00400
	RoReplica       RoCompatFeatures = 0x00800
	RoReadonly      RoCompatFeatures = 0x01000
	RoProject       RoCompatFeatures = 0x02000
	RoSharedBlocks  RoCompatFeatures = 0x04000
	RoVerity        RoCompatFeatures = 0x08000
	RoOrphanPresent RoCompatFeatures = 0x10000
)

var compatNames = [32]string{
	0: "dir_prealloc", 1: "imagic_inodes", 2: "has_journal", 3: "ext_attr", 4: "resize_inode",
	5: "dir_index", 6: "lazy_bg", 7: "snapshot_inode", 8: "snapshot_bitmap", 9: "sparse_super2",
	10: "fast_commit", 11: "stable_inodes", 12: "orphan_file",
}

var incompatNames = [32]string{
	0: "compression", 1: "filetype", 2: "needs_recovery", 3: "journal_dev", 4: "meta_bg",
	6: "extent", 7: "64bit", 8: "mmp", 9: "flex_bg", 10: "ea_inode", 12: "dirdata",
	13: "metadata_csum_seed", 14: "large_dir", 15: "inline_data", 16: "encrypt", 17: "casefold",
}

var roCompatNames = [32]string{
	0: "sparse_super", 1: "large_file", 2: "btree_dir", 3: "huge_file", 4: "uninit_bg",
	5: "dir_nlink", 6: "extra_isize", 7: "snapshot", 8: "quota", 9: "bigalloc",
	10: "metadata_csum", 11: "replica", 12: "read-only", 13: "project", 14: "shared_blocks",
	15: "verity", 16: "orphan_present",
}

// names spells set bits as e2fsprogs does; a bit without a name becomes, for example,
// FEATURE_I21, as dumpe2fs prints it.
func names(set uint32, table *[32]string, kind byte) []string {
	var out []string
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros32(set)
		if table[i] != "" {
			out = append(out, table[i])
		} else {
			out = append(out, fmt.Sprintf("FEATURE_%c%d", kind, i))
		}
	}
	return out
}

// Names lists the features by the names e2fsprogs gives them.
func (f CompatFeatures) Names() []string { return names(uint32(f), &compatNames, 'C') }

// Names lists the features by the names e2fsprogs gives them.
func (f IncompatFeatures) Names() []string { return names(uint32(f), &incompatNames, 'I') }

// Names lists the features by the names e2fsprogs gives them.
func (f RoCompatFeatures) Names() []string { return names(uint32(f), &roCompatNames, 'R') }

// String joins Names with spaces.
func (f CompatFeatures) String() string { return strings.Join(f.Names(), " ") }

// String joins Names with spaces.
func (f IncompatFeatures) String() string { return strings.Join(f.Names(), " ") }

// String joins Names with spaces.
func (f RoCompatFeatures) String() string { return strings.Join(f.Names(), " ") }
