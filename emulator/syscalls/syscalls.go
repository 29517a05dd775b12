// Package syscalls gives guests the system calls that the Sentry answers otherwise
// than a kernel of their own would: those that stop the machine, speak to the kernel
// log, set the clock, and name the kernel.
package syscalls

import (
	"sync"

	"gvisor.dev/gvisor/pkg/abi"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	_ "gvisor.dev/gvisor/pkg/sentry/syscalls/linux" // the table that is changed here

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/tty"
	"github.com/umlkit/umlkit/emulator/uevent"
)

// Machine is what system calls ask of the machine around a kernel. Its methods are
// called by any number of tasks at once and do not wait.
type Machine interface {
	// Restart, Halt and PowerOff end the kernel; only the first call counts.
	Restart()
	Halt()
	PowerOff()
	// SetCtrlAltDel says whether ctrl-alt-del restarts at once (true) or is
	// init's business.
	SetCtrlAltDel(restart bool)
	// Log is the kernel log.
	Log() *klog.Log
	// SetTime sets the guest's wall clock, in nanoseconds since 1970.
	SetTime(ns int64)
	// Memory is how much memory the guest has, how much of it is free, and how much is
	// shared, in bytes.
	Memory() (total, free, shared int64)
	// Uevents is where the kernel tells of its devices.
	Uevents() *uevent.Bus
	// Room is the error of a system call that begins a task, if the host does not let
	// another run.
	Room() error
}

// machines finds the machine of a kernel.
var machines sync.Map // *kernel.Kernel -> Machine

// Attach makes m the machine of k, before k has tasks.
func Attach(k *kernel.Kernel, m Machine) { machines.Store(k, m) }

// Detach forgets the machine of k, after k's tasks are gone.
func Detach(k *kernel.Kernel) { machines.Delete(k) }

func machineOf(t *kernel.Task) Machine {
	m, ok := machines.Load(t.Kernel())
	if !ok {
		// A task that outlived its machine: there is nothing to ask for.
		return nobody{}
	}
	return m.(Machine)
}

// nobody is the machine of a task that outlived its own.
type nobody struct{}

func (nobody) Restart()           {}
func (nobody) Halt()              {}
func (nobody) PowerOff()          {}
func (nobody) SetCtrlAltDel(bool) {}
func (nobody) Log() *klog.Log     { return klog.New(klog.Options{}) }
func (nobody) SetTime(int64)      {}

// Memory gives none.
func (nobody) Memory() (total, free, shared int64) { return 0, 0, 0 }

// Uevents gives no bus: the socket is the Sentry's.
func (nobody) Uevents() *uevent.Bus { return nil }

// Room gives some.
func (nobody) Room() error { return nil }

// overrides are our system calls, by name. The table of each architecture says which
// numbers they have.
var overrides = map[string]kernel.SyscallFn{
	"uname":         uname,
	"sysinfo":       sysinfo,
	"reboot":        reboot,
	"syslog":        syslog,
	"clock_settime": clockSettime,
	"settimeofday":  settimeofday,
	"mount":         mount,
	"umount2":       umount,
	"fallocate":     fallocate,
	"vhangup":       vhangup,
	"init_module":   noModules,
	"finit_module":  noModules,
	"delete_module": noModules,
	"swapon":        noSwap,
	"swapoff":       noSwap,
	"acct":          noAccounting,
	"add_key":       noKeys,
	"request_key":   noKeys,
	"keyctl":        noKeys,
	"socket":        openSocket,
	"setsockopt":    setsockopt,
	"fcntl":         fcntl,
	"ioctl":         ioctl,
	"setsid":        setsid,
}

// kills are the system calls that signal one process or thread, by name, with the places
// of its number and of the signal's among the arguments.
var kills = map[string]struct{ pid, sig int }{
	"kill":              {0, 1},
	"tkill":             {0, 1},
	"tgkill":            {1, 2},
	"rt_sigqueueinfo":   {0, 1},
	"rt_tgsigqueueinfo": {1, 2},
}

