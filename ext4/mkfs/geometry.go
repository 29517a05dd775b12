package mkfs

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
)

// run is a run of blocks: from start, up to and without end.
type run struct{ start, end uint64 }

func (r run) len() uint64 { return r.end - r.start }

// geometry is where everything lies that a filesystem has before it has files.
type geometry struct {
	blockSize  int
	blockBits  uint
	firstBlock uint64 // 1 with blocks of 1 KiB (block 0 is the boot block), else 0
	blocks     uint64 // of the filesystem, boot block included
	perGroup   uint64 // blocks
	groups     uint32
	flex       uint32 // groups whose metadata lies together; 1 without flex_bg

	inodeSize      int
	inodesPerGroup uint32
	tableBlocks    uint64 // of an inode table

	descSize    int
	descBlocks  uint64 // of the group descriptors
	reservedGDT uint64 // blocks that resize2fs may grow them into

	journal  uint64 // blocks, with those for fast commits
	fast     uint64 // blocks of the journal's end that are for fast commits
	orphans  uint64 // blocks of the orphan file
	reserved uint64 // blocks for root only

	f features
}

// limits of the format and of this package, in blocks and inodes.
const (
	flexBits      = 4         // 16 groups
	maxBlocks     = 1 << 32   // 16 TiB of 4 KiB
	maxNarrow     = 1<<32 - 1 // without 64bit, and with resize_inode
	maxInodes     = 1<<32 - 1
	lostFoundSize = 16 << 10
	firstIno      = format.GoodOldFirst
	spare         = 50 // blocks that mke2fs wants free in the last group
)

// inodeRatio is the number of bytes for each inode that mke2fs.conf gives for a device size.
func inodeRatio(size int64) int64 {
	switch {
	case size < 3<<20:
		return 8192
	case size < 512<<20:
		return 4096
	case size < 4<<40:
		return 16384
	case size < 16<<40:
		return 32768
	}
	return 65536
}

// journalBlocks is the length that mke2fs gives to the journal of a filesystem, 0 for none.
func journalBlocks(blocks uint64) uint64 {
	const k = 1024
	switch {
	case blocks < 2*k:
		return 0
	case blocks < 32*k:
		return 1 * k
	case blocks < 256*k:
		return 4 * k
	case blocks < 512*k:
		return 8 * k
	case blocks < 4096*k:
		return 16 * k
	case blocks < 8192*k:
		return 32 * k
	case blocks < 16384*k:
		return 64 * k
	case blocks < 32768*k:
		return 128 * k
	}
	return 256 * k
}

// tooSmall says that no filesystem of these options fits a device, not even an empty one.
type tooSmall struct {
	size int64
	why  string
}

func (e *tooSmall) Error() string {
	return fmt.Sprintf("a device of %d bytes is too small: %s", e.size, e.why)
}

func (e *tooSmall) Is(target error) bool { return target == unix.ENOSPC }

