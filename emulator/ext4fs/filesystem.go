package ext4fs

import (
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/tree"
	"github.com/umlkit/umlkit/ext4"
)

// enodata is compared with ==.
var enodata error = linuxerr.ENODATA

// dentry is a name in a directory.
type dentry = tree.Dentry[*inode]

// maxCachedDentries is how many unreferenced dentries a filesystem keeps.
const maxCachedDentries = 8192

// filesystem is an open filesystem, mounted once or more. It implements
// vfs.FilesystemImpl.
type filesystem struct {
	tree.Tree[*inode]

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

	// cut says that the filesystem was left as a power cut leaves one.
	cut atomic.Bool

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

// BeginWrite implements tree.Filesystem.
func (fs *filesystem) BeginWrite(mnt *vfs.Mount) error {
	if err := mnt.CheckBeginWrite(); err != nil {
		return err
	}
	if err := fs.writable(); err != nil {
		mnt.EndWrite()
		return err
	}
	return nil
}

// EndWrite implements tree.Filesystem.
func (fs *filesystem) EndWrite(mnt *vfs.Mount) { mnt.EndWrite() }

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
	dirty := fs.Inodes(func(i *inode) bool { return i.content != nil && i.content.dirtyPages.Load() })
	var first error
	for _, i := range dirty {
		if err := i.flush(ctx, false); err != nil {
			fs.log("warning: inode %d: writeback: %v", i.Ino(), err)
			if first == nil {
				first = err
			}
		}
		fs.DropInode(ctx, i)
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
	fs.endFreeze()
	fs.stopFlushing()
	fs.ReleaseAll(ctx)
	fs.hostMu.Lock()
	for _, h := range fs.hostFiles {
		h.Unmap()
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
