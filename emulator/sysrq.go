package emulator

import (
	"fmt"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/umlkit/umlkit/emulator/klog"
)

// sysrqHelp is what an unknown key prints, in the words of Linux's sysrq.
const sysrqHelp = "HELP : loglevel(0-9) reboot(b) crash(c) terminate-all-tasks(e) memory-full-oom-kill(f) kill-all-tasks(i) " +
	"sync(s) show-memory-usage(m) poweroff(o) show-task-states(t) unmount(u) show-blocked-tasks(w)"

// sysrq does what a key of the magic sysrq asks for.
func (s *sentry) sysrq(key byte) string {
	say := func(format string, args ...any) string {
		text := "sysrq: " + fmt.Sprintf(format, args...)
		s.m.printk(klog.Info, "%s", text)
		return text
	}
	switch {
	case key >= '0' && key <= '9':
		text := say("Changing Loglevel")
		s.Log().SetConsoleLevel(int(key - '0'))
		return text
	case key == 'b':
		text := say("Resetting")
		s.Restart()
		return text
	case key == 'c':
		text := say("Trigger a crash")
		s.request(*panicked("sysrq triggered crash"))
		return text
	case key == 'o':
		text := say("Power Off")
		s.PowerOff()
		return text
	case key == 's':
		text := say("Emergency Sync")
		go func() {
			if err := s.k.VFS().SyncAllFilesystems(s.ctx); err != nil {
				s.m.printk(klog.Err, "Emergency Sync failed: %v", err)
				return
			}
			s.m.printk(klog.Info, "Emergency Sync complete")
		}()
		return text
	case key == 'e':
		text := say("Terminate All Tasks")
		s.signalAll(linux.SIGTERM)
		return text
	case key == 'i':
		text := say("Kill All Tasks")
		s.signalAll(linux.SIGKILL)
		return text
	case key == 't' || key == 'w':
		what := "Show State"
		if key == 'w' {
			what = "Show Blocked State"
		}
		return say("%s", what) + "\n" + s.showTasks(key == 'w')
	}
	return say("%s", sysrqHelp)
}

// signalAll signals every process but the first.
func (s *sentry) signalAll(signal linux.Signal) {
	for _, tg := range s.k.RootPIDNamespace().ThreadGroups() {
		if tg != s.init {
			_ = tg.SendSignal(&linux.SignalInfo{Signo: int32(signal), Code: linux.SI_KERNEL})
		}
	}
}

// showTasks lists the tasks, or those in a wait that no signal ends.
func (s *sentry) showTasks(blocked bool) string {
	root := s.k.RootPIDNamespace()
	var b strings.Builder
	for _, t := range root.Tasks() {
		state := t.StateStatus()
		if blocked && !strings.HasPrefix(state, "D") {
			continue
		}
		parent := kernel.ThreadID(0)
		if p := t.Parent(); p != nil {
			parent = root.IDOfTask(p)
		}
		fmt.Fprintf(&b, "task:%-15s state:%-14s pid:%-5d ppid:%-5d\n", t.Name(), state, root.IDOfTask(t), parent)
	}
	text := b.String()
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if line != "" {
			s.m.printk(klog.Info, "%s", line)
		}
	}
	return text
}