// newGeometry decides the layout for a device of size bytes. The rules and the order in which
// they apply are mke2fs's, so that the numbers come out as its numbers do. Options are resolved.
func newGeometry(size int64, o *resolved) (*geometry, error) {
	g := &geometry{
		blockSize: o.blockSize, blockBits: o.blockBits,
		inodeSize: o.inodeSize, flex: 1, descSize: format.GroupDescSize32, f: o.f,
	}
	if g.blockSize == 1024 {
		g.firstBlock = 1
	}
	if o.f.wide() {
		g.descSize = format.GroupDescSize64
	}
	if o.f.flexBG() {
		g.flex = 1 << flexBits
	}
	all := uint64(size) &^ 4095 >> g.blockBits // whole pages, whatever the block
	if size < 0 || all <= g.firstBlock {
		return nil, &tooSmall{size, "it holds no block"}
	}
	most := uint64(maxNarrow)
	if o.f.wide() {
		most = maxBlocks
	}
	if all > most {
		return nil, tooLarge(size, most, g.blockSize, o.f.wide())
	}
	if all > maxNarrow {
		g.f.compat &^= format.CompatResizeInode // its block numbers have 32 bits
	}
	want := uint64(o.inodes)
	if want == 0 {
		ratio := o.inodeRatio
		if ratio == 0 {
			ratio = max(inodeRatio(size), int64(g.blockSize))
		}
		want = all << g.blockBits / uint64(ratio)
	}
	if want > maxInodes {
		return nil, fmt.Errorf("%d inodes are too many: at most %d", want, uint64(maxInodes))
	}
	want = max(want, 1)

	g.blocks = all
	g.perGroup = min(uint64(g.blockSize)*8, 65528)
	for {
		if g.blocks <= g.firstBlock {
			return nil, &tooSmall{size, "nothing is left of its only group"}
		}
		n := g.blocks - g.firstBlock
		g.groups = uint32((n + g.perGroup - 1) / g.perGroup)
		g.descBlocks = ceil(uint64(g.groups), uint64(g.blockSize/g.descSize))

		ipg := ceil(want, uint64(g.groups))
		if ipg > uint64(g.blockSize)*8 {
			// One bitmap cannot hold so many: smaller groups make more of them.
			if g.perGroup < 256 {
				return nil, g.tooMany(want, size)
			}
			g.perGroup -= 8
			g.blocks = all
			continue
		}
		if !g.fitInodes(ipg) {
			return nil, fmt.Errorf("%d inodes are too many: at most %d", want, uint64(maxInodes))
		}
		if err := g.reserveGDT(o.resizeLimit); err != nil {
			return nil, err
		}
		if !o.f.metaBG() && g.descBlocks+g.reservedGDT > g.perGroup*3/4 {
			if g.perGroup < min(uint64(g.blockSize)*8, 65528) { // it was made smaller for the inodes
				return nil, g.tooMany(want, size)
			}
			return nil, fmt.Errorf("the descriptors of %d groups leave no room in a group: use larger blocks", g.groups)
		}
		if 2+g.tableBlocks+max(g.headBlocks(0), g.headBlocks(g.groups-1)) > g.perGroup {
			return nil, g.tooMany(want, size)
		}
		// A last group that cannot hold its own tables is left out.
		need := 2 + g.tableBlocks + g.headBlocks(g.groups-1)
		rem := n % g.perGroup
		if g.groups == 1 && rem != 0 && rem < need {
			return nil, &tooSmall{size, fmt.Sprintf("the tables alone take %d blocks of %d", need, g.blockSize)}
		}
		if rem != 0 && rem < need+spare {
			g.blocks -= rem
			continue
		}
		break
	}
	// Whole blocks of the device's share; mke2fs rounds twice when it left a group out.
	g.reserved = uint64(float64(all) * o.reserved / 100)
	if g.blocks < all {
		g.reserved = uint64(100 * float64(g.reserved) / float64(all) * float64(g.blocks) / 100)
	}
	return g, g.sizeJournal(size, o)
}

// tooMany says how many inodes a device of size bytes holds at most.
func (g *geometry) tooMany(want uint64, size int64) error {
	most := uint64(size) / 2 / uint64(g.inodeSize) // tables of half the device
	return fmt.Errorf("%d inodes are too many for %d bytes: at most about %d", want, size, most)
}

// fitInodes sets the inodes of each group: at least ipg, a whole number of blocks and a multiple
// of 8, together no more than 32 bits can count and no fewer than the reserved ones and lost+found.
func (g *geometry) fitInodes(ipg uint64) bool {
	perBlock := uint64(g.blockSize / g.inodeSize)
	ipg = min(ipg, 65536-perBlock)
	for {
		g.tableBlocks = ceil(ipg*uint64(g.inodeSize), uint64(g.blockSize))
		n := max(g.tableBlocks*perBlock, 8) &^ 7
		g.tableBlocks = ceil(n*uint64(g.inodeSize), uint64(g.blockSize))
		switch {
		case n*uint64(g.groups) > maxInodes:
			if ipg--; ipg == 0 {
				return false
			}
		case n*uint64(g.groups) < firstIno+1:
			ipg += 8
		default:
			g.inodesPerGroup = uint32(n)
			return true
		}
	}
}

// reserveGDT leaves room for the descriptors of a filesystem of limit bytes, or, when that is 0,
// of 1024 times the size.
func (g *geometry) reserveGDT(limit int64) error {
	g.reservedGDT = 0
	if !g.f.resize() {
		return nil
	}
	most := uint64(maxNarrow)
	if g.blocks < most/1024 {
		most = g.blocks * 1024
	}
	reserve := func(blocks uint64) uint64 {
		groups := ceil(blocks, g.perGroup)
		return min(max(ceil(groups, uint64(g.blockSize/g.descSize)), g.descBlocks)-g.descBlocks, uint64(g.blockSize/4))
	}
	g.reservedGDT = reserve(most - g.firstBlock)
	if limit == 0 {
		return nil
	}
	blocks := uint64(limit) >> g.blockBits
	if limit < 0 || blocks <= g.blocks || blocks > maxNarrow {
		return fmt.Errorf("resize limit of %d bytes: more than the device's %d, at most %d",
			limit, g.blocks<<g.blockBits, uint64(maxNarrow)<<g.blockBits)
	}
	if n := reserve(blocks); n > 0 { // else the usual, as mke2fs does it
		g.reservedGDT = n
	}
	return nil
}

// tooLarge names what would hold a device of size bytes.
func tooLarge(size int64, most uint64, blockSize int, wide bool) error {
	what := fmt.Sprintf("a device of %d bytes is too large: at most %d blocks of %d bytes", size, most, blockSize)
	switch {
	case blockSize < 4096:
		return fmt.Errorf("%s: use blocks of 4096 bytes", what)
	case !wide:
		return fmt.Errorf("%s: add the feature 64bit", what)
	}
	return fmt.Errorf("%s", what)
}

