package emulator

import (
	"fmt"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/reach"
	"github.com/umlkit/umlkit/emulator/syscalls"
)

// sysrqHelp is what an unknown key prints, in the words of Linux's sysrq.
const sysrqHelp = "HELP : loglevel(0-9) reboot(b) crash(c) terminate-all-tasks(e) kill-all-tasks(i) show-backtrace-all-active-cpus(l) " +
	"show-memory-usage(m) poweroff(o) sync(s) show-task-states(t) unmount(u) show-blocked-tasks(w)"

// sysrqAllowed are the bits of /proc/sys/kernel/sysrq that allow a key, as Linux has
// them; 1 allows them all. Who may write to /proc/sysrq-trigger is not asked.
var sysrqAllowed = map[byte]int32{
	'0': 2, '1': 2, '2': 2, '3': 2, '4': 2, '5': 2, '6': 2, '7': 2, '8': 2, '9': 2,
	'c': 8, 'l': 8, 'm': 8, 't': 8, 'w': 8, 's': 16, 'u': 32, 'e': 64, 'i': 64, 'b': 128, 'o': 128,
}

// keyPressed is sysrq for a key that came from outside: from the management console or
// behind a break on the console's line. The guest may have forbidden it.
func (s *sentry) keyPressed(key byte) string {
	mask := s.sysrqMask.Load()
	if mask == 0 {
		return ""
	}
	if bit, ok := sysrqAllowed[key]; ok && mask != 1 && mask&bit == 0 {
		return s.saySysrq("This sysrq operation is disabled.")
	}
	return s.sysrq(key)
}

// saySysrq logs what sysrq says.
func (s *sentry) saySysrq(text string) string {
	text = "sysrq: " + text
	s.m.printk(klog.Info, "%s", text)
	return text
}

// sysrq does what a key of the magic sysrq asks for, and returns what it said. Keys that end
// the machine leave the disks as they are, as on Linux, where s and u come before them.
func (s *sentry) sysrq(key byte) string {
	say := s.saySysrq
	switch {
	case key >= '0' && key <= '9':
		text := say("Changing Loglevel")
		s.Log().SetConsoleLevel(int(key - '0'))
		return text
	case key == 'b':
		text := say("Resetting")
		s.request(ending{reason: Halted, restart: true, abrupt: true})
		return text
	case key == 'c':
		text := say("Trigger a crash")
		crash := panicked("sysrq triggered crash")
		crash.abrupt = true
		s.request(*crash)
		return text
	case key == 'o':
		text := say("Power Off")
		s.request(ending{reason: PoweredOff, abrupt: true})
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
	case key == 'u':
		text := say("Emergency Remount R/O")
		go s.remountReadOnly()
		return text
	case key == 'm':
		text := say("Show Memory")
		memory := s.showMemory()
		s.m.printk(klog.Info, "%s", memory)
		return text + "\n" + memory
	case key == 't':
		return say("Show State") + "\n" + s.showTasks("")
	case key == 'w':
		return say("Show Blocked State") + "\n" + s.showTasks("D")
	case key == 'l':
		return say("Show backtrace of all active CPUs") + "\n" + s.showRunning()
	}
	return say(sysrqHelp)
}

// signalAll signals every process but the first.
func (s *sentry) signalAll(signal linux.Signal) {
	for _, tg := range s.k.RootPIDNamespace().ThreadGroups() {
		if tg != s.init {
			_ = tg.SendSignal(&linux.SignalInfo{Signo: int32(signal), Code: linux.SI_KERNEL})
		}
	}
}

// showTasks lists the tasks whose state begins with a letter, all if it is empty.
func (s *sentry) showTasks(state string) string {
	var b strings.Builder
	for _, t := range s.k.RootPIDNamespace().Tasks() {
		var result int64
		if t.TaskGoroutineState() == kernel.TaskGoroutineStopped {
			result = int64(t.Arch().Return())
		}
		if strings.HasPrefix(taskState(t, result), state) {
			s.writeTask(&b, t, result)
		}
	}
	text := b.String()
	for line := range strings.Lines(text) {
		s.m.printk(klog.Info, "%s", line)
	}
	return text
}

// showRunning shows the tasks that run, and where.
func (s *sentry) showRunning() string {
	root := s.k.RootPIDNamespace()
	var b strings.Builder
	for _, t := range root.Tasks() {
		if !strings.HasPrefix(t.StateStatus(), "R") {
			continue
		}
		if text, err := s.stack(int(root.IDOfTask(t))); err == nil {
			b.WriteString(text)
		}
	}
	text := b.String()
	for line := range strings.Lines(text) {
		s.m.printk(klog.Info, "%s", line)
	}
	return text
}

// showMemory says what the guest's memory is used for, in the words of /proc/meminfo.
func (s *sentry) showMemory() string {
	mf := s.k.MemoryFile()
	_ = mf.UpdateUsage(nil)
	kinds, total := usage.MemoryAccounting.Copy()
	return fmt.Sprintf("Mem-Info: total:%dkB used:%dkB anon:%dkB pagecache:%dkB mapped:%dkB shmem:%dkB",
		s.memory.size.Load()/1024, total/1024, kinds.Anonymous/1024, kinds.PageCache/1024, kinds.Mapped/1024, kinds.Tmpfs/1024)
}

// remountReadOnly makes every mount of every task read-only, and the disks clean.
func (s *sentry) remountReadOnly() {
	root := s.mounts.Root(s.ctx)
	defer root.DecRef(s.ctx)
	for _, mount := range reach.Mounts(s.ctx, s.k.VFS(), root) {
		if fs, ok := mount.Filesystem().Impl().(syscalls.Remounter); ok {
			if err := fs.Remount(s.ctx, true, ""); err != nil {
				s.m.printk(klog.Err, "Emergency Remount: %s: %v", s.sources.Of(mount.Filesystem()), err)
			}
		}
		mount.DecRef(s.ctx)
	}
	s.m.printk(klog.Info, "Emergency Remount complete")
}
