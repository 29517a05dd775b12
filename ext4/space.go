package ext4

import (
	"fmt"
	"sync"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// window is a run of blocks set aside behind the end of a growing file, so that many
// small appends give few extents. Nothing on disk knows of it.
type window struct {
	mu sync.Mutex
	run
	block uint64 // of the file: where run goes
}

// windowList is the files with windows.
type windowList struct {
	mu sync.Mutex
	m  map[*Inode]struct{}
}

// dropWindow gives the window back.
func (n *Inode) dropWindow() bool {
	n.window.mu.Lock()
	defer n.window.mu.Unlock()
	return n.dropWindowLocked()
}

func (n *Inode) dropWindowLocked() bool {
	r := n.window.run
	if r.count == 0 {
		return false
	}
	n.window.run = run{}
	n.fs.giveBack(r)
	n.fs.windows.mu.Lock()
	delete(n.fs.windows.m, n)
	n.fs.windows.mu.Unlock()
	return true
}

// dropWindows gives all windows back.
func (fs *FS) dropWindows() bool {
	fs.windows.mu.Lock()
	list := make([]*Inode, 0, len(fs.windows.m))
	for n := range fs.windows.m {
		list = append(list, n)
	}
	fs.windows.mu.Unlock()
	any := false
	for _, n := range list {
		any = n.dropWindow() || any
	}
	return any
}

// maxWindow bounds a window, in bytes.
const maxWindow = 8 << 20

// fileGoal is where a file's first block should go: where its group was filled last.
func (fs *FS) fileGoal(n *Inode) uint64 {
	g := (n.ino - 1) / uint32(fs.ipg)
	gr := fs.group(g)
	gr.mu.Lock()
	next := gr.next
	gr.mu.Unlock()
	return fs.groupStart(g) + uint64(next)
}

// goal is where block of the file should go: behind its predecessor.
func (n *Inode) goal(block uint64) (uint64, error) {
	if block > 0 {
		m, err := n.mapBlock(block - 1)
		if err != nil {
			return 0, err
		}
		if m.state != Hole {
			return m.disk + 1, nil
		}
	}
	if n.extents() {
		root, err := n.extentRoot()
		if err != nil {
			return 0, err
		}
		if i := root.find(uint32(min(block, maxBlocks-1))); i >= 0 && root.depth() == 0 {
			x := root.extent(i)
			return x.Start + block - uint64(x.Block), nil
		}
	}
	return n.fs.fileGoal(n), nil
}

// setAside finds blocks for [block, block+want) of the file, a hole, and holds them:
// from the window, or with a new window behind when the file is being appended to. mu
// is held for writing and no handle is open.
func (n *Inode) setAside(block, want uint64) (run, error) {
	w := &n.window
	w.mu.Lock()
	if w.count > 0 && w.block == block {
		r := run{w.start, min(want, w.count)}
		w.start += r.count
		w.count -= r.count
		w.block += r.count
		if w.count == 0 {
			n.fs.windows.mu.Lock()
			delete(n.fs.windows.m, n)
			n.fs.windows.mu.Unlock()
		}
		w.mu.Unlock()
		return r, nil
	}
	n.dropWindowLocked()
	w.mu.Unlock()
	goal, err := n.goal(block)
	if err != nil {
		return run{}, err
	}
	ahead := uint64(0)
	if end := n.d.Size >> n.fs.bsBits; block > 0 && block >= end && n.isRegular() {
		// As much again as the file has, a little at least.
		ahead = min(max(block, 8), uint64(maxWindow>>n.fs.bsBits), uint64(max(n.fs.freeBlocks.Load(), 0))/32)
	}
	r, err := n.fs.setAside(goal, want+ahead)
	if unixIs(err, unix.ENOSPC) {
		dropped := n.fs.dropWindows()
		if n.fs.pending() {
			if err := n.fs.commitNow(); err != nil {
				return run{}, err
			}
			dropped = true
		}
		if dropped {
			r, err = n.fs.setAside(goal, want)
		}
	}
	if err != nil {
		return run{}, err
	}
	if r.count > want {
		w.mu.Lock()
		w.run, w.block = run{r.start + want, r.count - want}, block+want
		w.mu.Unlock()
		n.fs.windows.mu.Lock()
		n.fs.windows.m[n] = struct{}{}
		n.fs.windows.mu.Unlock()
		r.count = want
	}
	return r, nil
}

// addBlocks counts blocks of the file, its metadata included.
func (n *Inode) addBlocks(h *handle, count int64) error {
	if err := n.touch(h, true); err != nil {
		return err
	}
	n.amu.Lock()
	defer n.amu.Unlock()
	unit := int64(n.fs.bs / 512)
	if n.d.Flags&format.FlagHugeFile != 0 && n.fs.roCompat&format.RoHugeFile != 0 {
		unit = 1
	}
	v := int64(n.d.Blocks) + count*unit
	if v < 0 {
		v = 0 // it was wrong before
	}
	if v>>32 != 0 && n.fs.roCompat&format.RoHugeFile == 0 || v>>48 != 0 {
		return fmt.Errorf("ext4: inode %d has too many blocks: %w", n.ino, unix.EFBIG)
	}
	n.d.Blocks = uint64(v)
	return n.charge(h, count, 0)
}

// insert maps blocks that were set aside over a hole and takes them into use.
func (n *Inode) insert(h *handle, block uint64, r run, unwritten bool) error {
	if err := h.claim(r); err != nil {
		return err
	}
	var err error
	if n.extents() {
		err = n.insertRun(h, block, r, unwritten)
	} else {
		err = n.insertIndirect(h, block, r)
	}
	if err != nil {
		if e := h.free(r.start, r.count, n.metadata()); e != nil {
			return e
		}
		return err
	}
	return n.addBlocks(h, int64(r.count))
}

// insertRun maps a run as one extent, or two when it is too long.
func (n *Inode) insertRun(h *handle, block uint64, r run, unwritten bool) error {
	if block+r.count > maxBlocks {
		return fmt.Errorf("ext4: block %d of inode %d: %w", block+r.count, n.ino, unix.EFBIG)
	}
	first := min(r.count, uint64(maxLen(unwritten)))
	x := format.Extent{Block: uint32(block), Len: uint16(first), Unwritten: unwritten, Start: r.start}
	if err := n.insertExtent(h, x); err != nil {
		return err
	}
	if first == r.count {
		return nil
	}
	x = format.Extent{Block: uint32(block + first), Len: uint16(r.count - first), Unwritten: unwritten, Start: r.start + first}
	if err := n.insertExtent(h, x); err != nil {
		_, e := n.unmapRun(h, block, first)
		if e != nil {
			return e
		}
		return err
	}
	return nil
}

// unmapRun takes a run that was just mapped out of the tree again, without freeing it.
func (n *Inode) unmapRun(h *handle, block, count uint64) (bool, error) {
	path, err := n.extentPath(uint32(block))
	if err != nil {
		return false, err
	}
	leaf := path[len(path)-1]
	if leaf.at < 0 {
		return false, nil
	}
	x := leaf.extent(leaf.at)
	if x.Block == uint32(block) && uint64(x.Len) == count {
		return true, n.dropEntry(h, path, leaf.at)
	}
	if end := uint64(x.Block) + uint64(x.Len); end == block+count { // merged with its left neighbour
		x.Len -= uint16(count)
		leaf.put(leaf.at, x)
		return true, n.dirtyNode(h, leaf.enode)
	}
	return false, n.bad("run to unmap at block", block)
}

// stepsPerHandle is how many extents a handle removes at most, so that a transaction
// stays smaller than the log.
const stepsPerHandle = 32

// removeSome removes blocks of [*from, to) until there are none, or until a handle has
// had enough.
func (n *Inode) removeSome(h *handle, from *uint64, to uint64) (done bool, err error) {
	for range stepsPerHandle {
		if n.extents() {
			done, err = n.removeExtent(h, *from, to)
		} else {
			done, err = n.removeIndirect(h, from, to)
		}
		if done || err != nil || h.spent() {
			return done, err
		}
	}
	return false, nil
}

// removeAll removes the blocks of [from, to) in as many handles as it takes. mu is held
// for writing.
func (n *Inode) removeAll(from, to uint64) error {
	for {
		h, err := n.fs.begin()
		if err != nil {
			return err
		}
		done, err := n.removeSome(h, &from, to)
		h.end()
		if done || err != nil {
			return err
		}
	}
}
