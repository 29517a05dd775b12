package ext4

import (
	"errors"
	"fmt"
	"math"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// minTransaction is the least number of blocks that a transaction may grow to before it
// is committed for its size.
const minTransaction = 256

// startWriting makes the filesystem writable: it empties the log, finishes what a crash
// left half done, and lets handles begin.
func (fs *FS) startWriting() error {
	t := &fs.txn
	limit, most := 4096, math.MaxInt
	if j := fs.jnl; j != nil {
		if !j.empty { // the superblock says clean: what is in the log is void
			// The next transaction must not have the number of one of those.
			_, _, next, err := j.scan()
			if err != nil {
				next = j.sequence
			}
			j.sequence = next + 1
			j.super.Start, j.super.Sequence = 0, j.sequence
			if err := j.writeSuper(); err != nil {
				return err
			}
		}
		if j.capacity()+1 < format.JournalMinBlocks { // kernels refuse it as well
			return badJournal("length", j.capacity()+1)
		}
		if err := fs.takeJournalError(); err != nil {
			return err
		}
		j.prepare()
		limit, most = int(min(j.capacity()/4, 4096)), int(j.capacity()/4*3)
	}
	// What is dirty cannot be dropped, so that it must leave room in a small cache.
	limit = min(limit, max(int(fs.cache.limit/2), minTransaction))
	if t.limit != limit || t.most != most { // the first time: later somebody may be reading them
		t.limit, t.most = limit, most
	}
	if _, err := fs.cache.get(uint64(format.SuperblockOffset >> fs.bsBits)); err != nil {
		return err
	}
	fs.sbMu.Lock()
	wasError := fs.sb.State&format.StateError != 0
	valid := fs.sb.State&format.StateValid != 0
	fs.sbMu.Unlock()
	if wasError || !valid && fs.jnl == nil {
		fs.logf("EXT4-fs warning: mounting a filesystem that needs checking: running e2fsck is recommended")
	}
	if err := fs.openQuotas(); err != nil {
		return err
	}
	t.started.Store(true)
	orphans, err := fs.takeOrphans() // before anybody can add to the list
	if err != nil {
		return err
	}
	fs.readOnly.Store(false)
	if err := fs.recoverOrphans(orphans); err != nil {
		fs.readOnly.Store(true)
		return err
	}
	return nil
}

// stopWriting makes everything stable and marks the filesystem clean.
func (fs *FS) stopWriting() error {
	t := &fs.txn
	if err := fs.commitIfDirty(); err != nil {
		return err
	}
	t.commitMu.Lock() // before gate, as a commit takes them
	defer t.commitMu.Unlock()
	t.gate.Lock()
	fs.readOnly.Store(true) // no handle begins after this, and none is open
	t.gate.Unlock()
	t.mu.Lock()
	dirty, err := len(t.bufs) > 0, t.err
	t.mu.Unlock()
	if err == nil && dirty { // a change slipped in between
		err = fs.commit()
	}
	if err != nil {
		return err
	}
	return fs.markClean()
}

// Freeze makes everything stable, marks the filesystem clean and holds every further
// change of metadata until Thaw. Overwrites of data are the caller's to hold.
func (fs *FS) Freeze() error {
	t := &fs.txn
	for {
		if fs.readOnly.Load() {
			return fs.refuse()
		}
		if err := fs.commitIfDirty(); err != nil {
			return err
		}
		t.commitMu.Lock() // in the order in which a commit takes them
		t.gate.Lock()
		t.mu.Lock()
		dirty := len(t.bufs) > 0
		t.mu.Unlock()
		if !dirty {
			break
		}
		t.gate.Unlock()
		t.commitMu.Unlock()
	}
	defer t.commitMu.Unlock()
	err := fs.markClean()
	if err != nil {
		t.gate.Unlock()
	}
	return err
}

// Thaw ends a Freeze.
func (fs *FS) Thaw() { fs.txn.gate.Unlock() }

// markClean says on the disk that nothing is to be replayed or checked. commitMu is
// held, nothing is dirty, and no handle can begin.
func (fs *FS) markClean() error {
	t := &fs.txn
	t.mu.Lock()
	marked := t.marked
	t.mu.Unlock()
	if fs.jnl != nil {
		if fs.lax.Load() && !fs.jnl.empty { // what is home must be stable before the log is empty
			if err := fs.flush(); err != nil {
				return fs.fail(err)
			}
		}
		if err := fs.jnl.finish(); err != nil {
			return fs.fail(err)
		}
	}
	if !marked {
		return nil
	}
	fs.sbMu.Lock()
	fs.inUse = false
	fs.sbMu.Unlock()
	if err := fs.writeSuper(func(sb *format.Superblock) { sb.State |= format.StateValid }); err != nil {
		return fs.fail(err)
	}
	if err := fs.flush(); err != nil {
		return fs.fail(err)
	}
	t.mu.Lock()
	t.marked = false
	t.mu.Unlock()
	return nil
}

// errAbandoned is why nothing is written after Abandon.
var errAbandoned = fmt.Errorf("ext4: abandoned: %w", unix.EROFS)

// Abandon leaves the filesystem as a power cut would: what was not committed is lost, and
// what was is in the log, for the next who opens it to replay. A commit that has begun is
// finished. Afterwards there are no changes, and Close writes nothing. It must not be
// called while the filesystem is frozen.
func (fs *FS) Abandon() {
	t := &fs.txn
	t.commitMu.Lock() // before gate, as a commit takes them
	defer t.commitMu.Unlock()
	t.gate.Lock()
	defer t.gate.Unlock()
	fs.readOnly.Store(true)
	t.mu.Lock()
	if t.err == nil {
		t.err = errAbandoned
	}
	t.mu.Unlock()
}

func (fs *FS) commitIfDirty() error {
	t := &fs.txn
	t.mu.Lock()
	dirty, err := len(t.bufs) > 0, t.err
	t.mu.Unlock()
	if err != nil || !dirty {
		return err
	}
	return fs.commitNow()
}

// Remount switches between reading only and writing. To read-only it makes everything
// stable and marks the filesystem clean; files that are open without a name stay on the
// orphan list, so that a crash does not leak them.
func (fs *FS) Remount(readOnly bool) error {
	if fs.closed.Load() {
		return errClosed
	}
	if readOnly == fs.readOnly.Load() {
		return nil
	}
	if readOnly {
		return fs.stopWriting()
	}
	fs.txn.mu.Lock()
	err := fs.txn.err
	fs.txn.mu.Unlock()
	switch {
	case fs.opt.NoWrite:
		return fmt.Errorf("ext4: remount for writing: %w", unix.EROFS)
	case err != nil:
		return fmt.Errorf("ext4: remount for writing after damage (%v): %w", err, unix.EROFS)
	}
	if err := fs.checkFeatures(false); err != nil {
		return err
	}
	return fs.startWriting()
}

// Close makes everything stable, marks the filesystem clean and forgets it. Inodes
// that are still referenced must not be used afterwards; those without links are freed.
func (fs *FS) Close() error {
	if fs.closed.Load() {
		return errClosed
	}
	var err error
	if !fs.readOnly.Load() {
		err = fs.freeOrphans()
		err = errors.Join(err, fs.stopWriting())
	} else {
		fs.txn.mu.Lock()
		if fs.txn.err != errAbandoned {
			err = fs.txn.err
		}
		fs.txn.mu.Unlock()
	}
	fs.closed.Store(true)
	fs.readOnly.Store(true)
	t := &fs.txn
	t.mu.Lock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	t.mu.Unlock()
	return err
}
