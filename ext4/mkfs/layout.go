package mkfs

import "slices"

// layout is where the tables of every group lie, and what they leave free.
type layout struct {
	blockBitmap, inodeBitmap, table []uint64 // the first block, by group

	// meta counts the blocks of a group that hold metadata of any group, own those that
	// hold its own. Where the two are equal a kernel can make up the block bitmap.
	meta, own []uint64

	free []run // ascending
}

// newLayout places the tables. With flex_bg the block bitmaps of 16 groups lie together in the
// first of them, then their inode bitmaps, then their inode tables, around the copies of the
// superblock. Where that does not go (many inodes in small groups) every group holds its own.
func newLayout(g *geometry) *layout {
	n := int(g.groups)
	all := make([]uint64, 5*n)
	l := &layout{
		blockBitmap: all[:n], inodeBitmap: all[n : 2*n], table: all[2*n : 3*n],
		meta: all[3*n : 4*n], own: all[4*n:],
	}
	used := make([]run, 0, 3*n+n/8+16)
	for first := uint32(0); first < g.groups; first += g.flex {
		last := min(first+g.flex, g.groups)
		var heads []run
		for group := first; group < last; group++ {
			if n := g.headBlocks(group); n > 0 {
				start := g.groupStart(group)
				heads = append(heads, run{start, start + n})
			}
		}
		if !l.place(g, first, last, heads) {
			for group := first; group < last; group++ {
				l.place(g, group, group+1, heads)
			}
		}
		from := len(used)
		used = append(used, heads...)
		for group := first; group < last; group++ {
			used = append(used,
				run{l.blockBitmap[group], l.blockBitmap[group] + 1},
				run{l.inodeBitmap[group], l.inodeBitmap[group] + 1},
				run{l.table[group], l.table[group] + g.tableBlocks})
		}
		slices.SortFunc(used[from:], func(a, b run) int {
			if a.start < b.start {
				return -1
			}
			return 1
		})
	}
	l.count(g, used)

	at := g.firstBlock
	for _, u := range used {
		if u.start > at {
			l.free = append(l.free, run{at, u.start})
		}
		at = u.end
	}
	if at < g.blocks {
		l.free = append(l.free, run{at, g.blocks})
	}
	return l
}

// place puts the tables of the groups [first, last) one after the other into those groups, around
// heads, and says whether they fit.
func (l *layout) place(g *geometry, first, last uint32, heads []run) bool {
	at, end := g.groupStart(first), g.groupEnd(last-1)
	next := func(n uint64) uint64 {
		for _, h := range heads {
			if at < h.end && at+n > h.start {
				at = h.end
			}
		}
		start := at
		at += n
		return start
	}
	for group := first; group < last; group++ {
		l.blockBitmap[group] = next(1)
	}
	for group := first; group < last; group++ {
		l.inodeBitmap[group] = next(1)
	}
	for group := first; group < last; group++ {
		l.table[group] = next(g.tableBlocks)
	}
	return at <= end
}

// count fills meta and own.
func (l *layout) count(g *geometry, used []run) {
	for _, u := range used {
		eachGroup(g, u, func(group uint32, part run) { l.meta[group] += part.len() })
	}
	for group := range g.groups {
		l.own[group] += g.headBlocks(group)
		for _, u := range []run{
			{l.blockBitmap[group], l.blockBitmap[group] + 1},
			{l.inodeBitmap[group], l.inodeBitmap[group] + 1},
			{l.table[group], l.table[group] + g.tableBlocks},
		} {
			eachGroup(g, u, func(in uint32, part run) {
				if in == group {
					l.own[group] += part.len()
				}
			})
		}
	}
}

// eachGroup visits the parts of a run that lie in one group each.
func eachGroup(g *geometry, r run, visit func(uint32, run)) {
	for r.start < r.end {
		group := g.groupOf(r.start)
		end := min(r.end, g.groupEnd(group))
		visit(group, run{r.start, end})
		r.start = end
	}
}

// space hands out the free blocks of a layout from the front: what is asked for first lies first,
// and pieces are as long as the tables between them allow.
type space struct {
	free  []run
	freed []run // given back, not handed out again
	left  uint64
}

func newSpace(free []run) space {
	s := space{free: free}
	for _, r := range free {
		s.left += r.len()
	}
	return s
}

// take appends n blocks to pieces, in one piece where it can. The caller has looked at left.
func (s *space) take(n uint64, pieces []run) []run {
	for n > 0 {
		r := &s.free[0]
		k := min(n, r.len())
		pieces = append(pieces, run{r.start, r.start + k})
		r.start += k
		n -= k
		s.left -= k
		if r.start == r.end {
			s.free = s.free[1:]
		}
	}
	return pieces
}

// one takes a single block.
func (s *space) one() uint64 {
	var buf [1]run
	return s.take(1, buf[:0])[0].start
}
