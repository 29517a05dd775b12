// Package emulator is the machine: a kernel, its devices and its first program, as
// one ordinary process of the host.
//
// The kernel is gVisor's Sentry as a library. A Machine lives as long as the process
// and boots a kernel, and after a restart another: block devices and consoles outlast
// a restart; tasks, mounts and the kernel log do not. Nothing here ends the process:
// Wait says how the machine ended, and its caller acts on it.
package emulator

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/umlkit/umlkit/emulator/cmdline"
	"github.com/umlkit/umlkit/emulator/fdt"
	"github.com/umlkit/umlkit/emulator/guard"
	"github.com/umlkit/umlkit/emulator/hwrng"
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/line"
	server "github.com/umlkit/umlkit/emulator/mconsole"
	"github.com/umlkit/umlkit/emulator/strace"
	"github.com/umlkit/umlkit/emulator/tty"
	"github.com/umlkit/umlkit/emulator/ubd"
	"github.com/umlkit/umlkit/emulator/vec"
)

// Config is what a command line asks for.
type Config = cmdline.Config

// Reason says why a machine ended.
type Reason int

// The reasons a machine ends for.
const (
	Halted     Reason = iota + 1 // reboot(2) asked to halt, or to restart under noreboot
	PoweredOff                   // reboot(2) asked for the power to be switched off
	Panicked                     // the kernel panicked: no root, no init, init died
	Signalled                    // the host asked, by Terminate
)

// Exit says how a machine ended.
type Exit struct {
	Reason Reason
	// Message is the panic's message.
	Message string
}

// Machine is a machine. Its methods may be called by any number of goroutines.
type Machine struct {
	config   *Config
	platform platform.Platform
	// caughtBy is the platform's name.
	caughtBy string
	// room is what the host has left for processes of guests.
	room  *room
	log   atomic.Pointer[klog.Log]
	disks *ubd.Disks
	// exports are the directories that a hostfs may show.
	exports exports
	// host holds the lines of the terminals, and terminals says which they are.
	host      *line.Host
	terminals tty.Options
	guard     *guard.Guard
	strace    *strace.Tracer
	// tree is the device tree of dtb=, nil without one.
	tree *fdt.Tree
	// vecs and eths are the network devices, eths those in the older words.
	vecs, eths *vec.Driver
	// generator is /dev/hwrng.
	generator *hwrng.Driver
	umid      *umid
	// management is the management console, nil without a directory for it.
	management *server.Server
	// grown ends the youth of the heap.
	grown func()
	// panicWait is panic=, which the guest can change.
	panicWait atomic.Int64

	mu      sync.Mutex
	booted  bool
	running *sentry
	// terminated is closed by Terminate; resting takes another request to end for a
	// moment when no kernel runs.
	terminated chan struct{}
	resting    chan ending

	done chan struct{}
	exit Exit
	err  error
}

// New readies a machine: it opens what the configuration names, gives up every
// capability of the process for good and starts what catches system calls. A process
// makes one machine.
func New(config *Config) (*Machine, error) {
	m := &Machine{
		config:     config,
		grown:      young(),
		host:       line.NewHost(),
		terminated: make(chan struct{}),
		resting:    make(chan ending, 1),
		done:       make(chan struct{}),
	}
	if err := allowed(config.Memory); err != nil {
		return nil, err
	}
	// Before anything is opened here.
	err := m.host.Confine()
	if err := m.openStrace(); err != nil {
		return nil, err
	}
	m.log.Store(m.newLog())
	m.room = openRoom()
	if err != nil {
		m.printk(klog.Warning, "consoles: %v", err)
	}
	if err := m.wireTerminals(); err != nil {
		return nil, err
	}
	m.panicWait.Store(int64(config.PanicTimeout))
	m.takeUMID()
	m.openTree()
	m.openGenerator()
	m.openDisks()
	m.openNetwork()
	m.openExports()
	m.openManagement()
	for _, step := range []func() error{dropCapabilities, m.guardTerminals, m.startPlatform} {
		if err := step(); err != nil {
			m.close()
			return nil, err
		}
	}
	return m, nil
}

