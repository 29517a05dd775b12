package emulator

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/reach"
)

// memory is what a kernel's guests may use together: mem=, and what the management
// console adds and takes. The Sentry itself knows no bound. Guests get pages by a fault
// or a system call, and so each task looks, before it runs on, whether that was too
// much; one that finds it was makes room, as Linux does, before it goes on.
type memory struct {
	s    *sentry
	file *pgalloc.MemoryFile
	fd   int
	// size is the bound in bytes.
	size atomic.Int64
	// shared is whether the file lies in a filesystem that others may fill.
	shared bool

	// room is held by the task that makes room.
	room sync.Mutex
	// dying is whom a task killed for it, until there is room.
	dying atomic.Pointer[kernel.ThreadGroup]
}

// keepFree is how much of the memory file's filesystem stays free. A page that finds it
// full is a bus error, in the guest or in the kernel; before that comes, guests have
// run out of memory.
const keepFree = 4 << 20

// used is how many bytes the guests' memory takes, and bound how many it may take.
func (m *memory) used() (used, bound int64) {
	bound = m.size.Load()
	var st unix.Stat_t
	if unix.Fstat(m.fd, &st) != nil {
		return 0, bound
	}
	used = st.Blocks * 512
	if m.shared {
		var fs unix.Statfs_t
		if unix.Fstatfs(m.fd, &fs) == nil && fs.Blocks != 0 {
			bound = min(bound, max(used+int64(fs.Bavail)*fs.Bsize-keepFree, 0))
		}
	}
	return used, bound
}

// boundedPlatform is a platform whose guests stay within the memory.
type boundedPlatform struct {
	platform.Platform
	memory *memory
}

// NewContext implements platform.Platform.
func (p *boundedPlatform) NewContext(ctx context.Context) platform.Context {
	return &boundedContext{Context: p.Platform.NewContext(ctx), memory: p.memory}
}

type boundedContext struct {
	platform.Context
	memory *memory
	// calls counts the system calls since the last look, faulted is whether the guest
	// stopped for a fault, and since is when it stopped.
	calls   uint8
	faulted bool
	since   time.Time
}

// A look costs a system call of the host's, so a task does not look after each of its
// own: most allocate nothing. One that gets much memory takes its time.
const (
	callsPerLook = 16
	longCall     = 200 * time.Microsecond
)

// Switch implements platform.Context.
func (c *boundedContext) Switch(ctx context.Context, mm platform.MemoryManager, ac *arch.Context64, cpu int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	if c.calls++; c.faulted || c.calls >= callsPerLook || time.Since(c.since) > longCall {
		c.calls = 0
		if used, bound := c.memory.used(); used > bound {
			c.memory.makeRoom(ctx)
		}
	}
	info, at, err := c.Context.Switch(ctx, mm, ac, cpu)
	c.faulted = err == platform.ErrContextSignal
	c.since = time.Now()
	return info, at, err
}

// lastWait is how long a want of memory lasts, with nobody to kill, before that is a
// panic.
const lastWait = time.Second

// makeRoom returns when the guests are within the bound again, or the task that asks is
// to die for it.
func (m *memory) makeRoom(ctx context.Context) {
	t := kernel.TaskFromContext(ctx)
	if t == nil {
		return // no guest's business
	}
	for !m.room.TryLock() {
		if m.dying.Load() == t.ThreadGroup() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	defer m.room.Unlock()
	for end := time.Now().Add(lastWait); ; {
		victim := m.dying.Load()
		switch {
		case victim == t.ThreadGroup():
			return
		case victim != nil && m.gone(victim) || m.reclaim():
			m.dying.Store(nil)
			return
		}
		worst := m.worst()
		if worst == nil && time.Now().Before(end) {
			// What ends has no memory left to be seen, and may not have let go of all.
			time.Sleep(time.Millisecond)
			continue
		}
		if worst == nil {
			m.s.m.printk(klog.Err, "Out of memory and no killable processes...")
			m.s.request(*panicked("System is deadlocked on memory"))
			return
		}
		m.dying.Store(worst.ThreadGroup())
		m.kill(t, worst)
	}
}

// reclaim gives back what the kernel keeps for speed alone, and what is given back but
// not yet returned to the host, and reports whether that was enough.
func (m *memory) reclaim() bool {
	m.file.StartEvictions()
	m.file.WaitForEvictions()
	if dirty, _ := usage.DirtyMemoryAccounting.Copy(); dirty > 0 {
		_ = m.s.k.VFS().SyncAllFilesystems(m.s.ctx)
		m.file.StartEvictions()
		m.file.WaitForEvictions()
	}
	return m.settles()
}

// settles waits while freed pages return to the host, and reports whether there is room
// then.
func (m *memory) settles() bool {
	for {
		// In this order: what is released between the two makes room.
		releasing, err := reach.Releasing(m.file)
		if used, bound := m.used(); used <= bound {
			return true
		}
		if !releasing || err != nil {
			return false
		}
		time.Sleep(time.Millisecond)
	}
}

// gone waits for the end of a process that was killed, and reports whether that makes
// room.
func (m *memory) gone(victim *kernel.ThreadGroup) bool {
	for end := time.Now().Add(taskEnd); m.lives(victim) && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if used, bound := m.used(); used <= bound {
			return true
		}
	}
	return m.settles()
}

