package tty

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/emulator/reach"
)

// filter stands between the line and the discipline's input. It does what the Sentry's
// discipline leaves out: it sees a signal character at once, where the discipline would
// not look at it before the line ahead of it is read; it flushes and echoes as Linux
// does; and it knows the stop, start and kill characters.
type filter struct {
	pump       *pump
	discipline *reach.Discipline
	room       <-chan struct{}
	// column is how many bytes the unfinished line has.
	column int
}

// put passes input on. It is false when the pump ends.
func (f *filter) put(b []byte) bool {
	modes := f.discipline.Termios()
	for len(b) > 0 {
		i := f.special(&modes, b)
		if i < 0 {
			f.count(&modes, b)
			return f.pump.feed(f.discipline, f.room, b)
		}
		f.count(&modes, b[:i])
		if !f.pump.feed(f.discipline, f.room, b[:i]) || !f.act(&modes, b[i]) {
			return false
		}
		b = b[i+1:]
		// The signal may have changed the modes, but it is only now on its way.
		modes = f.discipline.Termios()
	}
	return true
}

// special is the place of the first byte that put must not pass on, or -1.
func (f *filter) special(modes *linux.KernelTermios, b []byte) int {
	var set [256]bool
	cc := &modes.ControlCharacters
	if modes.LEnabled(linux.ISIG) {
		set[cc[linux.VINTR]], set[cc[linux.VQUIT]], set[cc[linux.VSUSP]] = true, true, true
	}
	if modes.IEnabled(linux.IXON) {
		set[cc[linux.VSTOP]], set[cc[linux.VSTART]] = true, true
	}
	if modes.LEnabled(linux.ICANON) {
		set[cc[linux.VKILL]] = true
	}
	// A character of 0 is none.
	set[0] = false
	for i, c := range b {
		if set[c] {
			return i
		}
	}
	return -1
}

// count follows the length of the unfinished line.
func (f *filter) count(modes *linux.KernelTermios, b []byte) {
	for _, c := range b {
		if c == '\n' || c == '\r' || modes.IsEOF(c) || modes.IsTerminating([]byte{c}) {
			f.column = 0
		} else {
			f.column++
		}
	}
}

// act does what the special character c asks for.
func (f *filter) act(modes *linux.KernelTermios, c byte) bool {
	cc := &modes.ControlCharacters
	if modes.LEnabled(linux.ISIG) {
		for _, s := range [...]struct {
			c   byte
			sig linux.Signal
		}{{cc[linux.VINTR], linux.SIGINT}, {cc[linux.VQUIT], linux.SIGQUIT}, {cc[linux.VSUSP], linux.SIGTSTP}} {
			if c == s.c {
				f.signal(modes, c, s.sig)
				return true
			}
		}
	}
	if modes.IEnabled(linux.IXON) {
		switch c {
		case cc[linux.VSTART]:
			f.pump.start()
			return true
		case cc[linux.VSTOP]:
			f.pump.stop()
			return true
		}
	}
	return f.kill(modes)
}

// signal is what n_tty does for a signal character.
func (f *filter) signal(modes *linux.KernelTermios, c byte, sig linux.Signal) {
	if !modes.LEnabled(linux.NOFLSH) {
		_ = f.discipline.Flush(linux.TCIOFLUSH)
		f.pump.drop()
		f.column = 0
	}
	f.pump.start()
	if modes.LEnabled(linux.ECHO) {
		echo := []byte{c}
		if modes.LEnabled(linux.ECHOCTL) && (c < ' ' || c == 0x7f) {
			echo = []byte{'^', c ^ 0x40}
		}
		_, _ = f.discipline.Write(f.pump.term.all.ctx, usermem.BytesIOSequence(echo))
	}
	f.pump.term.tty.SignalForegroundProcessGroup(kernel.SignalInfoPriv(sig))
}

// kill erases the unfinished line, byte for byte: erasing more than there is does nothing.
func (f *filter) kill(modes *linux.KernelTermios) bool {
	n := f.column
	f.column = 0
	erase := modes.ControlCharacters[linux.VERASE]
	if erase == 0 {
		return true
	}
	return f.pump.feed(f.discipline, f.room, bytes.Repeat([]byte{erase}, n))
}
