package ext4

import (
	"fmt"
	"slices"

	"github.com/umlkit/umlkit/ext4/format"
)

// moveJournal moves what of the journal lies in the part that goes. The transaction that
// says so is the only one in the log, and the last it writes home is the journal's inode:
// a crash leaves the old map, which leads to the log, or the new one, which leads to an
// empty log, or, where the log's first block stays, to the same log.
func (s *shrinking) moveJournal() error {
	fs, j := s.fs, s.fs.jnl
	if j == nil || j.lent || !slices.ContainsFunc(j.blocks, func(r run) bool { return r.end() > s.cut }) {
		return nil
	}
	if err := fs.commitIfDirty(); err != nil {
		return err
	}
	fs.txn.commitMu.Lock()
	err := j.finish()
	fs.txn.commitMu.Unlock()
	if err != nil {
		return fs.fail(err)
	}
	n, err := fs.igetSpecial(fs.sb.JournalInum)
	if err != nil {
		return err
	}
	defer n.unref()
	moves, err := s.placeJournal()
	if err != nil {
		return err
	}
	for _, m := range moves { // what the log does not hold must not look like a log
		if z, ok := fs.dev.(Zeroer); ok {
			err = z.Zero(int64(m.to.start)<<fs.bsBits, int64(m.to.count)<<fs.bsBits)
		} else {
			err = fs.writeZeros(m.to)
		}
		if err != nil {
			return fs.fail(err)
		}
	}
	super := j.super
	super.Start, super.Sequence = 0, j.sequence+8
	if moves[0].block == 0 {
		raw := slices.Clone(j.raw)
		if err := super.Encode(raw); err != nil {
			return fs.fail(err)
		}
		if _, err := fs.dev.WriteAt(raw, int64(moves[0].to.start)<<fs.bsBits); err != nil {
			return fs.fail(fmt.Errorf("ext4: move journal: %w", ioError(err)))
		}
	}
	if err := fs.devSync(); err != nil {
		return fs.fail(err)
	}
	room := handleBlocks
	for _, m := range moves { // bitmaps and descriptors where it was and where it goes
		room += 4 * int(m.to.count/fs.bpg+2)
	}
	h, err := fs.beginFor(room)
	if err != nil {
		return err
	}
	err = s.switchJournal(h, n, moves)
	h.end()
	if err == nil {
		err = fs.commitJournalMove(moves, super)
	}
	if err != nil {
		return fs.fail(err)
	}
	return nil
}

// journalMove says that a run of the journal, from its block on, goes to another place.
type journalMove struct {
	block, from uint64
	to          run
}

// placeJournal sets room aside for the runs of the journal that have to move.
func (s *shrinking) placeJournal() (moves []journalMove, err error) {
	fs, at := s.fs, uint64(0)
	for _, r := range fs.jnl.blocks {
		stay := uint64(0)
		if r.start < s.cut {
			stay = min(s.cut-r.start, r.count)
		}
		for stay < r.count {
			to, err := fs.setAside(s.goal, r.count-stay)
			if err != nil {
				for _, m := range moves {
					fs.giveBack(m.to)
				}
				return nil, err
			}
			moves = append(moves, journalMove{at + stay, r.start + stay, to})
			stay += to.count
			s.goal = to.end()
		}
		at += r.count
	}
	return moves, nil
}

// switchJournal makes the journal's map say where its blocks go.
func (s *shrinking) switchJournal(h *handle, n *Inode, moves []journalMove) error {
	fs := s.fs
	left := 1 << 30
	if n.extents() {
		root, err := n.extentRoot()
		if err != nil {
			return err
		}
		if err := s.moveNodes(h, n, root, &left); err != nil {
			return err
		}
	} else if err := s.moveIndirects(h, n, &left); err != nil {
		return err
	}
	for _, m := range moves {
		if err := h.claim(m.to); err != nil {
			return err
		}
		for done := uint64(0); done < m.to.count; { // a run can be more than one extent
			x, err := n.mapBlock(m.block + done)
			if err != nil {
				return err
			}
			to := run{m.to.start + done, min(x.count, m.to.count-done)}
			if err := n.redirectAny(h, &x, to); err != nil {
				return err
			}
			done += to.count
		}
		if err := h.free(m.from, m.to.count, false); err != nil {
			return err
		}
		s.moved.Blocks += m.to.count
	}
	fs.sbMu.Lock()
	defer fs.sbMu.Unlock()
	if fs.sb.JnlBackupType == 1 {
		for i := range 15 {
			fs.sb.JnlBlocks[i] = le.Uint32(n.d.Block[4*i:])
		}
	}
	return nil
}

// commitJournalMove commits the transaction that gave the journal other blocks. super
// begins the empty log at the new place.
func (fs *FS) commitJournalMove(moves []journalMove, super format.JournalSuperblock) error {
	t, j := &fs.txn, fs.jnl
	t.commitMu.Lock()
	defer t.commitMu.Unlock()
	if err := fs.markInUse(); err != nil {
		return err
	}
	t.gate.Lock()
	c, copies, err := fs.takeOver()
	t.gate.Unlock()
	if err != nil {
		return err
	}
	if uint32(j.cost(len(c.bufs), 0)) > j.capacity() {
		return badJournal("length", j.super.MaxLen)
	}
	if err := j.write(c.bufs, copies, nil); err != nil {
		return err
	}
	fresh := moves[0].block == 0
	end := uint64(j.first + j.live[len(j.live)-1].blocks)
	for _, m := range moves {
		if !fresh && m.block < end {
			if err := fs.copyBlocks(m.from, run{m.to.start, min(m.to.count, end-m.block)}); err != nil {
				return err
			}
		}
	}
	// The inode goes home when its map's blocks are there.
	table, _, _ := fs.inodePlace(fs.sb.JournalInum)
	for _, last := range []bool{false, true} {
		if err := fs.writeHome(c.bufs, copies, func(b *buffer) bool { return (b.nr == table) == last }); err != nil {
			return err
		}
		if err := fs.devSync(); err != nil {
			return err
		}
	}
	var to []run
	at := uint64(0)
	for _, r := range j.blocks {
		for r.count > 0 {
			part := r
			if len(moves) > 0 && moves[0].block == at {
				part, moves = moves[0].to, moves[1:]
			} else if len(moves) > 0 && moves[0].block < at+r.count {
				part.count = moves[0].block - at
			}
			to = append(to, part)
			r.start, r.count, at = r.start+part.count, r.count-part.count, at+part.count
		}
	}
	j.blocks = to
	if fresh {
		j.super, j.sequence, j.tailSeq = super, super.Sequence, super.Sequence
		j.head, j.tail, j.empty, j.live = j.first, j.first, true, nil
		clear(j.logged)
	}
	for _, b := range c.bufs {
		b.flying.Store(false)
	}
	fs.release(c.freed)
	fs.sbMu.Lock()
	fs.stableSB = c.sb
	fs.sbMu.Unlock()
	t.mu.Lock()
	t.stable = c.seq
	t.mu.Unlock()
	return nil
}
