package emulator

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/procfs"
	"github.com/umlkit/umlkit/emulator/syscalls"
	"github.com/umlkit/umlkit/mconsole"
	"github.com/umlkit/umlkit/release"
)

// procOptions are the files of ours in /proc.
func (s *sentry) procOptions() procfs.Options {
	number := func(n int64) procfs.File { return procfs.File{Read: procfs.Text(strconv.FormatInt(n, 10) + "\n")} }
	text := func(t string) procfs.File { return procfs.File{Read: procfs.Text(t)} }
	live := func(f func(*bytes.Buffer)) procfs.File {
		return procfs.File{Read: func(_ context.Context, b *bytes.Buffer) error { f(b); return nil }}
	}
	load := &loadAverage{k: s.k}
	files := map[string]procfs.File{
		"cmdline":     text(s.m.config.String() + "\n"),
		"version":     text(syscalls.ProcVersion()),
		"cpuinfo":     text(s.cpuInfo()),
		"loadavg":     live(load.write),
		"meminfo":     live(func(b *bytes.Buffer) { b.WriteString(s.memoryInfo()) }),
		"uptime":      live(s.uptime),
		"swaps":       {Read: procfs.Text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"), Poller: new(vfs.DynamicBytesPoller)},
		"consoles":    live(s.m.writeConsoles),
		"execdomains": text("0-0\tLinux           \t[kernel]\n"),
		"tty/drivers": text(ttyDrivers),
		"partitions":  live(func(b *bytes.Buffer) { b.Write(s.m.disks.Partitions()) }),
		"misc":        live(s.misc),
		"vmstat":      live(s.memoryEvents),
		"diskstats":   live(func(b *bytes.Buffer) { b.Write(s.m.disks.Diskstats()) }),
		"filesystems": live(s.filesystems),
		"interrupts":  live(s.interrupts),
		"sysrq-trigger": {Perm: 0o200, Write: func(ctx context.Context, text string) error {
			if text != "" {
				s.sysrq(text[0])
			}
			return nil
		}},

		"sys/kernel/osrelease":   text(release.Name + "\n"),
		"sys/kernel/ostype":      text("Linux\n"),
		"sys/kernel/version":     text(syscalls.Version + "\n"),
		"sys/kernel/arch":        text(syscalls.Architecture() + "\n"),
		"sys/kernel/threads-max": number(kernel.TasksLimit),
		"sys/kernel/pid_max": knob(kernel.TasksLimit, maxPIDs,
			func() int64 { return s.pidMax.Load() },
			func(n int64) { s.pidMax.Store(n) }),
		"sys/kernel/ngroups_max":          number(65536),
		"sys/kernel/tainted":              number(0),
		"sys/kernel/modules_disabled":     number(1),
		"sys/kernel/random/poolsize":      number(256),
		"sys/kernel/random/entropy_avail": number(256),
		"sys/kernel/printk":               s.printkFile(),
		"sys/kernel/dmesg_restrict":       s.restrictFile(),
		"sys/kernel/ctrl-alt-del": knob(0, 1,
			func() int64 { return flag(!s.askInit.Load()) },
			func(n int64) { s.askInit.Store(n == 0) }),
		"sys/kernel/panic": knob(math.MinInt32, math.MaxInt32,
			func() int64 { return s.m.panicWait.Load() },
			func(n int64) { s.m.panicWait.Store(n) }),
		"sys/kernel/sysrq": knob(0, 511,
			func() int64 { return int64(s.sysrqMask.Load()) },
			func(n int64) { s.sysrqMask.Store(int32(n)) }),
		"sys/kernel/hostname":        s.nameFile((*kernel.UTSNamespace).HostName, (*kernel.UTSNamespace).SetHostName),
		"sys/kernel/domainname":      s.nameFile((*kernel.UTSNamespace).DomainName, (*kernel.UTSNamespace).SetDomainName),
		"sys/dev/tty/legacy_tiocsti": number(0),
		"sys/fs/file-max":            number(math.MaxInt64),
		"sys/fs/overflowuid":         number(int64(auth.OverflowUID)),
		"sys/fs/overflowgid":         number(int64(auth.OverflowGID)),
	}
	if s.m.tree != nil {
		files["device-tree"] = procfs.File{Link: "/sys/" + treePath}
	}
	files["stat"] = live(func(b *bytes.Buffer) { s.statistics(b, files["interrupts"].Read) })
	if s.m.config.Notify != "" {
		files["mconsole"] = procfs.File{Perm: 0o200, Exact: true, Write: func(_ context.Context, text string) error {
			s.m.notify(mconsole.NotifyUser, text)
			return nil
		}}
	}
	return procfs.Options{Files: files, Log: s.Log(), Sources: &s.sources, Terminal: terminalOf}
}

// maxPIDs is the greatest pid_max on 64 bits.
const maxPIDs = 4 << 20

// ttyDrivers is /proc/tty/drivers, by which ps names terminals.
const ttyDrivers = "/dev/tty             /dev/tty        5       0 system:/dev/tty\n" +
	"/dev/console         /dev/console    5       1 system:console\n" +
	"/dev/ptmx            /dev/ptmx       5       2 system\n" +
	"UML serial line      /dev/ttyS       4 64-127 serial\n" +
	"UML console          /dev/tty        4 0-15 console\n" +
	"pty_slave            /dev/pts      136 0-1048575 pty:slave\n" +
	"pty_master           /dev/ptm      128 0-1048575 pty:master\n"

// cpuInfo is /proc/cpuinfo as User Mode Linux writes it.
func (s *sentry) cpuInfo() string {
	features := s.k.FeatureSet()
	var b bytes.Buffer
	for n := range s.m.config.CPUs {
		fmt.Fprintf(&b, "processor\t: %d\nvendor_id\t: User Mode Linux\nmodel name\t: UML\nmode\t\t: skas\nhost\t\t: %s\n"+
			"fpu\t\t: yes\nflags\t\t: %s\ncache_alignment\t: 64\nbogomips\t: %s\n\n", n, hostName(), features.FlagString(), bogomips())
	}
	return b.String()
}

// uptime writes /proc/uptime. Setting the wall clock does not change it, and what no
// program used counts as idle.
func (s *sentry) uptime(b *bytes.Buffer) {
	up := time.Duration(s.k.MonotonicClock().Now().Nanoseconds())
	used := s.k.CPUStats()
	idle := max(up*time.Duration(s.m.config.CPUs)-used.UserTime-used.SysTime, 0)
	fmt.Fprintf(b, "%.2f %.2f\n", up.Seconds(), idle.Seconds())
}

// filesystems writes /proc/filesystems in Linux's columns.
func (s *sentry) filesystems(b *bytes.Buffer) {
	var all bytes.Buffer
	s.k.VFS().GenerateProcFilesystems(&all)
	lines := strings.Split(strings.TrimSuffix(all.String(), "\n"), "\n")
	sortFilesystems(lines)
	for _, line := range lines {
		fmt.Fprintln(b, line)
	}
}

// loadAverage is the load of the last minutes. It is brought up to date when someone
// reads it, so that an idle machine stays idle: between two readings the load counts
// as even.
type loadAverage struct {
	k *kernel.Kernel

	mu   sync.Mutex
	then time.Duration // monotonic time and used time of the last reading
	used time.Duration
	avg  [3]float64
}

func (l *loadAverage) write(b *bytes.Buffer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Duration(l.k.MonotonicClock().Now().Nanoseconds())
	stats := l.k.CPUStats()
	used := stats.UserTime + stats.SysTime
	if span := now - l.then; span > 0 {
		load := float64(used-l.used) / float64(span)
		for i, window := range []float64{60, 300, 900} {
			keep := math.Exp(-span.Seconds() / window)
			l.avg[i] = l.avg[i]*keep + load*(1-keep)
		}
		l.then, l.used = now, used
	}
	root := l.k.RootPIDNamespace()
	tasks := root.Tasks()
	last := kernel.ThreadID(0)
	for _, t := range tasks {
		last = max(last, root.IDOfTask(t))
	}
	fmt.Fprintf(b, "%.2f %.2f %.2f %d/%d %d\n", l.avg[0], l.avg[1], l.avg[2], l.k.RunningTasks(), len(tasks), last)
}

// knob is a file that holds a number.
func knob(low, high int64, get func() int64, set func(int64)) procfs.File {
	return procfs.File{
		Read: func(_ context.Context, b *bytes.Buffer) error {
			fmt.Fprintf(b, "%d\n", get())
			return nil
		},
		Write: func(ctx context.Context, text string) error {
			n, err := strconv.ParseInt(strings.TrimSpace(text), 0, 64)
			if err != nil || n < low || n > high {
				return linuxerr.EINVAL
			}
			if !rootOnly(ctx) {
				return linuxerr.EPERM
			}
			set(n)
			return nil
		},
	}
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// rootOnly reports whether the task may administer the machine and not only a
// namespace of it.
func rootOnly(ctx context.Context) bool {
	return auth.CredentialsFromContext(ctx).HasRootCapability(linux.CAP_SYS_ADMIN)
}

// printkFile is /proc/sys/kernel/printk; its first number is the console's level.
func (s *sentry) printkFile() procfs.File {
	return procfs.File{
		Read: func(_ context.Context, b *bytes.Buffer) error {
			fmt.Fprintf(b, "%d\t4\t1\t7\n", s.Log().ConsoleLevel())
			return nil
		},
		Write: func(ctx context.Context, text string) error {
			fields := strings.Fields(text)
			if len(fields) == 0 {
				return nil
			}
			n, err := strconv.Atoi(fields[0])
			if err != nil {
				return linuxerr.EINVAL
			}
			if !rootOnly(ctx) {
				return linuxerr.EPERM
			}
			s.Log().SetConsoleLevel(n)
			return nil
		},
	}
}

// restrictFile is /proc/sys/kernel/dmesg_restrict.
func (s *sentry) restrictFile() procfs.File {
	return knob(0, 1, func() int64 { return flag(s.Log().Restricted()) }, func(n int64) { s.Log().SetRestricted(n == 1) })
}

// nameFile is a name of the reader's UTS namespace.
func (s *sentry) nameFile(get func(*kernel.UTSNamespace) string, set func(*kernel.UTSNamespace, context.Context, string)) procfs.File {
	return procfs.File{
		Read: func(ctx context.Context, b *bytes.Buffer) error {
			ns := kernel.UTSNamespaceFromContext(ctx)
			defer ns.DecRef(ctx)
			fmt.Fprintln(b, get(ns))
			return nil
		},
		Write: func(ctx context.Context, text string) error {
			if len(text) > linux.UTSLen {
				return linuxerr.EINVAL
			}
			ns := kernel.UTSNamespaceFromContext(ctx)
			defer ns.DecRef(ctx)
			if !auth.CredentialsFromContext(ctx).HasCapabilityIn(linux.CAP_SYS_ADMIN, ns.UserNamespace()) {
				return linuxerr.EPERM
			}
			set(ns, ctx, text)
			return nil
		},
	}
}
