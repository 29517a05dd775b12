package emulator

import (
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/uevent"
	"github.com/umlkit/umlkit/mconsole"
)

// say prints a kernel's last words.
func (m *Machine) say(e ending) {
	switch {
	case e.reason == Panicked:
		m.printk(klog.Emerg, "Kernel panic - not syncing: %s", e.message)
		m.notify(mconsole.NotifyPanic, e.message)
	case e.restart:
		m.printk(klog.Emerg, "reboot: Restarting system")
	case e.reason == Halted:
		m.printk(klog.Emerg, "reboot: System halted")
	case e.reason == PoweredOff:
		m.printk(klog.Emerg, "reboot: Power down")
	}
}

// again reports whether to boot again after e, and waits before that as panic= says. A
// machine that the host ended meanwhile does not, and e is that end.
func (m *Machine) again(e *ending) bool {
	if m.config.NoReboot {
		return false
	}
	var wait time.Duration
	if e.reason == Panicked {
		seconds := m.panicWait.Load()
		if seconds == 0 {
			return false
		}
		if seconds > 0 {
			m.printk(klog.Emerg, "Rebooting in %d seconds..", seconds)
			wait = time.Duration(seconds) * time.Second
		}
	} else if !e.restart {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-m.terminated:
	case asked := <-m.resting:
		return m.instead(e, asked)
	default:
		select {
		case <-timer.C:
			return true
		case asked := <-m.resting:
			return m.instead(e, asked)
		case <-m.terminated:
		}
	}
	*e = ending{reason: Signalled}
	return false
}

// instead has the machine end as the management console asks while no kernel runs, and
// reports whether to boot again.
func (m *Machine) instead(e *ending, asked ending) bool {
	m.say(asked)
	*e = asked
	return asked.restart
}

// request asks for the kernel's end. The first request counts.
func (s *sentry) request(e ending) {
	select {
	case s.end <- e:
	default:
	}
	// The first program's console may be waiting for a client.
	if s.terminals != nil {
		s.terminals.Interrupt()
	}
}

// Restart implements syscalls.Machine.
func (s *sentry) Restart() { s.request(ending{reason: Halted, restart: true}) }

// Halt implements syscalls.Machine.
func (s *sentry) Halt() { s.request(ending{reason: Halted}) }

// PowerOff implements syscalls.Machine.
func (s *sentry) PowerOff() { s.request(ending{reason: PoweredOff}) }

// SetCtrlAltDel implements syscalls.Machine. Linux starts out restarting at once.
func (s *sentry) SetCtrlAltDel(restart bool) { s.askInit.Store(!restart) }

// Log implements syscalls.Machine.
func (s *sentry) Log() *klog.Log { return s.m.log.Load() }

// Uevents implements syscalls.Machine.
func (s *sentry) Uevents() *uevent.Bus { return s.uevents }

// Room implements syscalls.Machine. Of the platforms ours alone knows.
func (s *sentry) Room() error {
	if p, ok := s.m.platform.(interface{ Lacks(func() string) string }); ok {
		if lacks := p.Lacks(s.m.room.lacks); lacks != "" {
			return s.m.refuse("the host has no more " + lacks)
		}
	}
	return nil
}

// ctrlAltDel is what the keys do: init gets a SIGINT if it asked for that, else the
// machine restarts.
func (s *sentry) ctrlAltDel() {
	if !s.askInit.Load() || s.init == nil {
		s.Restart()
		return
	}
	_ = s.init.SendSignal(&linux.SignalInfo{Signo: int32(linux.SIGINT), Code: linux.SI_KERNEL})
}
