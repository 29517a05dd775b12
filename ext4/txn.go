package ext4

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// txn is the running transaction: what changed since the last commit. A commit waits
// until no handle is open, so a transaction holds whole operations.
type txn struct {
	fs *FS

	// gate is held shared by handles and alone by a commit while it takes over what
	// changed, and by an eviction.
	gate sync.RWMutex

	// tableMu guards inodes while they are copied to and from their table blocks.
	tableMu sync.Mutex

	commitMu sync.Mutex // one commit at a time
	arena    []byte     // what a commit writes; kept from one to the next

	started atomic.Bool // the filesystem is, or was, open for writing

	mu       sync.Mutex
	seq      uint32 // number of the running transaction, from 1
	stable   uint32 // of the last one that is stable
	bufs     []*buffer
	inodes   []*Inode
	groups   []uint32
	freed    []freedRun
	revokes  []uint64
	limit    int        // blocks that start a commit
	most     int        // blocks that the log has room for in one transaction
	promised int        // blocks to open handles
	room     *sync.Cond // of mu: a handle ended
	timer    *time.Timer
	err      error // why the filesystem cannot be written any more
	marked   bool  // the superblock says that the filesystem is in use
	grows    bool  // it makes the filesystem larger
}

// freedRun is a run of blocks that the transaction freed. Until it is stable they are
// neither given out again nor trimmed.
type freedRun struct {
	group uint32
	bit   uint32
	count uint32
}

func (t *txn) init(fs *FS) {
	t.fs, t.seq = fs, 1
	t.room = sync.NewCond(&t.mu)
}

// handleBlocks is how many blocks a handle may put on the transaction, unless it said
// more when it began. An operation that can change more takes several handles: removals
// look at what they used, everything else stays far below. Handles begin only while the
// log has room for that much of each, so no transaction outgrows it, however many
// goroutines there are.
const handleBlocks = 128

// handle brackets an operation's changes of metadata. Between begin and end no lock of
// an inode may be waited for.
type handle struct {
	fs   *FS
	room int // blocks that it may put on the transaction
	used int // blocks that it has
}

// overdrawn, when set, is told of a handle that put more on the transaction than it said:
// tests set it.
var overdrawn func(used, room int)

// spent says that the handle should end and another go on.
func (h *handle) spent() bool { return h.used >= h.room/2 }

// begin opens a handle. No other may be open in the same goroutine.
func (fs *FS) begin() (*handle, error) { return fs.beginFor(handleBlocks) }

// beginFor opens a handle that may change so many blocks. They must be far fewer than
// the log has: txn.limit is the most that makes sense.
func (fs *FS) beginFor(blocks int) (*handle, error) {
	t := &fs.txn
	for {
		if fs.readOnly.Load() {
			return nil, fs.refuse()
		}
		t.mu.Lock()
		for t.promised > 0 && len(t.bufs) < t.limit && len(t.bufs)+t.promised+blocks > t.most {
			t.room.Wait()
		}
		full := len(t.bufs) >= t.limit
		if !full {
			t.promised += blocks
		}
		t.mu.Unlock()
		if full {
			if err := fs.commitNow(); err != nil {
				return nil, err
			}
			continue
		}
		t.gate.RLock()
		if fs.readOnly.Load() {
			t.leave(blocks)
			continue
		}
		return &handle{fs: fs, room: blocks}, nil
	}
}

// leave is the end of a handle that might have changed so many blocks.
func (t *txn) leave(blocks int) {
	t.gate.RUnlock()
	t.mu.Lock()
	t.promised -= blocks
	t.mu.Unlock()
	t.room.Broadcast()
}

// refuse is why there can be no change.
func (fs *FS) refuse() error {
	if fs.closed.Load() {
		return errClosed
	}
	return fmt.Errorf("ext4: read-only filesystem: %w", unix.EROFS)
}

// end closes the handle.
func (h *handle) end() {
	if h.used > h.room && overdrawn != nil {
		overdrawn(h.used, h.room)
	}
	h.fs.txn.leave(h.room)
	h.fs.shrink()
}

