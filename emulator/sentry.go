package emulator

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/ext4fs"
	"github.com/umlkit/umlkit/emulator/hostfs"
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/procfs"
	"github.com/umlkit/umlkit/emulator/syscalls"
	"github.com/umlkit/umlkit/emulator/tty"
	"github.com/umlkit/umlkit/emulator/uevent"
)

// sentry is one boot: a kernel from its making to its end.
type sentry struct {
	m   *Machine
	k   *kernel.Kernel
	ctx context.Context

	// memory bounds what the guests use.
	memory *memory
	// activity counts what happens.
	activity activity

	clocks     *clocks
	vdsoParams *kernel.VDSOParamPage

	// end takes the first request to end.
	end chan ending
	// askInit is whether ctrl-alt-del is init's business.
	askInit atomic.Bool

	// managed counts the packets of the management console.
	managed atomic.Int64
	// sysrqMask is /proc/sys/kernel/sysrq.
	sysrqMask atomic.Int32
	// uevents is where udev hears of devices.
	uevents *uevent.Bus
	// pidMax is /proc/sys/kernel/pid_max. Numbers of processes begin again at
	// kernel.TasksLimit whatever it says, so that it takes no less.
	pidMax atomic.Int64

	terminals *tty.Terminals

	// ext4 are the filesystems on disks, hostfs those on the host, dev is the devtmpfs,
	// and sources knows where mounts come from.
	ext4    *ext4fs.FilesystemType
	hostfs  *hostfs.FilesystemType
	dev     *vfs.Mount
	sources procfs.Sources

	// proc describes the first program; its context is that of all mounting before
	// the program runs.
	proc kernel.CreateProcessArgs
	init *kernel.ThreadGroup
	// holding guards held, which is whether the tasks are stopped from outside, and
	// over, after which that no longer changes.
	holding    sync.Mutex
	held, over bool
	// ended is whether every task has ended.
	ended bool

	// inInitrd is whether the root is the one of initrd=.
	inInitrd bool
	// mounts is the first mount namespace, nil until there is a root.
	mounts *vfs.MountNamespace
}

// newSentry makes a kernel without tasks.
func (m *Machine) newSentry() (*sentry, error) {
	s := &sentry{m: m, end: make(chan ending, 1), uevents: uevent.NewBus()}
	s.memory = &memory{s: s}
	k := &kernel.Kernel{
		Platform:  &countedPlatform{&boundedPlatform{Platform: &roomyPlatform{m.platform, m}, memory: s.memory}, &s.activity},
		AllowSUID: true,
	}
	s.k = k
	s.sysrqMask.Store(1)
	s.pidMax.Store(kernel.TasksLimit)
	s.ext4 = &ext4fs.FilesystemType{Disks: m.disks, Logf: m.logf, CacheBytes: m.config.Ext4CacheBytes(),
		Errorf: func(format string, args ...any) { m.printk(klog.Err, format, args...) },
		Panic:  func(err error) { s.request(*panicked("%v", err)) }}
	s.hostfs = m.newHostfs()
	mf, shared, err := m.memoryFile()
	if err != nil {
		return nil, err
	}
	s.memory.file, s.memory.fd, s.memory.shared = mf, mf.FD(), shared
	s.memory.size.Store(m.config.Memory)
	k.SetMemoryFile(mf)
	vdso, err := loader.PrepareVDSO(mf)
	if err != nil {
		return nil, fmt.Errorf("prepare the vdso: %w", err)
	}
	s.vdsoParams = kernel.NewVDSOParamPage(mf, vdso.ParamPage.FileRange())
	keeper := s.newClocks()

	usage.MinimumTotalMemoryBytes = uint64(m.config.Memory)
	usage.MaximumTotalMemoryBytes = uint64(m.config.Memory)
	tmpfs.SetTotalHostMem(uint64(m.config.Memory))

	users := auth.NewRootUserNamespace()
	nets := &networks{clock: keeper, ids: k}
	stack, err := nets.CreateStack()
	if err != nil {
		return nil, err
	}
	node := m.config.HostName
	if node == "" {
		node = "(none)"
	}
	err = k.Init(kernel.InitKernelArgs{
		FeatureSet:           cpuid.HostFeatureSet().Fixed(),
		Timekeeper:           keeper,
		RootUserNamespace:    users,
		RootNetworkNamespace: inet.NewRootNamespace(stack, nets, users),
		ApplicationCores:     uint(m.config.CPUs),
		Vdso:                 vdso,
		VdsoParams:           s.vdsoParams,
		RootUTSNamespace:     kernel.NewUTSNamespace(node, "(none)", users),
		RootIPCNamespace:     kernel.NewIPCNamespace(users),
		RootPIDNamespace:     kernel.NewRootPIDNamespace(users),
		Cgroup2FSInit:        cgroup2fs.NewFilesystem,
	})
	if err != nil {
		return nil, fmt.Errorf("make the kernel: %w", err)
	}
	s.ctx = k.SupervisorContext()
	if err := s.openTerminals(); err != nil {
		return nil, err
	}
	m.announceManagement()
	if err := s.registerFilesystems(); err != nil {
		return nil, err
	}
	if err := s.registerDevices(); err != nil {
		return nil, err
	}
	sockets, err := host.NewFilesystem(k.VFS())
	if err != nil {
		return nil, fmt.Errorf("make the kernel: %w", err)
	}
	defer sockets.DecRef(s.ctx)
	k.SetHostMount(k.VFS().NewDisconnectedMount(sockets, nil, &vfs.MountOptions{}))

	lim, err := limits.NewLinuxLimitSet()
	if err != nil {
		return nil, fmt.Errorf("make the first limits: %w", err)
	}
	s.proc = kernel.CreateProcessArgs{
		WorkingDirectory:     "/",
		Credentials:          auth.NewRootCredentials(users),
		Umask:                0o022,
		Limits:               lim,
		MaxSymlinkTraversals: linux.MaxSymlinkTraversals,
		UTSNamespace:         k.RootUTSNamespace(),
		IPCNamespace:         k.RootIPCNamespace(),
		PIDNamespace:         k.RootPIDNamespace(),
	}
	syscalls.Install()
	syscalls.Attach(k, s)
	return s, nil
}

// taskEnd is how long tasks may take to die before the machine goes on without them.
const taskEnd = 5 * time.Second

// stop ends every task and closes every filesystem. An abrupt stop leaves the disks as
// they are.
func (s *sentry) stop(abrupt bool) {
	s.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))
	if abrupt {
		// Before the tasks go: they write back what they have mapped.
		s.ext4.AbandonAll(s.ctx)
	}
	s.holding.Lock()
	s.over = true
	if s.held {
		s.k.Unpause()
	}
	s.holding.Unlock()
	gone := make(chan struct{})
	go func() {
		s.k.WaitExited()
		close(gone)
	}()
	select {
	case <-gone:
		s.ended = true
	case <-time.After(taskEnd):
		s.m.printk(klog.Warning, "some tasks do not end; going on without them")
	}
	s.unmount()
}

// release gives up the terminals and the kernel, after its last words.
func (s *sentry) release() {
	s.closeTerminals()
	syscalls.Detach(s.k)
	if !s.ended {
		return
	}
	// The first namespace has held the root until now; with it the filesystem's memory
	// and its mappings of the disk go.
	if s.mounts != nil {
		s.mounts.DecRef(s.ctx)
	}
	if s.dev != nil {
		s.dev.DecRef(s.ctx)
	}
	s.k.Release()
}