// lives reports whether a task of a process still runs.
func (m *memory) lives(tg *kernel.ThreadGroup) bool {
	for _, t := range m.s.k.RootPIDNamespace().Tasks() {
		if t.ThreadGroup() == tg && t.ExitState() < kernel.TaskExitZombie {
			return true
		}
	}
	return false
}

// worst is a task of the process that Linux would kill: the one with the most memory, as its
// oom_score_adj shifts that, never process 1 and none that is at -1000.
func (m *memory) worst() *kernel.Task {
	var worst *kernel.Task
	most := int64(0)
	// Every task is asked: a process outlives the end of its first thread.
	for _, t := range m.s.k.RootPIDNamespace().Tasks() {
		if t.ThreadGroup() == m.s.init || t.OOMScoreAdj() <= -1000 {
			continue
		}
		rss, _ := sizes(t)
		if rss == 0 {
			continue
		}
		points := max(rss+int64(t.OOMScoreAdj())*(m.size.Load()/1000), 1)
		if points > most {
			worst, most = t, points
		}
	}
	return worst
}

// sizes are the resident and the virtual size of a task's memory in bytes, 0 of one that
// is ending.
func sizes(t *kernel.Task) (rss, vm int64) {
	t.WithMuLocked(func(t *kernel.Task) {
		if mm := t.MemoryManager(); mm != nil {
			rss, vm = int64(mm.ResidentSetSize()), int64(mm.VirtualMemorySize())
		}
	})
	return rss, vm
}

// kill ends the process of victim, and says so in Linux's words. t asked for the memory.
func (m *memory) kill(t, victim *kernel.Task) {
	root := m.s.k.RootPIDNamespace()
	m.s.m.printk(klog.Warning, "%s invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=%d", t.Name(), t.OOMScoreAdj())
	m.s.m.printk(klog.Info, "%s", m.s.showMemory())
	rss, vm := sizes(victim)
	m.s.m.printk(klog.Err, "Out of memory: Killed process %d (%s) total-vm:%dkB, anon-rss:%dkB, UID:%d oom_score_adj:%d",
		root.IDOfThreadGroup(victim.ThreadGroup()), victim.Name(), vm/1024, rss/1024, victim.Credentials().RealKUID, victim.OOMScoreAdj())
	m.s.activity.kills.Add(1)
	_ = victim.SendGroupSignal(&linux.SignalInfo{Signo: int32(linux.SIGKILL), Code: linux.SI_KERNEL})
}

// Memory implements syscalls.Machine.
func (s *sentry) Memory() (total, free, shared int64) {
	kinds, _ := usage.MemoryAccounting.Copy()
	used, bound := s.memory.used()
	return bound, max(bound-used, 0), int64(kinds.Tmpfs)
}

// memoryUse is what a kernel's memory is used for, in bytes.
type memoryUse struct {
	total, free, cache, shared, anon, mapped, dirty, writeback int64
}

func (s *sentry) memoryUse() memoryUse {
	_ = s.memory.file.UpdateUsage(nil) // what it cannot tell apart yet stays anonymous
	kinds, _ := usage.MemoryAccounting.Copy()
	dirty, writeback := usage.DirtyMemoryAccounting.Copy()
	used, _ := s.memory.used()
	m := memoryUse{total: s.memory.size.Load(), mapped: int64(kinds.Mapped), dirty: int64(dirty), writeback: int64(writeback)}
	m.free = max(m.total-used, 0)
	m.cache = min(int64(kinds.PageCache), used)
	m.shared = min(int64(kinds.Tmpfs), used-m.cache)
	m.anon = used - m.cache - m.shared
	return m
}

// memoryInfo is /proc/meminfo.
func (s *sentry) memoryInfo() string {
	m := s.memoryUse()
	text := ""
	for _, line := range []struct {
		name  string
		bytes int64
	}{
		{"MemTotal", m.total}, {"MemFree", m.free}, {"MemAvailable", min(m.free+max(m.cache-m.dirty, 0), m.total)},
		{"Buffers", 0}, {"Cached", m.cache + m.shared}, {"SwapCached", 0},
		{"Active", m.anon + m.cache/2}, {"Inactive", m.cache - m.cache/2 + m.shared},
		{"Active(anon)", m.anon}, {"Inactive(anon)", m.shared}, {"Active(file)", m.cache / 2}, {"Inactive(file)", m.cache - m.cache/2},
		{"Unevictable", 0}, {"Mlocked", 0}, {"SwapTotal", 0}, {"SwapFree", 0},
		{"Dirty", m.dirty}, {"Writeback", m.writeback},
		{"AnonPages", m.anon}, {"Mapped", m.mapped}, {"Shmem", m.shared},
		{"CommitLimit", m.total / 2},
	} {
		text += fmt.Sprintf("%-16s%8d kB\n", line.name+":", line.bytes/1024)
	}
	return text
}
