package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// spareInit makes of a system call that signals one process or thread one that leaves
// init alone, as Linux does: a signal that init neither handles nor holds back is lost.
// The arguments pid and sig say where the call has them.
func spareInit(call kernel.SyscallFn, pid, sig int) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if id := args[pid].Int(); id > 0 {
			target := t.PIDNamespace().TaskWithID(kernel.ThreadID(id))
			if target != nil && spared(t, target, linux.Signal(args[sig].Int())) {
				// Who may send it and to whom is still asked.
				args[sig].Value = 0
			}
		}
		return call(t, sysno, args)
	}
}

// spared says whether target is init to t and does nothing about the signal.
func spared(t, target *kernel.Task, sig linux.Signal) bool {
	init := target.ThreadGroup()
	if !init.IsInitIn(t.PIDNamespace()) || !sig.IsValid() {
		return false
	}
	action, err := init.SetSigAction(sig, nil)
	return err == nil && action.Handler == linux.SIG_DFL && target.SignalMask()&linux.SignalSetOf(sig) == 0
}
