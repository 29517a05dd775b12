package mkfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/umlkit/umlkit/ext4/format"
)

// features are the three feature words of a superblock.
type features struct {
	compat   format.CompatFeatures
	incompat format.IncompatFeatures
	ro       format.RoCompatFeatures
}

// defaults are the features of `mke2fs -t ext4` on Debian 12.
var defaults = features{
	compat: format.CompatHasJournal | format.CompatExtAttr | format.CompatResizeInode | format.CompatDirIndex,
	incompat: format.IncompatFiletype | format.IncompatExtents | format.Incompat64Bit |
		format.IncompatFlexBG,
	ro: format.RoSparseSuper | format.RoLargeFile | format.RoHugeFile | format.RoDirNlink |
		format.RoExtraIsize | format.RoMetadataCsum,
}

// byType are the features of `mke2fs -t` on Debian 12, by the type of the filesystem.
var byType = map[string]features{
	"":     defaults,
	"ext4": defaults,
	"ext3": ext2.with(features{compat: format.CompatHasJournal}),
	"ext2": ext2,
}

var ext2 = features{
	compat:   format.CompatExtAttr | format.CompatResizeInode | format.CompatDirIndex,
	incompat: format.IncompatFiletype,
	ro:       format.RoSparseSuper | format.RoLargeFile,
}

// makeable are the features that this package can turn on and off. Those beyond the defaults
// change nothing about a new filesystem but what a kernel may do with it later, except
// uninit_bg and metadata_csum_seed, which change checksums, meta_bg and sparse_super2, which
// change where group descriptors and copies of the superblock lie, orphan_file and quota, which
// add files (see own.go), and fast_commit, which makes the journal longer.
var makeable = features{
	compat: defaults.compat | format.CompatStableInodes | format.CompatSparseSuper2 | format.CompatOrphanFile |
		format.CompatFastCommit,
	incompat: defaults.incompat | format.IncompatEAInode | format.IncompatCsumSeed | format.IncompatLargeDir |
		format.IncompatInlineData | format.IncompatMetaBG,
	ro: defaults.ro | format.RoGDTCsum | format.RoProject | format.RoQuota,
}

// unusable are features of filesystems that no guest could write to, and why.
var unusable = map[string]string{
	"encrypt":  "a guest could not mount the filesystem, for the machine does not encrypt",
	"casefold": "a guest could not mount the filesystem, for the machine does not fold case",
	"verity":   "a guest could only read the filesystem, for the machine does not check verity files",
	"bigalloc": "a guest could only read the filesystem, for the machine does not allocate clusters",
}

// aliases are the names that mke2fs takes besides those that dumpe2fs prints.
var aliases = map[string]string{"extents": "extent", "dir_indexes": "dir_index", "gdt_csum": "uninit_bg"}

// one returns the single feature of that name, and whether there is any such feature.
func one(name string) (features, bool) {
	for i := range 32 {
		bit := uint32(1) << i
		for _, f := range []features{
			{compat: format.CompatFeatures(bit)},
			{incompat: format.IncompatFeatures(bit)},
			{ro: format.RoCompatFeatures(bit)},
		} {
			if slices.Equal(f.names(), []string{name}) && !strings.HasPrefix(name, "FEATURE_") {
				return f, true
			}
		}
	}
	return features{}, false
}

func (f features) names() []string {
	return slices.Concat(f.compat.Names(), f.incompat.Names(), f.ro.Names())
}

func (f features) with(g features) features {
	return features{f.compat | g.compat, f.incompat | g.incompat, f.ro | g.ro}
}

func (f features) without(g features) features {
	return features{f.compat &^ g.compat, f.incompat &^ g.incompat, f.ro &^ g.ro}
}