// Boot starts the machine and returns; Wait waits for its end. It is called once.
func (m *Machine) Boot() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.booted {
		return fmt.Errorf("boot: the machine was booted already")
	}
	m.booted = true
	go m.life()
	time.AfterFunc(settleTime, m.settle)
	return nil
}

// Wait returns when the machine has ended, its filesystems are clean and its devices
// closed. The error is a failure of the machine itself, not of the guest.
func (m *Machine) Wait() (Exit, error) {
	<-m.done
	return m.exit, m.err
}

// Halt ends the machine at once, without asking the guest and without syncing its disks.
func (m *Machine) Halt() { m.request(ending{reason: Halted, abrupt: true}) }

// PowerOff ends the machine as if the guest had switched the power off.
func (m *Machine) PowerOff() { m.request(ending{reason: PoweredOff}) }

// Reboot boots the machine again at once, as Halt ends it.
func (m *Machine) Reboot() { m.request(ending{reason: Halted, restart: true, abrupt: true}) }

// Terminate ends the machine on the host's behalf.
func (m *Machine) Terminate() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.terminated:
	default:
		close(m.terminated)
	}
	if m.running != nil {
		m.running.terminals.Interrupt()
	}
}

// Pause stops every task of the guest until Resume. Commands to the machine are still
// obeyed.
func (m *Machine) Pause() { m.hold(true) }

// Resume ends a Pause.
func (m *Machine) Resume() { m.hold(false) }

// hold stops the guest's tasks or lets them go on. It reports whether that changed
// anything.
func (m *Machine) hold(stop bool) bool {
	s := m.current()
	if s == nil {
		return false
	}
	s.holding.Lock()
	defer s.holding.Unlock()
	if s.held == stop || s.over {
		return false
	}
	s.held = stop
	if stop {
		s.k.Pause()
	} else {
		s.k.Unpause()
	}
	return true
}

// request ends the running kernel, or what comes in place of one.
func (m *Machine) request(e ending) {
	if s := m.current(); s != nil {
		s.request(e)
		return
	}
	select {
	case m.resting <- e:
	default:
	}
}

func (m *Machine) current() *sentry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}

func (m *Machine) run(s *sentry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = s
}

// ending is why a kernel ended.
type ending struct {
	reason  Reason
	restart bool
	// abrupt is whether the disks are left as they are, without a sync.
	abrupt  bool
	message string
}

// life boots kernels until one ends for good.
func (m *Machine) life() {
	defer close(m.done)
	for {
		e, again, err := m.once()
		if err != nil {
			m.err = errors.Join(err, m.close())
			return
		}
		if !again {
			m.exit, m.err = Exit{Reason: e.reason, Message: e.message}, m.close()
			return
		}
		m.log.Store(m.newLog())
	}
}

// close gives up all that outlasts a restart.
func (m *Machine) close() error {
	var errs []error
	m.exports.close()
	if err := m.disks.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close the disks: %w", err))
	}
	_ = m.management.Close()
	m.generator.Close()
	m.room.close()
	if err := errors.Join(m.vecs.Close(), m.eths.Close()); err != nil {
		errs = append(errs, fmt.Errorf("close the network devices: %w", err))
	}
	if err := m.strace.Close(); err != nil {
		errs = append(errs, fmt.Errorf("strace: %w", err))
	}
	m.umid.remove()
	if err := m.host.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close the consoles: %w", err))
	}
	m.guard.Dismiss()
	return errors.Join(errs...)
}

// once boots a kernel and waits for its end. It reports whether to boot again.
func (m *Machine) once() (e ending, again bool, err error) {
	s, err := m.newSentry()
	if err != nil {
		return e, false, err
	}
	m.run(s)
	s.addNetwork()
	select {
	case <-m.terminated:
		s.terminals.Interrupt()
	case e := <-m.resting:
		s.request(e)
	default:
	}
	if died := s.start(); died != nil {
		e = *died
	} else {
		select {
		case e = <-s.end:
		case <-m.terminated:
			e = ending{reason: Signalled}
		}
	}
	m.run(nil)
	s.stop(e.abrupt)
	m.say(e)
	again = m.again(&e)
	s.release()
	return e, again, nil
}
