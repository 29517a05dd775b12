package ext4fs

import (
	"container/list"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ext4"
)

// Errors that the package compares with ==.
var (
	enoent  error = linuxerr.ENOENT
	enodata error = linuxerr.ENODATA
)

// filesystem is an open filesystem, mounted once or more. It implements
// vfs.FilesystemImpl.
type filesystem struct {
	vfsfs vfs.Filesystem

	// These do not change while the filesystem is open.
	typ         *FilesystemType
	disk        Disk
	source      string
	engine      *ext4.FS
	info        ext4.Info
	defaults    *options // as the superblock has them
	blockSize   int
	maxFileSize int64
	layered     bool // a write may move data to another host file
	maxHostRuns int64
	mf          *pgalloc.MemoryFile
	clock       ktime.Clock
	userns      *auth.UserNamespace
	closed      chan struct{} // closed when the disk has been let go of

	opts     atomic.Pointer[options]
	readOnly atomic.Bool

	// renameMu keeps the tree in shape: walks hold it for reading, a rename for
	// writing. ancestryMu protects parent and name of dentries; a rename holds it
	// for writing only while it changes them.
	renameMu   sync.RWMutex
	ancestryMu sync.RWMutex

	root     *dentry
	released atomic.Bool
	// cut says that the filesystem was left as a power cut leaves one.
	cut atomic.Bool

	cacheMu sync.Mutex
	cached  *list.List // of *dentry: the unreferenced ones, latest first

	inodesMu sync.Mutex
	inodes   map[uint32]*inode

	hostMu    sync.Mutex
	hostFiles map[*os.File]*hostFile

	flusher flusher
	freezer freezer
}

// flusher writes dirty pages back from time to time. It does not run while there
// are none.
type flusher struct {
	mu    sync.Mutex
	timer *time.Timer
	armed bool
	ended bool
	busy  sync.WaitGroup
}

// options returns the mount options in force.
func (fs *filesystem) options() *options { return fs.opts.Load() }

// now is the guest's time.
func (fs *filesystem) now() ext4.Time {
	sec, nsec := fs.clock.Now().Unix()
	return ext4.Time{Sec: sec, Nsec: uint32(nsec)}
}

// log writes a line about this filesystem to the kernel's log, as Linux does.
func (fs *filesystem) log(format string, args ...any) {
	fs.typ.logf("EXT4-fs ("+fs.disk.Name+"): "+format, args...)
}

// logError is log for what goes wrong: a quiet boot shows it too.
func (fs *filesystem) logError(format string, args ...any) {
	fs.typ.errorf("EXT4-fs ("+fs.disk.Name+"): "+format, args...)
}

// engineLog is log for the engine's lines, which say themselves how bad it is.
func (fs *filesystem) engineLog(format string, args ...any) {
	for level, logf := range map[string]func(string, ...any){"error": fs.typ.errorf, "warning": fs.typ.logf} {
		if rest, ok := strings.CutPrefix(format, "EXT4-fs "+level+": "); ok {
			logf("EXT4-fs "+level+" (device "+fs.disk.Name+"): "+rest, args...)
			return
		}
	}
	fs.log(strings.TrimPrefix(format, "EXT4-fs: "), args...)
}

// fault is called for an error of the disk or of the filesystem itself, which the
// engine has dealt with as errors= says.
func (fs *filesystem) fault(err error) { fs.logError("error: %v", err) }

// struck says whether errors=remount-ro has come true: the filesystem refuses changes
// though it was mounted for them. As on Linux its mounts stay what they are; the option
// emergency_ro tells.
func (fs *filesystem) struck() bool { return fs.engine.Damaged() && !fs.readOnly.Load() }

// writable fails where the filesystem is read-only, whatever a mount of it is.
func (fs *filesystem) writable() error {
	if fs.readOnly.Load() || fs.engine.Damaged() {
		return linuxerr.EROFS
	}
	return nil
}

// hostFile returns the memmap.File over a host file of the disk.
func (fs *filesystem) hostFile(f *os.File) *hostFile {
	fs.hostMu.Lock()
	defer fs.hostMu.Unlock()
	h := fs.hostFiles[f]
	if h == nil {
		h = newHostFile(f)
		fs.hostFiles[f] = h
	}
	return h
}

// flushLater has dirty pages written back within the time that commit= gives.
func (fs *filesystem) flushLater() {
	f := &fs.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.armed || f.ended {
		return
	}
	f.armed = true
	f.timer = time.AfterFunc(fs.options().commit, func() {
		f.mu.Lock()
		f.armed = false
		ended := f.ended
		if !ended {
			f.busy.Add(1)
		}
		f.mu.Unlock()
		if !ended {
			fs.flushPages(context.Background())
			f.busy.Done()
		}
	})
}

