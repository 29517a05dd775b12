package tty

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/waiter"
)

// rootContext is a context with root's credentials over another.
type rootContext struct {
	context.Context
	root *auth.Credentials
}

// Value implements context.Context.Value.
func (c rootContext) Value(key any) any {
	if key == auth.CtxCredentials {
		return c.root
	}
	return c.Context.Value(key)
}

// acquire makes the terminal the controlling terminal of the task's session, as
// TIOCSCTTY does.
func (t *terminal) acquire(task *kernel.Task, steal, readable bool) error {
	tg := task.ThreadGroup()
	switch current := tg.TTY(); {
	case current == t.tty:
		return nil
	case current != nil:
		return linuxerr.EPERM
	}
	var ctx context.Context = task
	if owner := t.tty.ThreadGroup(); owner != nil && owner.TTY() != t.tty {
		// The Sentry never forgets a session that gave the terminal up: it must be
		// stolen from nobody.
		steal, ctx = true, rootContext{task, t.all.root}
	}
	if err := tg.SetControllingTTY(ctx, t.tty, steal, readable); err != nil {
		// The Sentry has EINVAL here for those who lead no session.
		if linuxerr.Equals(linuxerr.EINVAL, err) {
			return linuxerr.EPERM
		}
		return err
	}
	if p := t.running(); p != nil {
		// Of terminals that share a descriptor, the one with the newest session has
		// the input.
		p.channel.Focus()
	}
	t.burial.Lock()
	t.leader = tg
	t.burial.Unlock()
	go func() {
		tg.WaitExited()
		t.bury()
	}()
	return nil
}

// bury hangs the terminal up if its session's leader has ended. The Sentry only forgets
// the leader then. Whoever opens the terminal does so first, because the next session
// may come before anyone has noticed.
func (t *terminal) bury() {
	t.burial.Lock()
	defer t.burial.Unlock()
	if leader := t.leader; leader != nil && leader.Leader().ExitState() >= kernel.TaskExitZombie && leader.Count() <= 1 {
		t.leader = nil
		t.die()
		t.disperse(leader)
		t.wake()
	}
}

// disperse takes the terminal from what is left of the leader's session, and signals the
// foreground.
func (t *terminal) disperse(leader *kernel.ThreadGroup) {
	var foreground *kernel.ProcessGroup
	for _, tg := range leader.TaskSet().Root.ThreadGroups() {
		if tg == leader || tg.TTY() != t.tty || tg.Session() != leader.Session() {
			continue
		}
		if pg, err := tg.ForegroundProcessGroup(t.tty); err == nil {
			foreground = pg
		}
		_ = tg.ReleaseControllingTTY(t.all.ctx, t.tty)
	}
	if foreground != nil {
		_ = foreground.SendSignal(kernel.SignalInfoPriv(linux.SIGHUP))
		_ = foreground.SendSignal(kernel.SignalInfoPriv(linux.SIGCONT))
	}
}

// hangup ends the terminal's session and makes every open file description of it dead,
// but those of /dev/console.
func (t *terminal) hangup(ctx context.Context) {
	t.die()
	if owner := t.tty.ThreadGroup(); owner != nil && owner.TTY() == t.tty {
		// Linux signals the leader; the Sentry signals the foreground, in which the
		// leader need not be.
		foreground, err := owner.ForegroundProcessGroup(t.tty)
		if err == nil && foreground != owner.ProcessGroup() {
			_ = owner.SendSignal(kernel.SignalInfoPriv(linux.SIGHUP))
			_ = owner.SendSignal(kernel.SignalInfoPriv(linux.SIGCONT))
		}
		_ = owner.ReleaseControllingTTY(ctx, t.tty)
	}
	t.wake()
}

// die makes every open file description dead, but those of /dev/console.
func (t *terminal) die() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.generation++
}

// wake wakes all who wait on the terminal, after it hung up.
func (t *terminal) wake() {
	t.discipline.Flush()
	t.discipline.waiters.Notify(waiter.EventHUp | waiter.EventErr | waiter.ReadableEvents | waiter.WritableEvents)
}

// checkChange stops a task of a background process group, or refuses it: sig is SIGTTIN
// for one that reads, SIGTTOU for one that changes something.
func (t *terminal) checkChange(ctx context.Context, sig linux.Signal) error {
	task := kernel.TaskFromContext(ctx)
	if task == nil || task.ThreadGroup().TTY() != t.tty {
		return nil
	}
	return t.tty.CheckChange(ctx, sig)
}

// foreground is the foreground process group as the task's TIOCGPGRP sees it.
func (t *terminal) foreground(task *kernel.Task) (kernel.ProcessGroupID, error) {
	pg, err := task.ThreadGroup().ForegroundProcessGroup(t.tty)
	if err != nil || pg == nil {
		return 0, err
	}
	return task.PIDNamespace().IDOfProcessGroup(pg), nil
}

// session is the session as the task's TIOCGSID sees it.
func (t *terminal) session(task *kernel.Task) (kernel.SessionID, error) {
	if task.ThreadGroup().TTY() != t.tty {
		return 0, linuxerr.ENOTTY
	}
	owner := t.tty.ThreadGroup()
	if owner == nil {
		return 0, linuxerr.ENOTTY
	}
	return task.PIDNamespace().IDOfSession(owner.Session()), nil
}
