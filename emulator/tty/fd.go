package tty

import (
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

// terminalFD is an open terminal.
type terminalFD struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.DentryMetadataFileDescriptionImpl
	vfs.LockFD

	term *terminal
	// console says that it was opened as /dev/console, which no hangup reaches.
	console bool
	// generation is the terminal's when it was opened.
	generation uint64
}

// Release implements vfs.FileDescriptionImpl.Release.
func (fd *terminalFD) Release(context.Context) { fd.term.detach(fd) }

// Epollable implements vfs.FileDescriptionImpl.Epollable.
func (fd *terminalFD) Epollable() bool { return true }

// dead says that the terminal hung up since it was opened here, or is gone altogether.
func (fd *terminalFD) dead() bool {
	fd.term.mu.Lock()
	defer fd.term.mu.Unlock()
	return fd.term.closed || !fd.console && fd.generation != fd.term.generation
}

// EventRegister implements waiter.Waitable.EventRegister.
func (fd *terminalFD) EventRegister(e *waiter.Entry) error {
	fd.term.discipline.waiters.EventRegister(e)
	return nil
}

// EventUnregister implements waiter.Waitable.EventUnregister.
func (fd *terminalFD) EventUnregister(e *waiter.Entry) {
	fd.term.discipline.waiters.EventUnregister(e)
}

// Readiness implements waiter.Waitable.Readiness.
func (fd *terminalFD) Readiness(mask waiter.EventMask) waiter.EventMask {
	if fd.dead() {
		return (waiter.ReadableEvents | waiter.WritableEvents | waiter.EventHUp | waiter.EventErr) & mask
	}
	ready := fd.term.discipline.Readiness()
	if fd.term.out.hasRoom() {
		ready |= waiter.WritableEvents
	}
	return ready & mask
}

// Read implements vfs.FileDescriptionImpl.Read.
func (fd *terminalFD) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	if fd.dead() {
		return 0, nil
	}
	if err := fd.term.checkChange(ctx, linux.SIGTTIN); err != nil {
		return 0, err
	}
	if dst.NumBytes() == 0 {
		return 0, nil
	}
	modes := fd.term.discipline.Termios()
	least, tenths := int64(modes.ControlCharacters[linux.VMIN]), modes.ControlCharacters[linux.VTIME]
	if modes.LEnabled(linux.ICANON) || least == 1 && tenths == 0 {
		return fd.term.discipline.Read(ctx, dst)
	}
	return fd.readRaw(ctx, dst, min(least, dst.NumBytes()), time.Duration(tenths)*100*time.Millisecond)
}

// readRaw reads without lines: until there are at least so many bytes, or until nothing
// came for as long as wait. With none at least, wait is for the first; otherwise it
// begins with the first byte.
func (fd *terminalFD) readRaw(ctx context.Context, dst usermem.IOSequence, least int64, wait time.Duration) (int64, error) {
	task := kernel.TaskFromContext(ctx)
	e, ch := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp)
	fd.term.discipline.waiters.EventRegister(&e)
	defer fd.term.discipline.waiters.EventUnregister(&e)
	var done int64
	for {
		n, err := fd.term.discipline.Read(ctx, dst)
		done += n
		dst = dst.DropFirst64(n)
		if err != nil && !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
			return done, err
		}
		switch {
		case done > 0 && (done >= least || dst.NumBytes() == 0), fd.dead():
			return done, nil
		case least == 0 && wait == 0:
			return done, nil
		case task == nil || fd.vfsfd.StatusFlags()&linux.O_NONBLOCK != 0:
			if done > 0 {
				return done, nil
			}
			return 0, linuxerr.ErrWouldBlock
		}
		timed := wait > 0 && (least == 0 || done > 0)
		if _, err := task.BlockWithTimeout(ch, timed, wait); err != nil {
			if done > 0 || linuxerr.Equals(linuxerr.ETIMEDOUT, err) {
				return done, nil
			}
			return 0, err
		}
	}
}

// Write implements vfs.FileDescriptionImpl.Write. It takes all of src unless a signal
// comes or the description is non-blocking, as programs expect of a terminal.
func (fd *terminalFD) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (int64, error) {
	if fd.dead() {
		return 0, linuxerr.EIO
	}
	term := fd.term
	if fd.console {
		term = term.all.redirected(term)
	}
	modes := term.discipline.Termios()
	if modes.LEnabled(linux.TOSTOP) {
		if err := term.checkChange(ctx, linux.SIGTTOU); err != nil {
			return 0, err
		}
	}
	n, err := term.out.write(ctx, src, &modes)
	task := kernel.TaskFromContext(ctx)
	if n == src.NumBytes() || task == nil || fd.vfsfd.StatusFlags()&linux.O_NONBLOCK != 0 || err != nil && !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
		return n, err
	}
	e, ch := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp)
	term.discipline.waiters.EventRegister(&e)
	defer term.discipline.waiters.EventUnregister(&e)
	for done := n; ; {
		n, err := term.out.write(ctx, src.DropFirst64(done), &modes)
		done += n
		switch {
		case done == src.NumBytes():
			return done, nil
		case err != nil && !linuxerr.Equals(linuxerr.ErrWouldBlock, err):
			return done, err
		case fd.dead():
			if done > 0 {
				return done, nil
			}
			return 0, linuxerr.EIO
		}
		if n > 0 {
			continue
		}
		if err := task.Block(ch); err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
	}
}

// redirected is where the console's output goes: to term, unless TIOCCONS said otherwise.
func (t *Terminals) redirected(term *terminal) *terminal {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.redirect != nil {
		return t.redirect
	}
	return term
}