// sizeJournal decides the lengths of the journal and the orphan file.
func (g *geometry) sizeJournal(size int64, o *resolved) error {
	if !o.f.journal() {
		return nil
	}
	g.journal = uint64(o.journalBlocks)
	if g.journal == 0 {
		g.journal = journalBlocks(g.blocks)
	} else if g.journal > g.free()/2 {
		return fmt.Errorf("a journal of %d blocks is too large: at most half of the %d free ones", g.journal, g.free())
	}
	if g.journal == 0 {
		g.f.compat &^= format.CompatHasJournal | format.CompatOrphanFile // it needs the journal
	}
	if g.journal > 0 && g.f.compat&format.CompatFastCommit != 0 {
		g.fast = journalBlocks(g.blocks) / 64 // never 0 here: half of the free blocks hold a journal
		g.journal += g.fast
	}
	if g.f.orphanFile() {
		g.orphans = orphanBlocks(g.blocks)
	}
	if need := g.journal + g.orphans + g.rootBlocks(); g.free() < need {
		return &tooSmall{size, fmt.Sprintf("the journal and the root directory take %d blocks, %d are free", need, g.free())}
	}
	return nil
}

// rootBlocks is what an empty filesystem has besides tables and journal: the root directory,
// lost+found, the resize inode's own block, and quota files with one owner each.
func (g *geometry) rootBlocks() uint64 {
	n := 1 + g.lostFound()
	if g.f.resize() {
		n++
	}
	if g.f.quota() {
		n += 2 * ceil((2+format.QuotaDepth)<<format.QuotaBlockBits, uint64(g.blockSize))
		if g.f.ro&format.RoProject != 0 {
			n += ceil((2+format.QuotaDepth)<<format.QuotaBlockBits, uint64(g.blockSize))
		}
	}
	return n
}

// lostFound is the number of blocks of lost+found: e2fsck must not have to allocate there.
func (g *geometry) lostFound() uint64 { return uint64(lostFoundSize / g.blockSize) }

func (g *geometry) inodes() uint64 { return uint64(g.groups) * uint64(g.inodesPerGroup) }

// groupStart is the first block of a group and groupEnd the one after its last.
func (g *geometry) groupStart(group uint32) uint64 {
	return g.firstBlock + uint64(group)*g.perGroup
}

func (g *geometry) groupEnd(group uint32) uint64 {
	return min(g.groupStart(group)+g.perGroup, g.blocks)
}

func (g *geometry) groupOf(block uint64) uint32 {
	return uint32((block - g.firstBlock) / g.perGroup)
}

// hasSuper says whether a group begins with a copy of the superblock and the descriptors: with
// sparse_super the groups 0, 1 and the powers of 3, 5 and 7, with sparse_super2 the groups 0, 1
// and the last, else all.
func (g *geometry) hasSuper(group uint32) bool {
	if group == 0 {
		return true
	}
	if g.f.compat&format.CompatSparseSuper2 != 0 {
		return group == 1 || group == g.groups-1
	}
	if group == 1 || g.f.ro&format.RoSparseSuper == 0 {
		return true
	}
	for _, base := range [3]uint32{3, 5, 7} {
		n := group
		for n%base == 0 {
			n /= base
		}
		if n == 1 {
			return true
		}
	}
	return false
}

// backups are the groups with copies, without group 0.
func (g *geometry) backups() []uint32 {
	var list []uint32
	for group := uint32(1); group < g.groups; group++ {
		if g.hasSuper(group) {
			list = append(list, group)
		}
	}
	return list
}

// headBlocks is how many blocks a group has at its start for a superblock with the descriptors
// that follow it, or with meta_bg for the one block of descriptors of its own neighbourhood.
func (g *geometry) headBlocks(group uint32) uint64 {
	n := uint64(0)
	if g.hasSuper(group) {
		n = 1
	}
	if !g.f.metaBG() {
		return n * (1 + g.descBlocks + g.reservedGDT)
	}
	if g.hasDesc(group) {
		n++
	}
	return n
}

// hasDesc says whether, with meta_bg, a group holds the descriptors of its neighbourhood: as many
// groups as a block describes. The first, the second and the last of them do.
func (g *geometry) hasDesc(group uint32) bool {
	per := uint32(g.blockSize / g.descSize)
	return group%per <= 1 || group%per == per-1
}

// free is the number of blocks that are left for files and the journal.
func (g *geometry) free() uint64 {
	n := g.blocks - g.firstBlock
	n -= uint64(g.groups) * (2 + g.tableBlocks)
	for group := range g.groups {
		n -= g.headBlocks(group)
	}
	return n
}

func ceil(n, d uint64) uint64 { return (n + d - 1) / d }
