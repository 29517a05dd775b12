package emulator

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/umlkit/umlkit/emulator/hwrng"
	"github.com/umlkit/umlkit/emulator/procfs"
)

// activity counts what a kernel has done since its boot, for /proc/stat and /proc/vmstat.
// The Sentry counts none of it.
type activity struct {
	// tasks were begun; switches is how often another task's code ran than before,
	// faults how often a page was not there, kills how many died for want of memory.
	tasks, switches, faults, kills atomic.Uint64
	// running is whose code ran last.
	running atomic.Pointer[countedContext]
	// contexts are those of the tasks that there are.
	contexts sync.Map // *kernel.Task -> platform.Context
}

// complete adds to a copy of a task's registers what the platform has not told yet.
func (a *activity) complete(t *kernel.Task, registers *arch.Context64) {
	c, _ := a.contexts.Load(t)
	if c, ok := c.(interface{ Look(*arch.Context64) }); ok {
		c.Look(registers)
	}
}

// countedPlatform is a platform that counts what passes through it.
type countedPlatform struct {
	platform.Platform
	activity *activity
}

// NewContext implements platform.Platform. Each task has one from its beginning.
func (p *countedPlatform) NewContext(ctx context.Context) platform.Context {
	p.activity.tasks.Add(1)
	c := &countedContext{Context: p.Platform.NewContext(ctx), activity: p.activity, task: kernel.TaskFromContext(ctx)}
	if bounded, ok := c.Context.(*boundedContext); ok {
		p.activity.contexts.Store(c.task, bounded.Context)
	}
	return c
}

type countedContext struct {
	platform.Context
	activity *activity
	task     *kernel.Task
}

// Switch implements platform.Context.
func (c *countedContext) Switch(ctx context.Context, mm platform.MemoryManager, ac *arch.Context64, cpu int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	if c.activity.running.Load() != c {
		c.activity.running.Store(c)
		c.activity.switches.Add(1)
	}
	info, at, err := c.Context.Switch(ctx, mm, ac, cpu)
	if err == platform.ErrContextSignal && info != nil && info.Signo == int32(linux.SIGSEGV) {
		c.activity.faults.Add(1)
	}
	return info, at, err
}

// Release implements platform.Context.
func (c *countedContext) Release() {
	c.activity.running.CompareAndSwap(c, nil)
	c.activity.contexts.Delete(c.task)
	c.Context.Release()
}

// statistics writes /proc/stat. Time is that of all processors together: the Sentry does
// not tell them apart. Interrupts are those of the file /proc/interrupts.
func (s *sentry) statistics(b *bytes.Buffer, interrupts procfs.Source) {
	ticks := func(d time.Duration) int64 { return int64(d / (10 * time.Millisecond)) }
	cpus := int64(s.m.config.CPUs)
	used := s.k.CPUStats()
	user, system := ticks(used.UserTime), ticks(used.SysTime)
	idle := max(ticks(time.Duration(s.k.MonotonicClock().Now().Nanoseconds()))*cpus-user-system, 0)
	fmt.Fprintf(b, "cpu  %d 0 %d %d 0 0 0 0 0 0\n", user, system, idle)
	share := func(n, cpu int64) int64 {
		if cpu == 0 {
			return n/cpus + n%cpus
		}
		return n / cpus
	}
	for cpu := range cpus {
		fmt.Fprintf(b, "cpu%d %d 0 %d %d 0 0 0 0 0 0\n", cpu, share(user, cpu), share(system, cpu), share(idle, cpu))
	}
	total, each := countInterrupts(s.ctx, interrupts)
	fmt.Fprintf(b, "intr %d%s\nctxt %d\nbtime %d\nprocesses %d\nprocs_running %d\nprocs_blocked %d\n", total, each,
		s.activity.switches.Load(), s.k.Timekeeper().BootTime().Seconds(), s.activity.tasks.Load(), s.k.RunningTasks(), s.k.BlockedTasks())
	// There are no soft interrupts here.
	fmt.Fprintf(b, "softirq 0%s\n", strings.Repeat(" 0", linux.NumSoftIRQ))
}

// countInterrupts reads /proc/interrupts: the sum, and the counts of all numbers, each
// behind a space.
func countInterrupts(ctx context.Context, source procfs.Source) (total int64, each string) {
	var text bytes.Buffer
	if source == nil || source(ctx, &text) != nil {
		return 0, ""
	}
	var counts []int64
	for line := range strings.Lines(text.String()) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		number, err := strconv.ParseUint(strings.TrimSuffix(fields[0], ":"), 10, 16)
		if err != nil {
			continue
		}
		count, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		for len(counts) <= int(number) {
			counts = append(counts, 0)
		}
		counts[number] = count
		total += count
	}
	for _, n := range counts {
		each += " " + strconv.FormatInt(n, 10)
	}
	return total, each
}

// memoryEvents writes /proc/vmstat: what of Linux's list there is here.
func (s *sentry) memoryEvents(b *bytes.Buffer) {
	m := s.memoryUse()
	read, written := s.m.disks.Traffic()
	for _, line := range []struct {
		name string
		n    int64
	}{
		{"nr_free_pages", m.free / hostarch.PageSize}, {"nr_anon_pages", m.anon / hostarch.PageSize},
		{"nr_mapped", m.mapped / hostarch.PageSize}, {"nr_file_pages", (m.cache + m.shared) / hostarch.PageSize},
		{"nr_dirty", m.dirty / hostarch.PageSize}, {"nr_writeback", m.writeback / hostarch.PageSize}, {"nr_shmem", m.shared / hostarch.PageSize},
		// In KiB.
		{"pgpgin", read / 1024}, {"pgpgout", written / 1024}, {"pswpin", 0}, {"pswpout", 0},
		{"pgfault", int64(s.activity.faults.Load())}, {"oom_kill", int64(s.activity.kills.Load())},
	} {
		fmt.Fprintf(b, "%s %d\n", line.name, line.n)
	}
}

// misc writes /proc/misc: the devices of major number 10 that the kernel has.
func (s *sentry) misc(b *bytes.Buffer) {
	if spec, _ := s.m.generator.Describe(""); spec != "" {
		fmt.Fprintf(b, "%3d %s\n", hwrng.Minor, "hw_random")
	}
	b.WriteString("200 net/tun\n229 fuse\n")
}