// stopFlushing ends flushLater's effect. Afterwards nothing runs in the background.
func (fs *filesystem) stopFlushing() {
	f := &fs.flusher
	f.mu.Lock()
	f.ended = true
	if f.timer != nil {
		f.timer.Stop()
	}
	f.mu.Unlock()
	f.busy.Wait()
}

// flushPages writes back every dirty page. It returns the first error.
func (fs *filesystem) flushPages(ctx context.Context) error {
	var dirty []*inode
	fs.inodesMu.Lock()
	for _, i := range fs.inodes {
		if i.content != nil && i.content.dirtyPages.Load() && i.refs > 0 {
			i.refs++
			dirty = append(dirty, i)
		}
	}
	fs.inodesMu.Unlock()
	var first error
	for _, i := range dirty {
		if err := i.flush(ctx, false); err != nil {
			fs.log("warning: inode %d: writeback: %v", i.ino, err)
			if first == nil {
				first = err
			}
		}
		i.decRef(ctx)
	}
	return first
}

// Sync implements vfs.FilesystemImpl.
func (fs *filesystem) Sync(ctx context.Context) error {
	if fs.readOnly.Load() {
		return nil
	}
	err := fs.flushPages(ctx)
	if serr := fs.errno(fs.engine.Sync()); err == nil {
		err = serr
	}
	return err
}

// Release implements vfs.FilesystemImpl. It runs when the last mount is gone.
func (fs *filesystem) Release(ctx context.Context) {
	fs.released.Store(true)
	fs.endFreeze()
	fs.stopFlushing()
	for fs.evictOldest(ctx) {
	}
	fs.root.DecRef(ctx)
	fs.dropLeftovers(ctx)
	fs.hostMu.Lock()
	for _, h := range fs.hostFiles {
		h.close()
	}
	fs.hostMu.Unlock()
	if err := fs.engine.Close(); err != nil {
		fs.logError("error: close: %v", err)
	}
	if !fs.cut.Load() {
		fs.log("unmounting filesystem %s.", uuidString(fs.info.UUID))
	}
	fs.typ.forget(fs)
	if fs.disk.Release != nil {
		fs.disk.Release()
	}
	close(fs.closed)
}

// dropLeftovers ends the inodes that a bound socket or a watch has kept.
func (fs *filesystem) dropLeftovers(ctx context.Context) {
	fs.inodesMu.Lock()
	var left []*inode
	for _, i := range fs.inodes {
		left = append(left, i)
		i.refs++
	}
	fs.inodesMu.Unlock()
	for _, i := range left {
		i.clearEndpoint(ctx)
		i.decRef(ctx)
	}
}

// step goes from d to the next component of rp. It returns the file found, with a
// reference, or d again and true where the component was a symlink to be followed.
// renameMu is held for reading.
func (fs *filesystem) step(ctx context.Context, rp *vfs.ResolvingPath, d *dentry) (*dentry, bool, error) {
	if !d.inode.isDir() {
		return nil, false, linuxerr.ENOTDIR
	}
	if err := d.inode.allows(rp.Credentials(), vfs.MayExec); err != nil {
		return nil, false, err
	}
	name := rp.Component()
	switch {
	case name == ".":
		rp.Advance()
		d.IncRef()
		return d, false, nil
	case name == "..":
		parent := d.parent.Load()
		if isRoot, err := rp.CheckRoot(ctx, &d.vfsd); err != nil {
			return nil, false, err
		} else if isRoot || parent == nil {
			rp.Advance()
			d.IncRef()
			return d, false, nil
		}
		if err := rp.CheckMount(ctx, &parent.vfsd); err != nil {
			return nil, false, err
		}
		rp.Advance()
		parent.IncRef()
		return parent, false, nil
	case len(name) > linux.NAME_MAX:
		return nil, false, linuxerr.ENAMETOOLONG
	}
	child, err := d.lookup(ctx, name)
	if err != nil {
		return nil, false, err
	}
	if err := rp.CheckMount(ctx, &child.vfsd); err != nil {
		child.DecRef(ctx)
		return nil, false, err
	}
	if child.inode.kind == linux.S_IFLNK && rp.ShouldFollowSymlink() {
		target, err := child.readlink(rp.Mount())
		child.DecRef(ctx)
		if err != nil {
			return nil, false, err
		}
		followed, err := rp.HandleSymlink(target)
		if err != nil {
			return nil, followed, err
		}
		d.IncRef()
		return d, followed, nil
	}
	rp.Advance()
	return child, false, nil
}

// readlink returns the target of a symlink and notes the access.
func (d *dentry) readlink(mnt *vfs.Mount) (string, error) {
	if d.inode.kind != linux.S_IFLNK {
		return "", linuxerr.EINVAL
	}
	target, err := d.inode.node.Readlink()
	if err != nil {
		return "", d.fs().errno(err)
	}
	d.inode.touchAtime(mnt)
	return target, nil
}

