package tty

import (
	"errors"
	"fmt"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/line"
	"github.com/umlkit/umlkit/emulator/reach"
)

// terminal is a terminal of the guest. It is the kernel.TTYOperations of its kernel.TTY.
type terminal struct {
	all    *Terminals
	vfs    *vfs.VirtualFilesystem
	family *family
	unit   int
	name   string
	minor  uint32
	tty    *kernel.TTY
	locks  vfs.FileLocks

	mu   sync.Mutex
	pair line.Pair
	// discipline is made at the first open and stays.
	discipline *reach.Discipline
	// pump serves the line; it is nil while there is none.
	pump *pump
	// opens counts the guest's file descriptions, consoles is how many of them are
	// of /dev/console.
	opens, consoles int
	// complained says that the log knows why the line cannot be opened.
	complained bool
	// generation counts hangups. A file description of an earlier one is dead.
	generation uint64
	// exclusive is TIOCEXCL's.
	exclusive bool
	closed    bool

	// burial protects leader, and what is done when it ends. It is taken before mu.
	burial sync.Mutex
	// leader leads the session that has the terminal, or had it last.
	leader *kernel.ThreadGroup
}

var _ kernel.TTYOperations = (*terminal)(nil)

func newTerminal(all *Terminals, vfsObj *vfs.VirtualFilesystem, f *family, unit int, pair line.Pair) *terminal {
	t := &terminal{
		all:    all,
		vfs:    vfsObj,
		family: f,
		unit:   unit,
		name:   fmt.Sprintf("%s%d", f.prefix, unit),
		minor:  f.minor + uint32(unit),
		pair:   pair,
	}
	t.tty = kernel.NewTTY(0, t)
	return t
}

// OpenTTY implements kernel.TTYOperations.OpenTTY, for /dev/tty.
func (t *terminal) OpenTTY(ctx context.Context, mnt *vfs.Mount, vfsd *vfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	return t.open(ctx, mnt, vfsd, opts, false)
}

// IncRef implements kernel.TTYOperations.IncRef. A terminal lives as long as its kernel.
func (t *terminal) IncRef() {}

// DecRef implements kernel.TTYOperations.DecRef.
func (t *terminal) DecRef(context.Context) {}

// open opens the terminal for the guest, or as /dev/console when console is set.
func (t *terminal) open(ctx context.Context, mnt *vfs.Mount, vfsd *vfs.Dentry, opts vfs.OpenOptions, console bool) (*vfs.FileDescription, error) {
	t.bury()
	creds := auth.CredentialsFromContext(ctx)
	fd := &terminalFD{term: t, console: console}
	if err := t.attach(fd, creds); err != nil {
		return nil, err
	}
	fd.LockFD.Init(&t.locks)
	if err := fd.vfsfd.Init(fd, opts.Flags, creds, mnt, vfsd, &vfs.FileDescriptionOptions{
		DenyPRead:         true,
		DenyPWrite:        true,
		UseDentryMetadata: true,
		SpecialFile:       true,
	}); err != nil {
		t.detach(fd)
		return nil, err
	}
	if task := kernel.TaskFromContext(ctx); task != nil && opts.Flags&linux.O_NOCTTY == 0 && task.ThreadGroup().TTY() == nil {
		// A terminal that cannot be had is still open: Linux does not say either.
		_ = t.acquire(task, false, fd.vfsfd.IsReadable())
	}
	return &fd.vfsfd, nil
}

// attach counts fd as an open of the terminal, and readies terminal and line.
func (t *terminal) attach(fd *terminalFD, creds *auth.Credentials) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.pair.In.Kind == line.None {
		return linuxerr.ENODEV
	}
	if t.exclusive && !creds.HasRootCapability(linux.CAP_SYS_ADMIN) {
		return linuxerr.EBUSY
	}
	if err := t.ready(); err != nil {
		return err
	}
	if t.pump != nil {
		if err := t.pump.begin(); err != nil {
			t.all.logf("%s: %v", t.name, err)
			return linuxerr.EIO
		}
		if t.opens == 0 && !fd.console {
			t.pump.channel.Focus()
		}
	}
	t.opens++
	if fd.console {
		t.consoles++
	}
	fd.generation = t.generation
	return nil
}

// detach is the end of what attach counted.
func (t *terminal) detach(fd *terminalFD) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opens--
	if fd.console {
		t.consoles--
	}
	if t.opens == 0 {
		t.exclusive = false
	}
}

// ready makes the line discipline and opens the line, where that was not done yet.
//
// Precondition: t.mu is held.
func (t *terminal) ready() error {
	if t.discipline == nil {
		d, err := reach.NewDiscipline(t.all.ctx, t.vfs, t.all.root, t.tty)
		if err != nil {
			t.complain(err)
			return linuxerr.EIO
		}
		t.discipline = d
	}
	if t.pump != nil || t.pair == (line.Pair{}) {
		return nil
	}
	p, err := newPump(t, t.pair)
	if err != nil {
		t.complain(err)
		if errors.Is(err, line.ErrNoDevice) {
			return linuxerr.ENODEV
		}
		return linuxerr.EIO
	}
	t.pump = p
	return nil
}

// complain says once in the kernel log why the line cannot be opened. The log may be
// writing to this very terminal as its console, so it is not waited for.
//
// Precondition: t.mu is held.
func (t *terminal) complain(err error) {
	if t.complained {
		return
	}
	t.complained = true
	go t.all.logf("%s: %v", t.name, err)
}

// running is the pump, or nil for a null line.
func (t *terminal) running() *pump {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pump
}

// configure gives the terminal another line. One that is open is refused.
func (t *terminal) configure(pair line.Pair) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.opens > 0 {
		return driver.Errorf(driver.Invalid, "Device is already open")
	}
	t.stop()
	t.pair, t.complained = pair, false
	return nil
}

// describe says what line the terminal has.
func (t *terminal) describe() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pair.String()
}

// stop ends the pump and closes the line.
//
// Precondition: t.mu is held.
func (t *terminal) stop() {
	if t.pump != nil {
		t.pump.close()
		t.pump = nil
	}
}

// close is the end of the terminal, with its kernel.
func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	t.stop()
	if t.discipline != nil {
		t.discipline.Close(t.all.ctx)
		t.discipline.Replica().Notify(waiter.EventHUp | waiter.EventErr | waiter.ReadableEvents | waiter.WritableEvents)
	}
}

// resize gives the window the host's size and tells the foreground.
func (t *terminal) resize(size line.Size) {
	t.mu.Lock()
	d := t.discipline
	t.mu.Unlock()
	if d != nil {
		t.setSize(d, linux.Winsize{Row: size.Rows, Col: size.Cols, Xpixel: size.XPixel, Ypixel: size.YPixel})
	}
}

func (t *terminal) setSize(d *reach.Discipline, size linux.Winsize) {
	if d.SetSize(size) {
		t.tty.SignalForegroundProcessGroup(kernel.SignalInfoPriv(linux.SIGWINCH))
	}
}
