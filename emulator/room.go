package emulator

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	gverrors "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/reach"
)

// What the host has to have left before another process of a guest is begun: the kernel
// needs some of each itself, and Go's runtime ends the program where it gets no thread.
const (
	spareFiles     = 8
	spareProcesses = 32
	// mapsPerProcess is how many mappings of ours one process of a guest takes.
	mapsPerProcess = 4
)

// room knows what the host may refuse when a guest begins a process.
type room struct {
	null int // a descriptor of /dev/null
	// current and most are the files of the cgroup that bounds processes, nil where
	// none does.
	current, most *os.File
	// maps is how many mappings a process of the host may have.
	maps int64
	made atomic.Int64 // processes of the host that run guests
	said sync.Once
}

// openRoom opens what tells. What cannot be opened bounds nothing.
func openRoom() *room {
	r := &room{maps: 65530}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if r.null = null; err != nil {
		r.null = -1
	}
	if n, ok := number("/proc/sys/vm/max_map_count"); ok {
		r.maps = n
	}
	if dir := processGroup(); dir != "" {
		if _, ok := number(filepath.Join(dir, "pids.max")); ok {
			r.current, _ = os.Open(filepath.Join(dir, "pids.current"))
			r.most, _ = os.Open(filepath.Join(dir, "pids.max"))
		}
	}
	return r
}

func (r *room) close() {
	if r == nil {
		return
	}
	if r.null >= 0 {
		_ = unix.Close(r.null)
	}
	r.current.Close()
	r.most.Close()
}

// processGroup is the directory of the cgroup that bounds the number of processes, ""
// where there is none.
func processGroup() string {
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] != "" && f[1] != "pids" {
			continue
		}
		base := "/sys/fs/cgroup"
		if f[1] == "pids" {
			base += "/pids"
		}
		// Within a container the path is the host's, and the group is the root's.
		for _, dir := range []string{filepath.Join(base, f[2]), base} {
			if _, err := os.Stat(filepath.Join(dir, "pids.max")); err == nil {
				return dir
			}
		}
	}
	return ""
}

// number reads a file that holds one; "max" is none.
func number(name string) (int64, bool) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// numberAt reads one from a file that is open.
func numberAt(f *os.File) (int64, bool) {
	var b [32]byte
	n, err := unix.Pread(int(f.Fd()), b[:], 0)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseInt(string(bytes.TrimSpace(b[:n])), 10, 64)
	return v, err == nil
}

// lacks says what the host has too little of for another process, "" if nothing.
func (r *room) lacks() string {
	if (r.made.Load()+1)*mapsPerProcess > r.maps/2 {
		return "mappings (vm.max_map_count)"
	}
	if r.null >= 0 {
		var spare [spareFiles]int
		got := 0
		for got < len(spare) {
			fd, err := unix.FcntlInt(uintptr(r.null), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				break
			}
			spare[got] = fd
			got++
		}
		for _, fd := range spare[:got] {
			_ = unix.Close(fd)
		}
		if got < len(spare) {
			return "descriptors (ulimit -n)"
		}
	}
	if r.current != nil && r.most != nil {
		current, known := numberAt(r.current)
		if most, bounded := numberAt(r.most); known && bounded && current > most-spareProcesses {
			return "processes (pids.max of the cgroup)"
		}
	}
	return ""
}

// What the limits of this process have to allow, in bytes. The guest's memory is a file
// that grows by chunk, all of it mapped; addresses are what the program maps besides.
const (
	chunk     = 1 << 30
	addresses = 2816 << 20
)

// allowed fails where the limits of this process leave no room for a guest with so much
// memory: gVisor would end the program in the midst of things.
func allowed(memory int64) error {
	file := uint64(memory+chunk-1) / chunk * chunk
	for _, limit := range []struct {
		resource int
		name     string
		least    uint64
	}{{unix.RLIMIT_FSIZE, "ulimit -f", file}, {unix.RLIMIT_AS, "ulimit -v", file + addresses}} {
		var have unix.Rlimit
		if unix.Getrlimit(limit.resource, &have) == nil && have.Cur < limit.least {
			return fmt.Errorf("%s allows %d KiB, and mem=%dM takes %d", limit.name, have.Cur>>10, memory>>20, limit.least>>10)
		}
	}
	return nil
}

// reserveProcesses has the processes that begin within it, which run guest code, and all
// that they begin, leave some of the user's processes (ulimit -u) for this one.
func reserveProcesses() (done func()) {
	var own unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NPROC, &own) != nil || own.Cur == unix.RLIM_INFINITY {
		return func() {}
	}
	less := own
	less.Cur -= min(spareProcesses, own.Cur/4)
	_ = unix.Setrlimit(unix.RLIMIT_NPROC, &less)
	return func() { _ = unix.Setrlimit(unix.RLIMIT_NPROC, &own) }
}

// roomyPlatform refuses another process of a guest where the host would refuse what it
// takes: a fork fails as for want of memory then, where gVisor's platforms take it for a
// fault of their own and end the program.
type roomyPlatform struct {
	platform.Platform
	m *Machine
}

// NewAddressSpace implements platform.Platform.
func (p *roomyPlatform) NewAddressSpace() (space platform.AddressSpace, err error) {
	r, own := p.m.room, p.m.caughtBy == "own" // which counts by itself
	if !own && reach.SpareStub() {
		return p.Platform.NewAddressSpace()
	}
	if own {
		if space, err = p.Platform.NewAddressSpace(); err != nil {
			err = p.m.refuse(err.Error())
		}
		return space, err
	}
	if lacks := r.lacks(); lacks != "" {
		return nil, p.m.refuse("the host has no more " + lacks)
	}
	defer func() {
		if fault := recover(); fault != nil {
			space, err = nil, p.m.refuse(fmt.Sprint(fault))
		}
	}()
	space, err = p.Platform.NewAddressSpace()
	if err != nil {
		var known *gverrors.Error
		if !errors.As(err, &known) {
			err = p.m.refuse(err.Error())
		}
		return nil, err
	}
	r.made.Add(1)
	return space, nil
}

// refuse says once in the log why, and is the error that the guest gets.
func (m *Machine) refuse(why string) error {
	m.room.said.Do(func() {
		m.printk(klog.Err, "fork: a process of the guest cannot be begun: %s", why)
	})
	return linuxerr.EAGAIN
}
