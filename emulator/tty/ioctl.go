package tty

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

// The arguments of TCXONC.
const (
	tcOutputOff = iota
	tcOutputOn
	tcInputOff
	tcInputOn
)

// Ioctl implements vfs.FileDescriptionImpl.Ioctl. What it does not know is ENOTTY, as it
// is on User Mode Linux's terminals, which are no virtual terminals (KD*, VT_*,
// TIOCLINUX) and no serial ports (TIOCMGET, TIOCGSERIAL).
func (fd *terminalFD) Ioctl(ctx context.Context, uio usermem.IO, sysno uintptr, args arch.SyscallArguments) (uintptr, error) {
	task := kernel.TaskFromContext(ctx)
	if task == nil {
		return 0, linuxerr.ENOTTY
	}
	if fd.dead() {
		return 0, linuxerr.EIO
	}
	c := call{fd: fd, term: fd.term, task: task, uio: uio, args: args}
	for _, group := range [...]func(cmd uint32) (bool, error){c.modes, c.queues, c.session, c.device} {
		if known, err := group(args[1].Uint()); known {
			return 0, err
		}
	}
	return fd.FileDescriptionDefaultImpl.Ioctl(ctx, uio, sysno, args)
}

// call is an ioctl under way.
type call struct {
	fd   *terminalFD
	term *terminal
	task *kernel.Task
	uio  usermem.IO
	args arch.SyscallArguments
}

// put copies b to where the argument points.
func (c *call) put(b []byte) error {
	_, err := c.uio.CopyOut(c.task, c.args[2].Pointer(), b, usermem.IOOpts{})
	return err
}

func (c *call) put32(v uint32) error { return c.put(binary.NativeEndian.AppendUint32(nil, v)) }

// get fills b from where the argument points.
func (c *call) get(b []byte) error {
	_, err := c.uio.CopyIn(c.task, c.args[2].Pointer(), b, usermem.IOOpts{})
	return err
}

func (c *call) get32() (uint32, error) {
	var b [4]byte
	err := c.get(b[:])
	return binary.NativeEndian.Uint32(b[:]), err
}

// modes serves the modes and the window.
func (c *call) modes(cmd uint32) (bool, error) {
	d := c.term.discipline
	switch cmd {
	case linux.TCGETS:
		modes := d.Termios()
		old := modes.ToTermios()
		_, err := old.CopyOut(c.task, c.args[2].Pointer())
		return true, err
	case linux.TCGETS2:
		modes := d.Termios()
		_, err := modes.CopyOut(c.task, c.args[2].Pointer())
		return true, err
	case linux.TCSETS:
		return true, c.setModes(false, false, false)
	case linux.TCSETSW:
		return true, c.setModes(false, true, false)
	case linux.TCSETSF:
		return true, c.setModes(false, true, true)
	case linux.TCSETS2:
		return true, c.setModes(true, false, false)
	case linux.TCSETSW2:
		return true, c.setModes(true, true, false)
	case linux.TCSETSF2:
		return true, c.setModes(true, true, true)
	case linux.TIOCGWINSZ:
		size := d.Size()
		_, err := size.CopyOut(c.task, c.args[2].Pointer())
		return true, err
	case linux.TIOCSWINSZ:
		var size linux.Winsize
		if _, err := size.CopyIn(c.task, c.args[2].Pointer()); err != nil {
			return true, err
		}
		c.term.setSize(size)
		return true, nil
	case linux.TIOCGETD:
		return true, c.put32(0)
	case linux.TIOCSETD:
		n, err := c.get32()
		if err == nil && n != 0 {
			err = linuxerr.EINVAL
		}
		return true, err
	}
	return false, nil
}

// setModes sets the modes, after the output has left when drain is set, and dropping
// the input when flush is.
func (c *call) setModes(two, drain, flush bool) error {
	if err := c.term.checkChange(c.task, linux.SIGTTOU); err != nil {
		return err
	}
	if drain {
		if err := c.drain(); err != nil {
			return err
		}
	}
	before := c.term.discipline.Termios()
	after := before
	if two {
		if _, err := after.CopyIn(c.task, c.args[2].Pointer()); err != nil {
			return err
		}
	} else {
		var old linux.Termios
		if _, err := old.CopyIn(c.task, c.args[2].Pointer()); err != nil {
			return err
		}
		after.FromTermios(old)
	}
	if flush {
		c.term.discipline.Flush()
	}
	c.term.discipline.SetTermios(after)
	if before.IEnabled(linux.IXON) && !after.IEnabled(linux.IXON) {
		// Nobody could type the start character any more.
		c.term.out.resume()
	}
	return nil
}

