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
)

// terminal is a terminal of the guest. It is the kernel.TTYOperations of its kernel.TTY.
type terminal struct {
	all    *Terminals
	family *family
	unit   int
	name   string
	minor  uint32
	tty    *kernel.TTY
	locks  vfs.FileLocks

	discipline *discipline
	out        *output
	breaks     breaks

	mu   sync.Mutex
	pair line.Pair
	// release gives up the ports of the pair.
	release func()
	// pump serves the line; it is nil while that is not open.
	pump *pump
	// opening is the opening of a line that waits for someone, or nil.
	opening *opening
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

// noLine is the pair of a terminal that is not there.
var noLine = line.Pair{In: line.End{Kind: line.None}, Out: line.End{Kind: line.None}}

func newTerminal(all *Terminals, f *family, unit int) *terminal {
	t := &terminal{
		all:     all,
		family:  f,
		unit:    unit,
		name:    fmt.Sprintf("%s%d", f.prefix, unit),
		minor:   f.minor + uint32(unit),
		pair:    noLine,
		release: func() {},
	}
	t.tty = kernel.NewTTY(0, t)
	t.out = newOutput()
	t.discipline = newDiscipline(t.out, func(sig linux.Signal) {
		t.tty.SignalForegroundProcessGroup(kernel.SignalInfoPriv(sig))
	})
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

// open opens the terminal for the guest, or as /dev/console when console is set. It waits
// for the line's other end where there must be someone, also without O_NONBLOCK's leave,
// as on User Mode Linux.
func (t *terminal) open(ctx context.Context, mnt *vfs.Mount, vfsd *vfs.Dentry, opts vfs.OpenOptions, console bool) (*vfs.FileDescription, error) {
	t.bury()
	creds := auth.CredentialsFromContext(ctx)
	fd := &terminalFD{term: t, console: console}
	if err := t.attach(ctx, fd, creds); err != nil {
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

// attach counts fd as an open of the terminal, and readies the line.
func (t *terminal) attach(ctx context.Context, fd *terminalFD, creds *auth.Credentials) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if t.closed || t.pair == noLine {
			return linuxerr.ENXIO
		}
		if t.exclusive && !creds.HasRootCapability(linux.CAP_SYS_ADMIN) {
			return linuxerr.EBUSY
		}
		if err := t.ready(); err != nil {
			return linuxerr.EIO
		}
		if t.pump != nil || !t.pair.Waits() {
			break
		}
		if err := t.wait(ctx, t.call()); err != nil {
			return err
		}
	}
	if t.pump != nil {
		if err := t.pump.begin(); err != nil {
			t.complain(err)
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

// detach is the end of what attach counted. A client or a window is there only as long
// as the guest has its terminal open.
func (t *terminal) detach(fd *terminalFD) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opens--
	if fd.console {
		t.consoles--
	}
	if t.opens > 0 {
		return
	}
	t.exclusive = false
	if p := t.pump; p != nil && t.pair.Waits() {
		t.pump = nil
		p.finish(t.out.leave(sinkLater))
	}
}

// ready opens the line, unless that is open, or has to wait.
//
// Precondition: t.mu is held.
func (t *terminal) ready() error {
	if t.pump != nil || t.pair.Waits() || t.pair == (line.Pair{}) {
		return nil
	}
	channel, err := t.all.host.Open(t.pair, t.options(nil))
	if err != nil {
		t.complain(err)
		return err
	}
	t.join(channel)
	if path := channel.Path(); path != "" {
		// The words of User Mode Linux. The log may be writing to this terminal.
		go t.all.logf("%s %d assigned device '%s'", t.family.title, t.unit, path)
	}
	return nil
}

// options are those with which the line is opened.
func (t *terminal) options(cancel <-chan struct{}) line.Options {
	title := fmt.Sprintf("%s #%d", t.family.window, t.unit)
	if t.all.machine != "" {
		title += " (" + t.all.machine + ")"
	}
	return line.Options{Title: title, Resized: t.resize, Break: t.broken, Cancel: cancel}
}

// join joins the terminal to an open line.
//
// Precondition: t.mu is held.
func (t *terminal) join(channel *line.Channel) {
	t.complained = false
	if size, ok := channel.Size(); ok {
		t.discipline.SetSize(winsize(size))
	}
	t.pump = newPump(t, channel)
}

// opening is the opening of a line that waits for its other end.
type opening struct {
	cancel chan struct{}
	// done is closed at its end; err is why that is none.
	done chan struct{}
	err  error
	// waiters counts who waits for it.
	waiters int
}

// call begins to open the line, unless that is under way.
//
// Precondition: t.mu is held.
func (t *terminal) call() *opening {
	if t.opening != nil {
		return t.opening
	}
	o := &opening{cancel: make(chan struct{}), done: make(chan struct{})}
	t.opening = o
	pair, options := t.pair, t.options(o.cancel)
	go func() {
		channel, err := t.all.host.Open(pair, options)
		t.mu.Lock()
		defer t.mu.Unlock()
		defer close(o.done)
		switch {
		case t.opening != o:
			// It came too late.
			o.err = line.ErrClosed
			if err == nil {
				channel.Close()
			}
			return
		case err != nil:
			o.err = err
			if !errors.Is(err, line.ErrClosed) {
				t.complain(err)
			}
		default:
			t.join(channel)
			if t.consoles > 0 {
				_ = t.pump.begin()
			}
		}
		t.opening = nil
	}()
	return o
}

// wait waits for an opening. One that nobody waits for any more is given up.
//
// Precondition: t.mu is held, and is not meanwhile.
func (t *terminal) wait(ctx context.Context, o *opening) error {
	o.waiters++
	t.mu.Unlock()
	var err error
	if task := kernel.TaskFromContext(ctx); task != nil {
		if task.Block(o.done) != nil {
			err = linuxerr.ERESTARTSYS
		}
	} else {
		select {
		case <-o.done:
		case <-t.all.interrupted:
			err = linuxerr.EINTR
		}
	}
	t.mu.Lock()
	o.waiters--
	if err != nil {
		if o.waiters == 0 && t.consoles == 0 {
			t.giveUp(o)
		}
		return err
	}
	if o.err != nil {
		return linuxerr.EIO
	}
	return nil
}

// giveUp ends an opening, which may be nil.
//
// Precondition: t.mu is held.
func (t *terminal) giveUp(o *opening) {
	if o != nil && t.opening == o {
		t.opening = nil
		close(o.cancel)
	}
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

// running is the pump, or nil for a line that is not open.
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
	before := t.pair
	t.stop()
	t.release()
	t.release = func() {}
	t.complained = false
	release, err := t.all.host.Hold(pair)
	if err != nil {
		t.pair = noLine
	} else {
		t.pair, t.release = pair, release
	}
	if t.pair.Waits() {
		t.out.leave(sinkLater)
	} else {
		t.out.leave(sinkNone)
	}
	if t.pair.In.Kind == line.Pts || t.pair.In.Kind == line.Pty {
		// Its path is wanted before the guest opens it.
		err = t.ready()
	}
	if was, is := before != noLine, t.pair != noLine; was != is {
		t.all.changed(t, is)
	}
	return err
}

// describe says what line the terminal has. That of a pty holds its path.
func (t *terminal) describe() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pump != nil && t.pair.In.Kind == line.Pts && t.pair.In == t.pair.Out {
		return "pts:" + t.pump.channel.Path()
	}
	return t.pair.String()
}

// stop closes the line, or gives up opening it.
//
// Precondition: t.mu is held.
func (t *terminal) stop() {
	t.giveUp(t.opening)
	if t.pump != nil {
		t.pump.close()
		t.pump = nil
	}
	if t.pair.Waits() {
		t.out.leave(sinkLater)
	} else {
		t.out.leave(sinkNone)
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
	t.release()
	t.discipline.waiters.Notify(waiter.EventHUp | waiter.EventErr | waiter.ReadableEvents | waiter.WritableEvents)
}

// resize gives the window the host's size and tells the foreground.
func (t *terminal) resize(size line.Size) { t.setSize(winsize(size)) }

func winsize(size line.Size) linux.Winsize {
	return linux.Winsize{Row: size.Rows, Col: size.Cols, Xpixel: size.XPixel, Ypixel: size.YPixel}
}

func (t *terminal) setSize(size linux.Winsize) {
	if t.discipline.SetSize(size) {
		t.tty.SignalForegroundProcessGroup(kernel.SignalInfoPriv(linux.SIGWINCH))
	}
}