// begins are the system calls that begin a task, by name.
var begins = map[string]bool{"fork": true, "vfork": true, "clone": true, "clone3": true}

// whereRoom makes of a system call that begins a task one that has the guest try again
// later when the host lets no more run, as Linux does at a limit. Process 1 may take what is spared
// for the rest, so that it can end the others.
func whereRoom(call kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if !t.ThreadGroup().IsInitIn(t.Kernel().RootPIDNamespace()) {
			if err := machineOf(t).Room(); err != nil {
				return 0, nil, err
			}
		}
		return call(t, sysno, args)
	}
}

var install sync.Once

// gVisor's own functions that ours fall back to.
var (
	sentryMount      kernel.SyscallFn
	sentryUmount     kernel.SyscallFn
	sentryFallocate  kernel.SyscallFn
	sentrySocket     kernel.SyscallFn
	sentrySetsockopt kernel.SyscallFn
	sentryFcntl      kernel.SyscallFn
	sentryIoctl      kernel.SyscallFn
	sentrySetsid     kernel.SyscallFn
)

// Install puts the system calls into the Sentry's table, once in a process.
func Install() {
	install.Do(func() {
		table, ok := kernel.LookupSyscallTable(abi.Linux, arch.Host)
		if !ok {
			panic("the Sentry has no system call table for this architecture")
		}
		for number, call := range table.Table {
			ours, ok := overrides[call.Name]
			if at, kills := kills[call.Name]; kills {
				ours, ok = spareInit(call.Fn, at.pid, at.sig), true
			}
			if begins[call.Name] {
				ours, ok = whereRoom(call.Fn), true
			}
			if !ok {
				continue
			}
			switch call.Name {
			case "mount":
				sentryMount = call.Fn
			case "umount2":
				sentryUmount = call.Fn
			case "fallocate":
				sentryFallocate = call.Fn
			case "socket":
				sentrySocket = call.Fn
			case "setsockopt":
				sentrySetsockopt = call.Fn
			case "fcntl":
				sentryFcntl = call.Fn
			case "ioctl":
				sentryIoctl = call.Fn
			case "setsid":
				sentrySetsid = call.Fn
			}
			call.Fn = ours
			table.Table[number] = call
		}
		// Init alone fills the array that calls are looked up in.
		table.Init()
	})
}

// privileged refuses a task without the capability in the first user namespace.
func privileged(t *kernel.Task, capability linux.Capability) error {
	if !t.HasRootCapability(capability) {
		return linuxerr.EPERM
	}
	return nil
}

// syslog implements syslog(2).
func syslog(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	return machineOf(t).Log().Syslog(t, sysno, args)
}

// vhangup implements vhangup(2): the controlling terminal of the caller's session
// goes away from it.
func vhangup(t *kernel.Task, _ uintptr, _ arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	return 0, nil, tty.Hangup(t)
}

// noModules implements init_module(2), finit_module(2) and delete_module(2) of a kernel
// whose modules_disabled is 1: not even root may.
func noModules(*kernel.Task, uintptr, arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	return 0, nil, linuxerr.EPERM
}

// noSwap implements swapon(2) and swapoff(2): the guest's memory is the host's to
// swap.
func noSwap(t *kernel.Task, _ uintptr, _ arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	if err := privileged(t, linux.CAP_SYS_ADMIN); err != nil {
		return 0, nil, err
	}
	return 0, nil, linuxerr.EINVAL
}

// noAccounting implements acct(2) of a kernel without BSD process accounting.
func noAccounting(t *kernel.Task, _ uintptr, _ arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	if err := privileged(t, linux.CAP_SYS_PACCT); err != nil {
		return 0, nil, err
	}
	return 0, nil, linuxerr.ENOSYS
}

// noKeys implements add_key(2), request_key(2) and keyctl(2) of a kernel without
// keyrings. The Sentry has some of keyctl: enough for systemd to take it that keyrings
// are there, and to refuse to mount anything when the rest fails.
func noKeys(*kernel.Task, uintptr, arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	return 0, nil, linuxerr.ENOSYS
}