// shrink drops clean blocks when the cache is over its limit and nobody works.
func (fs *FS) shrink() {
	if fs.cache.over() && fs.txn.gate.TryLock() {
		fs.cache.evict()
		fs.txn.gate.Unlock()
	}
}

// dirty puts a block on the transaction. Its checksum is made at commit from kind and
// seed.
func (h *handle) dirty(b *buffer, kind bufKind, seed uint32) {
	t := &h.fs.txn
	t.mu.Lock()
	defer t.mu.Unlock()
	b.kind, b.seed = kind, seed
	if !b.dirty {
		b.dirty = true
		h.used++
		t.bufs = append(t.bufs, b)
		t.arm()
	}
}

// arm starts the timer of the running transaction. mu is held.
func (t *txn) arm() {
	if t.timer == nil {
		t.timer = time.AfterFunc(time.Duration(t.fs.every.Load()), func() {
			if err := t.fs.commitIfDirty(); err != nil && !errors.Is(err, unix.EROFS) {
				t.fs.logf("EXT4-fs error: commit: %v", err)
			}
		})
	}
}

// touch puts the inode on the transaction. With core its data cannot be read without
// the change: fdatasync waits for it.
func (n *Inode) touch(h *handle, core bool) error {
	fs, t := n.fs, &n.fs.txn
	n.amu.Lock()
	defer n.amu.Unlock()
	if !n.dirty {
		block, _, _ := fs.inodePlace(n.ino)
		b, err := fs.cache.get(block)
		if err != nil {
			return err
		}
		h.dirty(b, kindInodes, 0)
		n.dirty, n.table = true, b
		t.mu.Lock()
		t.inodes = append(t.inodes, n)
		n.changed = t.seq
		t.mu.Unlock()
	} else if n.grew == n.changed || !core {
		return nil
	}
	if core {
		n.grew = n.changed
	}
	return nil
}

// update changes fields of the inode and puts it on the transaction.
func (n *Inode) update(h *handle, core bool, change func(d *format.Inode)) error {
	if err := n.touch(h, core); err != nil {
		return err
	}
	n.amu.Lock()
	change(&n.d)
	n.amu.Unlock()
	return nil
}

// now is the clock for inodes.
func (fs *FS) now() Time {
	t := fs.opt.Now()
	return fs.fitTime(Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())})
}

// fitTime makes a time one that inodes can hold, so that it is the same when it is read
// back.
func (fs *FS) fitTime(t Time) Time {
	if fs.inodeSize == format.GoodOldInode {
		return Time{Sec: min(max(t.Sec, format.MinTimeSec), format.MaxTimeSec32)}
	}
	return Time{Sec: min(max(t.Sec, format.MinTimeSec), format.MaxTimeSec), Nsec: min(t.Nsec, 999999999)}
}

// corrupt records that the filesystem is damaged, does what errors= says, and returns
// the error.
func (fs *FS) corrupt(err *CorruptError) error { return fs.report(err) }

// report is corrupt for any error that leaves an operation half done: metadata that
// cannot be read as well.
func (fs *FS) report(err error) error {
	fs.logf("EXT4-fs error: %v", err)
	fs.countError()
	policy := fs.policy()
	if policy != ErrorsContinue && !fs.readOnly.Load() {
		if policy == ErrorsReadOnly || fs.opt.Panic == nil {
			fs.logf("EXT4-fs: Remounting filesystem read-only")
		}
		fs.damaged.Store(true)
		fs.readOnly.Store(true)
		fs.txn.mu.Lock()
		if fs.txn.err == nil {
			fs.txn.err = err
		}
		fs.txn.mu.Unlock()
	}
	if policy == ErrorsPanic && fs.opt.Panic != nil { // should it return, nothing more is written
		fs.opt.Panic(err)
	}
	return err
}

// policy is what to do when damage is found.
func (fs *FS) policy() ErrorPolicy {
	if p := ErrorPolicy(fs.errors.Load()); p != 0 {
		return p
	}
	fs.sbMu.Lock()
	defer fs.sbMu.Unlock()
	return ErrorPolicy(fs.sb.Errors)
}