// parseFeatures applies a list of names to a beginning and refuses what does not go together.
func parseFeatures(f features, list []string) (features, error) {
	for _, word := range list {
		name, off := strings.CutPrefix(word, "^")
		if alias, ok := aliases[name]; ok {
			name = alias
		}
		if name == "none" && !off {
			f = features{}
			continue
		}
		bit, known := one(name)
		if !known {
			return f, fmt.Errorf("feature %q: there is none of that name; this program makes %s",
				word, strings.Join(makeable.names(), " "))
		}
		if off { // also what is never on: other programs have it on by themselves
			f = f.without(bit)
			continue
		}
		if why := unusable[name]; why != "" {
			return f, fmt.Errorf("feature %q: not made by this program: %s", word, why)
		}
		if bit.without(makeable) != (features{}) {
			return f, fmt.Errorf("feature %q: not made by this program, which makes %s",
				word, strings.Join(makeable.names(), " "))
		}
		// The two checksum features exclude each other: the last one named holds.
		switch bit.ro {
		case format.RoGDTCsum:
			f.ro &^= format.RoMetadataCsum
		case format.RoMetadataCsum:
			f.ro &^= format.RoGDTCsum
		}
		f = f.with(bit)
	}
	return f, f.check()
}

// check refuses combinations that kernels and e2fsck refuse.
func (f features) check() error {
	switch {
	case f.incompat&format.Incompat64Bit != 0 && f.incompat&format.IncompatExtents == 0:
		return fmt.Errorf("feature 64bit needs extent: add ^64bit")
	case f.compat&format.CompatResizeInode != 0 && f.ro&format.RoSparseSuper == 0:
		return fmt.Errorf("feature resize_inode needs sparse_super: add ^resize_inode")
	case f.compat&format.CompatResizeInode != 0 && f.incompat&format.IncompatMetaBG != 0:
		return fmt.Errorf("feature meta_bg excludes resize_inode: add ^resize_inode")
	case f.incompat&format.IncompatCsumSeed != 0 && f.ro&format.RoMetadataCsum == 0:
		return fmt.Errorf("feature metadata_csum_seed needs metadata_csum")
	case f.incompat&format.IncompatLargeDir != 0 && f.compat&format.CompatDirIndex == 0:
		return fmt.Errorf("feature large_dir needs dir_index")
	}
	return nil
}

func (f features) checksums() bool  { return f.ro&format.RoMetadataCsum != 0 }
func (f features) lazy() bool       { return f.ro&(format.RoMetadataCsum|format.RoGDTCsum) != 0 }
func (f features) extents() bool    { return f.incompat&format.IncompatExtents != 0 }
func (f features) flexBG() bool     { return f.incompat&format.IncompatFlexBG != 0 }
func (f features) wide() bool       { return f.incompat&format.Incompat64Bit != 0 }
func (f features) journal() bool    { return f.compat&format.CompatHasJournal != 0 }
func (f features) metaBG() bool     { return f.incompat&format.IncompatMetaBG != 0 }
func (f features) quota() bool      { return f.ro&format.RoQuota != 0 }
func (f features) orphanFile() bool { return f.compat&format.CompatOrphanFile != 0 }
func (f features) resize() bool     { return f.compat&format.CompatResizeInode != 0 }

// mountBits are tune2fs's names for the default mount options.
var mountBits = map[string]uint32{
	"debug":                  format.MountDebug,
	"bsdgroups":              format.MountBSDGroups,
	"user_xattr":             format.MountXattrUser,
	"acl":                    format.MountACL,
	"uid16":                  format.MountUID16,
	"journal_data":           format.MountDataJournal,
	"journal_data_ordered":   format.MountDataOrdered,
	"journal_data_writeback": format.MountDataWriteb,
	"nobarrier":              format.MountNoBarrier,
	"block_validity":         format.MountBlockValid,
	"discard":                format.MountDiscard,
	"nodelalloc":             format.MountNoDelayAlloc,
}

func parseMountOptions(list []string) (uint32, error) {
	bits := uint32(format.MountXattrUser | format.MountACL)
	for _, word := range list {
		name, off := strings.CutPrefix(word, "^")
		bit, ok := mountBits[name]
		if !ok {
			return 0, fmt.Errorf("default mount option %q: there is none of that name; they are %s",
				word, strings.Join(slices.Sorted(maps.Keys(mountBits)), " "))
		}
		if bit&format.MountJournalMode != 0 || off {
			mask := bit
			if bit&format.MountJournalMode != 0 {
				mask = format.MountJournalMode
			}
			bits &^= mask
		}
		if !off {
			bits |= bit
		}
	}
	return bits, nil
}
