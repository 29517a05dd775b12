package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// The numbers of reboot(2), from include/uapi/linux/reboot.h.
const (
	rebootMagic1  = 0xfee1dead
	rebootMagic2  = 672274793
	rebootMagic2A = 85072278
	rebootMagic2B = 369367448
	rebootMagic2C = 537993216

	rebootRestart  = 0x01234567
	rebootRestart2 = 0xa1b2c3d4
	rebootHalt     = 0xcdef0123
	rebootPowerOff = 0x4321fedc
	rebootCADOn    = 0x89abcdef
	rebootCADOff   = 0x00000000
)

// reboot implements reboot(2).
func reboot(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	if !t.HasCapabilityIn(linux.CAP_SYS_BOOT, t.PIDNamespace().UserNamespace()) {
		return 0, nil, linuxerr.EPERM
	}
	if args[0].Uint() != rebootMagic1 {
		return 0, nil, linuxerr.EINVAL
	}
	switch args[1].Uint() {
	case rebootMagic2, rebootMagic2A, rebootMagic2B, rebootMagic2C:
	default:
		return 0, nil, linuxerr.EINVAL
	}
	command := args[2].Uint()
	if t.PIDNamespace() != t.Kernel().RootPIDNamespace() {
		return rebootNamespace(t, command)
	}
	m := machineOf(t)
	switch command {
	case rebootRestart:
		m.Restart()
	case rebootRestart2:
		if _, err := t.CopyInString(args[3].Pointer(), 256); err != nil {
			return 0, nil, err
		}
		m.Restart()
	case rebootHalt:
		m.Halt()
	case rebootPowerOff:
		m.PowerOff()
	case rebootCADOn:
		m.SetCtrlAltDel(true)
		return 0, nil, nil
	case rebootCADOff:
		m.SetCtrlAltDel(false)
		return 0, nil, nil
	default:
		return 0, nil, linuxerr.EINVAL
	}
	// The caller never returns: it ends with every other task.
	return 0, kernel.CtrlDoExit, nil
}

// rebootNamespace is reboot(2) in a PID namespace that is not the first: its init is
// killed, and its parent sees by which signal what was asked for.
func rebootNamespace(t *kernel.Task, command uint32) (uintptr, *kernel.SyscallControl, error) {
	var signal linux.Signal
	switch command {
	case rebootRestart, rebootRestart2:
		signal = linux.SIGHUP
	case rebootHalt, rebootPowerOff:
		signal = linux.SIGINT
	default:
		return 0, nil, linuxerr.EINVAL
	}
	init := t.PIDNamespace().TaskWithID(1)
	if init == nil {
		return 0, nil, linuxerr.ESRCH
	}
	init.PrepareGroupExit(linux.WaitStatusTerminationSignal(signal))
	return 0, kernel.CtrlDoExit, nil
}