// drain blocks the task until the output has reached the line.
func (c *call) drain() error {
	e, moved := waiter.NewChannelEntry(waiter.WritableEvents)
	c.term.out.idle.EventRegister(&e)
	defer c.term.out.idle.EventUnregister(&e)
	for !c.fd.dead() {
		if c.term.running() == nil {
			// Nobody is there to take it.
			return nil
		}
		if left, _ := c.term.out.unsent(); left == 0 {
			return nil
		}
		if err := c.task.Block(moved); err != nil {
			return linuxerr.ConvertIntr(err, linuxerr.ERESTARTSYS)
		}
	}
	return linuxerr.EIO
}

// queues serves what waits in the terminal.
func (c *call) queues(cmd uint32) (bool, error) {
	d, out := c.term.discipline, c.term.out
	switch cmd {
	case linux.FIONREAD:
		return true, c.put32(uint32(d.Readable()))
	case linux.TIOCOUTQ:
		left, _ := out.unsent()
		return true, c.put32(uint32(left))
	case linux.TCSBRK, linux.TCSBRKP:
		if err := c.term.checkChange(c.task, linux.SIGTTOU); err != nil {
			return true, err
		}
		return true, c.drain()
	case linux.TIOCSBRK, linux.TIOCCBRK:
		return true, nil
	case linux.TCFLSH:
		if err := c.term.checkChange(c.task, linux.SIGTTOU); err != nil {
			return true, err
		}
		which := c.args[2].Uint()
		switch which {
		case linux.TCIFLUSH, linux.TCOFLUSH, linux.TCIOFLUSH:
		default:
			return true, linuxerr.EINVAL
		}
		if which != linux.TCOFLUSH {
			d.Flush()
		}
		if which != linux.TCIFLUSH {
			out.flush()
		}
		return true, nil
	case unix.TCXONC:
		if err := c.term.checkChange(c.task, linux.SIGTTOU); err != nil {
			return true, err
		}
		switch c.args[2].Int() {
		case tcOutputOff:
			out.stop()
		case tcOutputOn:
			out.resume()
		case tcInputOff:
			out.send(d.Termios().ControlCharacters[linux.VSTOP])
		case tcInputOn:
			out.send(d.Termios().ControlCharacters[linux.VSTART])
		default:
			return true, linuxerr.EINVAL
		}
		return true, nil
	case linux.TIOCSTI:
		// What is typed is nobody's to write, root's neither: dev.tty.legacy_tiocsti is 0.
		return true, linuxerr.EIO
	}
	return false, nil
}

// session serves job control.
func (c *call) session(cmd uint32) (bool, error) {
	switch cmd {
	case linux.TIOCSCTTY:
		return true, c.term.acquire(c.task, c.args[2].Int() == 1, c.fd.vfsfd.IsReadable())
	case linux.TIOCNOTTY:
		if c.task.ThreadGroup().TTY() != c.term.tty {
			return true, linuxerr.ENOTTY
		}
		return true, c.task.ThreadGroup().ReleaseControllingTTY(c.task, c.term.tty)
	case linux.TIOCGPGRP:
		id, err := c.term.foreground(c.task)
		if err != nil {
			return true, err
		}
		return true, c.put32(uint32(id))
	case linux.TIOCSPGRP:
		id, err := c.get32()
		if err != nil {
			return true, err
		}
		return true, c.task.ThreadGroup().SetForegroundProcessGroupID(c.task, c.term.tty, kernel.ProcessGroupID(int32(id)))
	case linux.TIOCGSID:
		id, err := c.term.session(c.task)
		if err != nil {
			return true, err
		}
		return true, c.put32(uint32(id))
	case linux.TIOCVHANGUP:
		if !c.task.HasRootCapability(linux.CAP_SYS_ADMIN) {
			return true, linuxerr.EPERM
		}
		c.term.hangup(c.task)
		return true, nil
	}
	return false, nil
}

// device serves what the device is and who may have it.
func (c *call) device(cmd uint32) (bool, error) {
	switch cmd {
	case linux.TIOCEXCL, linux.TIOCNXCL:
		c.term.mu.Lock()
		c.term.exclusive = cmd == linux.TIOCEXCL
		c.term.mu.Unlock()
		return true, nil
	case linux.TIOCGEXCL:
		c.term.mu.Lock()
		exclusive := c.term.exclusive
		c.term.mu.Unlock()
		if exclusive {
			return true, c.put32(1)
		}
		return true, c.put32(0)
	case linux.TIOCGDEV:
		return true, c.put32(deviceNumber(ttyMajor, c.term.minor))
	case linux.TIOCCONS:
		return true, c.term.all.takeConsole(c)
	}
	return false, nil
}

// takeConsole is TIOCCONS: what programs write to /dev/console goes to the terminal from
// now on; asked on the console itself, it goes there again.
func (t *Terminals) takeConsole(c *call) error {
	if !c.task.HasRootCapability(linux.CAP_SYS_ADMIN) {
		return linuxerr.EPERM
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case c.fd.console:
		t.redirect = nil
	case t.redirect != nil:
		return linuxerr.EBUSY
	default:
		t.redirect = c.term
	}
	return nil
}
