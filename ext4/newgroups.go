package ext4

import (
	"fmt"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// groupPlan is new groups: their descriptors and where their tables lie.
type groupPlan struct {
	from uint32
	desc []format.GroupDesc
	used []run // sorted: heads and tables of all of them
}

// planGroups lays out the groups [from, to) of the filesystem that sb describes. With
// flex_bg the tables of a flex group's new members lie together in the first of them;
// where that does not go every group holds its own.
func (fs *FS) planGroups(sb *format.Superblock, from, to uint32, isLast bool) (*groupPlan, error) {
	p := &groupPlan{from: from, desc: make([]format.GroupDesc, to-from)}
	flex := uint32(1)
	if sb.FeatureIncompat&format.IncompatFlexBG != 0 && sb.LogGroupsPerFlex < 16 {
		flex = 1 << sb.LogGroupsPerFlex
	}
	groupEnd := func(g uint32) uint64 { return min(fs.groupStart(g)+fs.bpg, sb.BlocksCount()) }
	for first := from; first < to; {
		last := min(first/flex*flex+flex, to)
		var heads []run
		for g := first; g < last; g++ {
			if n := fs.headBlocks(sb, g); n > 0 {
				heads = append(heads, run{fs.groupStart(g), n})
			}
		}
		if !p.place(fs, heads, first, last, groupEnd(last-1)) {
			for g := first; g < last; g++ {
				if !p.place(fs, heads, g, g+1, groupEnd(g)) {
					return nil, fmt.Errorf("ext4: group %d has no room for its tables: %w", g, unix.ENOSPC)
				}
			}
		}
		p.used = append(p.used, heads...)
		for g := first; g < last; g++ {
			d := &p.desc[g-from]
			p.used = append(p.used, run{d.BlockBitmap, 1}, run{d.InodeBitmap, 1}, run{d.InodeTable, fs.tableBlocks()})
		}
		first = last
	}
	p.used = joinRuns(p.used)
	at := 0
	for g := from; g < to; g++ {
		d := &p.desc[g-from]
		start, end := fs.groupStart(g), groupEnd(g)
		meta := uint64(0)
		for ; at < len(p.used) && p.used[at].start < end; at++ {
			meta += min(p.used[at].end(), end) - max(p.used[at].start, start)
			if p.used[at].end() > end {
				break
			}
		}
		own := fs.headBlocks(sb, g)
		for _, r := range []run{{d.BlockBitmap, 1}, {d.InodeBitmap, 1}, {d.InodeTable, fs.tableBlocks()}} {
			if lo, hi := max(r.start, start), min(r.end(), end); lo < hi {
				own += hi - lo
			}
		}
		d.FreeBlocks, d.FreeInodes = uint32(end-start-meta), uint32(fs.ipg)
		if !fs.groupCsum {
			continue
		}
		d.Flags, d.ItableUnused = format.GroupInodeUninit, uint32(fs.ipg)
		if meta == own && !(isLast && g == to-1) {
			d.Flags |= format.GroupBlockUninit // a kernel can make the bitmap up
		}
	}
	return p, nil
}

// place puts the tables of groups [first, last) one after the other from the start of the
// first on, around heads, and says whether they end before end.
func (p *groupPlan) place(fs *FS, heads []run, first, last uint32, end uint64) bool {
	at := fs.groupStart(first)
	next := func(n uint64) uint64 {
		for _, h := range heads {
			if at < h.end() && at+n > h.start {
				at = h.end()
			}
		}
		at += n
		return at - n
	}
	desc := p.desc[first-p.from : last-p.from]
	for i := range desc {
		desc[i].BlockBitmap = next(1)
	}
	for i := range desc {
		desc[i].InodeBitmap = next(1)
	}
	for i := range desc {
		desc[i].InodeTable = next(fs.tableBlocks())
	}
	return at <= end
}

// joinRuns sorts runs and joins those that touch.
func joinRuns(list []run) []run {
	slices.SortFunc(list, func(a, b run) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && out[n-1].end() == r.start {
			out[n-1].count += r.count
			continue
		}
		out = append(out, r)
	}
	return out
}

// writePlan writes the tables of groups that the superblock does not name yet: no crash
// can show them.
func (fs *FS) writePlan(p *groupPlan) error {
	zeroer, fast := fs.dev.(Zeroer)
	var tables []run
	bitmap := make([]byte, fs.bs)
	write := func(nr uint64) error {
		if _, err := fs.dev.WriteAt(bitmap, int64(nr)<<fs.bsBits); err != nil {
			return fmt.Errorf("ext4: write bitmap %d: %w", nr, ioError(err))
		}
		return nil
	}
	for i := range p.desc {
		d, g := &p.desc[i], p.from+uint32(i)
		if d.Flags&format.GroupBlockUninit == 0 {
			clear(bitmap)
			start := fs.groupStart(g)
			at, _ := slices.BinarySearchFunc(p.used, start, func(r run, s uint64) int {
				if r.end() <= s {
					return -1
				}
				return 1
			})
			used := uint32(0)
			for ; at < len(p.used) && p.used[at].start < start+fs.bpg; at++ {
				lo, hi := max(p.used[at].start, start)-start, min(p.used[at].end(), start+fs.bpg)-start
				setBits(bitmap, uint32(lo), uint32(hi))
				used += uint32(hi - lo)
			}
			setBits(bitmap, used+d.FreeBlocks, uint32(fs.bs)*8)
			if fs.csum {
				d.BlockBitmapCsum = fs.trimSum(format.BitmapChecksum(fs.seed, bitmap[:fs.bpg/8]))
			}
			if err := write(d.BlockBitmap); err != nil {
				return err
			}
		}
		if d.Flags&format.GroupInodeUninit == 0 {
			clear(bitmap)
			setBits(bitmap, uint32(fs.ipg), uint32(fs.bs)*8)
			if err := write(d.InodeBitmap); err != nil {
				return err
			}
		}
		if fs.groupCsum && !fast {
			continue // a kernel zeroes the table in its own time
		}
		if fs.groupCsum {
			d.Flags |= format.GroupItableZero
		}
		tables = append(tables, run{d.InodeTable, fs.tableBlocks()})
	}
	for _, r := range joinRuns(tables) {
		if fast {
			if err := zeroer.Zero(int64(r.start)<<fs.bsBits, int64(r.count)<<fs.bsBits); err != nil {
				return fmt.Errorf("ext4: zero inode tables: %w", ioError(err))
			}
		} else if err := fs.writeZeros(r); err != nil {
			return err
		}
	}
	return fs.devSync()
}

// writeZeros writes zeros over a run.
func (fs *FS) writeZeros(r run) error {
	zeros := make([]byte, min(r.count<<fs.bsBits, 1<<20))
	for off, end := int64(r.start)<<fs.bsBits, int64(r.end())<<fs.bsBits; off < end; {
		n := min(int64(len(zeros)), end-off)
		if _, err := fs.dev.WriteAt(zeros[:n], off); err != nil {
			return fmt.Errorf("ext4: write zeros: %w", ioError(err))
		}
		off += n
	}
	return nil
}
