package ext4fs

import (
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
)

// freezer stops the changes of a filesystem, so that its disk can be copied.
type freezer struct {
	// writers is held shared by whatever changes the filesystem, from before it
	// takes another lock, and alone while the filesystem is frozen. Stores through
	// mappings and files that go with their last descriptor do not hold it: they
	// are stopped by the engine.
	writers sync.RWMutex

	// mu protects frozen, and engine, which says that the engine is frozen too.
	mu             sync.Mutex
	frozen, engine bool
}

// Changing implements tree.Filesystem. It lets the caller change the filesystem until it calls what it gets. It waits
// while the filesystem is frozen, uninterruptibly as in Linux.
func (fs *filesystem) Changing() (done func()) {
	fs.freezer.writers.RLock()
	return fs.freezer.writers.RUnlock
}

// freeze is FIFREEZE: it writes back what is dirty, makes the disk clean, and stops
// changes until thaw.
func (fs *filesystem) freeze(ctx context.Context) error {
	if !auth.CredentialsFromContext(ctx).HasRootCapability(linux.CAP_SYS_ADMIN) {
		return linuxerr.EPERM
	}
	f := &fs.freezer
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen {
		return linuxerr.EBUSY
	}
	f.writers.Lock()
	if !fs.readOnly.Load() {
		err := fs.flushPages(ctx)
		if err == nil {
			err = fs.errno(fs.engine.Freeze())
		}
		if err != nil {
			f.writers.Unlock()
			return err
		}
		f.engine = true
	}
	f.frozen = true
	return nil
}

// thaw is FITHAW.
func (fs *filesystem) thaw(ctx context.Context) error {
	if !auth.CredentialsFromContext(ctx).HasRootCapability(linux.CAP_SYS_ADMIN) {
		return linuxerr.EPERM
	}
	if !fs.endFreeze() {
		return linuxerr.EINVAL
	}
	return nil
}

// endFreeze lets changes go on, and says whether they were stopped.
func (fs *filesystem) endFreeze() bool {
	f := &fs.freezer
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.frozen {
		return false
	}
	if f.engine {
		fs.engine.Thaw()
	}
	f.frozen, f.engine = false, false
	f.writers.Unlock()
	return true
}