// walkParent goes from d, of which it does not take over the reference, to the
// directory of rp's last component. renameMu is held for reading or writing.
func (fs *filesystem) walkParent(ctx context.Context, rp *vfs.ResolvingPath, d *dentry) (*dentry, error) {
	d.IncRef()
	for !rp.Final() {
		next, _, err := fs.step(ctx, rp, d)
		d.DecRef(ctx)
		if err != nil {
			return nil, err
		}
		d = next
	}
	if !d.inode.isDir() {
		d.DecRef(ctx)
		return nil, linuxerr.ENOTDIR
	}
	return d, nil
}

// resolve returns the file at rp with a reference.
func (fs *filesystem) resolve(ctx context.Context, rp *vfs.ResolvingPath) (*dentry, error) {
	d := rp.Start().Impl().(*dentry)
	d.IncRef()
	if !rp.Done() {
		fs.renameMu.RLock()
		defer fs.renameMu.RUnlock()
	} else if d.inode.kind == linux.S_IFLNK && rp.ShouldFollowSymlink() {
		// A descriptor of a symlink itself, opened with O_PATH.
		target, err := d.readlink(rp.Mount())
		if err == nil {
			_, err = rp.HandleSymlink(target)
		}
		if err != nil {
			d.DecRef(ctx)
			return nil, err
		}
	}
	for !rp.Done() {
		next, _, err := fs.step(ctx, rp, d)
		d.DecRef(ctx)
		if err != nil {
			return nil, err
		}
		d = next
	}
	if rp.MustBeDir() && !d.inode.isDir() {
		d.DecRef(ctx)
		return nil, linuxerr.ENOTDIR
	}
	return d, nil
}

// AccessAt implements vfs.FilesystemImpl.
func (fs *filesystem) AccessAt(ctx context.Context, rp *vfs.ResolvingPath, creds *auth.Credentials, ats vfs.AccessTypes) error {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return err
	}
	defer d.DecRef(ctx)
	if ats.MayWrite() && (rp.Mount().ReadOnly() || fs.readOnly.Load()) {
		switch d.inode.kind {
		case linux.S_IFREG, linux.S_IFDIR, linux.S_IFLNK:
			return linuxerr.EROFS
		}
	}
	return d.inode.allows(creds, ats)
}

// GetDentryAt implements vfs.FilesystemImpl.
func (fs *filesystem) GetDentryAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.GetDentryOptions) (*vfs.Dentry, error) {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return nil, err
	}
	if opts.CheckSearchable {
		err := error(linuxerr.ENOTDIR)
		if d.inode.isDir() {
			err = d.inode.allows(rp.Credentials(), vfs.MayExec)
		}
		if err != nil {
			d.DecRef(ctx)
			return nil, err
		}
	}
	return &d.vfsd, nil
}

// GetParentDentryAt implements vfs.FilesystemImpl.
func (fs *filesystem) GetParentDentryAt(ctx context.Context, rp *vfs.ResolvingPath) (*vfs.Dentry, error) {
	fs.renameMu.RLock()
	defer fs.renameMu.RUnlock()
	d, err := fs.walkParent(ctx, rp, rp.Start().Impl().(*dentry))
	if err != nil {
		return nil, err
	}
	return &d.vfsd, nil
}

// ReadlinkAt implements vfs.FilesystemImpl.
func (fs *filesystem) ReadlinkAt(ctx context.Context, rp *vfs.ResolvingPath) (string, error) {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return "", err
	}
	defer d.DecRef(ctx)
	return d.readlink(rp.Mount())
}

// StatAt implements vfs.FilesystemImpl.
func (fs *filesystem) StatAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.StatOptions) (linux.Statx, error) {
	if rp.Done() {
		// The caller has a reference, and may have locks that resolve must not
		// be called with.
		return rp.Start().Impl().(*dentry).statxIn(rp.Mount()), nil
	}
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return linux.Statx{}, err
	}
	defer d.DecRef(ctx)
	return d.statxIn(rp.Mount()), nil
}

// SetStatAt implements vfs.FilesystemImpl.
func (fs *filesystem) SetStatAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.SetStatOptions) error {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return err
	}
	defer d.DecRef(ctx)
	defer fs.changing()()
	if err := rp.Mount().CheckBeginWrite(); err != nil {
		return err
	}
	err = d.inode.setStat(ctx, rp.Credentials(), &opts)
	rp.Mount().EndWrite()
	if err != nil {
		return err
	}
	if ev := vfs.InotifyEventFromStatMask(opts.Stat.Mask); ev != 0 {
		d.InotifyWithParent(ctx, ev, 0, vfs.InodeEvent)
	}
	return nil
}

// StatFSAt implements vfs.FilesystemImpl.
func (fs *filesystem) StatFSAt(ctx context.Context, rp *vfs.ResolvingPath) (linux.Statfs, error) {
	d, err := fs.resolve(ctx, rp)
	if err != nil {
		return linux.Statfs{}, err
	}
	d.DecRef(ctx)
	return fs.statfs(rp.Mount()), nil
}