// countError writes to the superblock that there was an error.
func (fs *FS) countError() {
	if !fs.txn.started.Load() {
		return
	}
	now := fs.opt.Now().Unix()
	count := func(sb *format.Superblock) {
		sb.State |= format.StateError
		if sb.ErrorCount == 0 {
			sb.FirstErrorTime, sb.FirstErrorTimeHi = uint32(now), uint8(now>>32)
		}
		sb.ErrorCount++
		sb.LastErrorTime, sb.LastErrorTimeHi = uint32(now), uint8(now>>32)
	}
	if e := fs.writeSuper(count); e != nil {
		fs.logf("EXT4-fs error: %v", e)
	}
}

// fail makes the filesystem read-only for good, whatever errors= says: what was to be
// written is not on the disk. With errors=panic it panics.
func (fs *FS) fail(err error) error {
	t := &fs.txn
	t.mu.Lock()
	first := t.err == nil
	if first {
		t.err = err
	}
	t.mu.Unlock()
	fs.damaged.Store(true)
	fs.readOnly.Store(true)
	if !first {
		return err
	}
	fs.logf("EXT4-fs error: %v: no further change is written", err)
	if fs.jnl == nil || !noRoom(err) {
		fs.countError()
	}
	if fs.policy() == ErrorsPanic && fs.opt.Panic != nil {
		fs.opt.Panic(err)
	}
	return err
}

// noRoom says that the disk's host ran full: the disk works, and with a journal it holds
// what the last commit left. There is nothing for e2fsck to find.
func noRoom(err error) bool {
	return unixIs(err, unix.ENOSPC) || unixIs(err, unix.EDQUOT) || unixIs(err, unix.EFBIG)
}

func unixIs(err error, no unix.Errno) bool { return errors.Is(err, no) }

// Sync makes every change that returned before it stable.
func (fs *FS) Sync() error {
	if fs.closed.Load() {
		return errClosed
	}
	t := &fs.txn
	t.mu.Lock()
	seq, dirty, err := t.seq, len(t.bufs) > 0, t.err
	t.mu.Unlock()
	if err != nil {
		return err
	}
	if !dirty {
		if err := fs.commitUpTo(seq - 1); err != nil { // it can be under way
			return err
		}
		return fs.devSync()
	}
	if fs.apart() != nil { // the commit leaves file data out
		if err := fs.devSync(); err != nil {
			return err
		}
	}
	return fs.commitUpTo(seq)
}

// Sync makes the file stable: its data, and with it the metadata. With dataOnly it
// leaves out metadata that is not needed to read the data, times above all.
func (n *Inode) Sync(dataOnly bool) error {
	fs, t := n.fs, &n.fs.txn
	if fs.closed.Load() {
		return errClosed
	}
	n.amu.Lock()
	seq := n.changed
	if dataOnly {
		seq = n.grew
	}
	n.amu.Unlock()
	t.mu.Lock()
	stable, err := seq == 0 || int32(t.stable-seq) >= 0, t.err
	t.mu.Unlock()
	if err != nil {
		return err
	}
	if stable {
		return fs.devSync()
	}
	if n.isRegular() && fs.apart() != nil {
		if err := fs.devSync(); err != nil {
			return err
		}
	}
	return fs.commitUpTo(seq)
}

// commitNow commits the running transaction.
func (fs *FS) commitNow() error {
	t := &fs.txn
	t.mu.Lock()
	seq := t.seq
	t.mu.Unlock()
	return fs.commitUpTo(seq)
}

// commitUpTo makes transaction seq stable. Those who wait for the same one share it.
func (fs *FS) commitUpTo(seq uint32) error {
	t := &fs.txn
	t.commitMu.Lock()
	defer t.commitMu.Unlock()
	t.mu.Lock()
	done, empty, err := int32(t.stable-seq) >= 0, t.seq == seq && len(t.bufs) == 0, t.err
	t.mu.Unlock()
	if done || err != nil {
		return err
	}
	if empty { // and a commit would wait for the end of a freeze, and others for it
		return fs.devSync()
	}
	return fs.commit()
}
