//go:build amd64

package platform

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/hostarch"
)

// codeAt and stackAt are where the guests of these tests have a page of code and one of
// stack.
const (
	codeAt  = 0x400000
	stackAt = 0x500000
)

// guest is a stub process with a thread, and a page of code that is written from here.
type guest struct {
	t *testing.T
	p *process
	*thread
	code []byte
}

func start(t *testing.T) *Own {
	t.Helper()
	cpuid.Initialize()
	o, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func newGuest(t *testing.T, o *Own, code ...byte) *guest {
	t.Helper()
	p, err := o.zygote.newProcess()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 2*pageSize); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	copy(memory, code)
	for i, prot := range []uint64{unix.PROT_READ | unix.PROT_EXEC, unix.PROT_READ | unix.PROT_WRITE} {
		_, err := p.system(unix.SYS_MMAP, [6]uint64{codeAt + uint64(i)*(stackAt-codeAt), pageSize, prot,
			unix.MAP_SHARED | unix.MAP_FIXED, uint64(fd), uint64(i) * pageSize})
		if err != nil {
			t.Fatal(err)
		}
	}
	th, err := p.thread()
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, p: p, thread: th, code: memory}
	t.Cleanup(g.stop)
	return g
}

func (g *guest) stop() {
	if g.p == nil {
		return
	}
	unix.Munmap(g.code)
	g.thread.release()
	g.p.Release()
	g.p = nil
}

// run lets the guest run from those registers until it does something. One that does
// nothing is interrupted.
func (g *guest) run(r linux.PtraceRegs) error {
	g.t.Helper()
	if err := g.toFrame(); err != nil {
		return err
	}
	if r.Rsp == 0 {
		r.Rsp = stackAt + pageSize - 256
	}
	g.write(&r)
	g.frame().info.Signo = 0
	g.framed = false
	if err := g.send(0); err != nil {
		return err
	}
	timer := time.AfterFunc(100*time.Millisecond, func() { _ = g.interrupt() })
	defer timer.Stop()
	if err := g.receive(); err != nil {
		return err
	}
	g.framed = g.atFrame()
	return nil
}

// System calls that the kernel's own uprobes make, and that it keeps from filters.
const (
	sysUretprobe = 335
	sysUprobe    = 336
)

// TestNoSystemCall makes every system call there is and some that are not: all are
// notified, none is made.
func TestNoSystemCall(t *testing.T) {
	g := newGuest(t, start(t), 0x0f, 0x05, 0xeb, 0xfe) // syscall; jmp .
	numbers := []uint32{1<<32 - 1, 1 << 30, 1<<30 | unix.SYS_GETPID, 1<<31 | 1, notifyFrame, notifyMapper}
	for nr := uint32(0); nr < 600; nr++ {
		numbers = append(numbers, nr)
	}
	for _, nr := range numbers {
		if err := g.run(linux.PtraceRegs{Rip: codeAt, Rax: uint64(nr), Rdi: 1, Rsi: 2, Rdx: 3, R10: 4, R8: 5, R9: 6}); err != nil {
			t.Fatalf("system call %d: %v", nr, err)
		}
		if nr == sysUretprobe || nr == sysUprobe {
			// Newer kernels let no filter see these two; they fail where no probe was set.
			if rax := int64(g.frame().regs.rax); g.last.nr == notifyFrame && g.last.args[0] == uint64(interruptSignal) && rax >= 0 {
				t.Errorf("system call %d returned %d", nr, rax)
			}
			continue
		}
		if n := g.last; n.nr != int32(nr) || n.ip != codeAt+2 || n.arch != auditX86_64 || n.args != [6]uint64{1, 2, 3, 4, 5, 6} {
			t.Errorf("system call %d was heard as %+v", nr, n)
		}
	}
}

// TestOldSystemCalls makes system calls in the ways of 32-bit programs.
func TestOldSystemCalls(t *testing.T) {
	for name, code := range map[string][]byte{"int 0x80": {0xcd, 0x80, 0xeb, 0xfe}, "sysenter": {0x0f, 0x34, 0xeb, 0xfe}} {
		g := newGuest(t, start(t), code...)
		if err := g.run(linux.PtraceRegs{Rip: codeAt, Rax: 20 /* getpid */}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !g.framed && g.last.arch == auditX86_64 {
			t.Errorf("%s was heard as %+v", name, g.last)
		}
		if g.framed && g.frame().regs.rax == uint64(g.p.pid) {
			t.Errorf("%s was made", name)
		}
	}
}

// TestJumpIntoStub enters the stub's code at every byte, with registers that make each of its
// system calls harmful: map where the guest may not, make a process, end the kernel. Nothing
// but a notification, a fault or the guest's own death comes of it.
func TestJumpIntoStub(t *testing.T) {
	o := start(t)
	end := uint64(0)
	for end = pageSize; o.zygote.codePage(t)[end-1] == 0; end-- {
	}
	dead := 0
	for off := uint64(0); off < end; off++ {
		g := newGuest(t, o, 0xeb, 0xfe)
		maps := mappings(t, g.p.pid)
		err := g.run(linux.PtraceRegs{Rip: codeAddress + off, Rax: unix.SYS_MMAP, Rdi: codeAt + pageSize, Rsi: pageSize,
			Rdx: unix.PROT_READ | unix.PROT_WRITE, R10: unix.MAP_SHARED | unix.MAP_FIXED, R8: uint64(o.zygote.shared.fd),
			R9: 0, R12: requestsAddress, R15: resultsAddress, Rbx: slotsAddress + slotSize, Rbp: 1})
		switch {
		case errors.Is(err, errGone):
			dead++
		case err != nil:
			t.Fatalf("at %#x: %v", off, err)
		case mappings(t, g.p.pid) != maps:
			t.Fatalf("at %#x: the mappings changed:\n%s\nthen\n%s", off, maps, mappings(t, g.p.pid))
		}
		g.p.destroy()
		g.stop()
	}
	if dead == int(end) {
		t.Error("no guest lived: nothing was tested")
	}
	// The zygote and its like go on.
	g := newGuest(t, o, 0x0f, 0x05)
	if err := g.run(linux.PtraceRegs{Rip: codeAt, Rax: 39}); err != nil || g.last.nr != 39 {
		t.Errorf("after all that: %v, %+v", err, g.last)
	}
}

// TestForgedBases writes to its slot what no register holds.
func TestForgedBases(t *testing.T) {
	g := newGuest(t, start(t), 0x0f, 0x05)
	if err := g.toFrame(); err != nil {
		t.Fatal(err)
	}
	*g.bases() = bases{fs: 1 << 47, gs: 1 << 63}
	if r := registersOf(&g.frame().regs, *g.bases()); r.Fs_base != 0 || r.Gs_base != 0 {
		t.Errorf("bases %#x and %#x", r.Fs_base, r.Gs_base)
	}
	// Out through the stub they end the process, and it is found out.
	g.framed = false
	if err := g.send(0); err != nil {
		t.Fatal(err)
	}
	err := g.receive()
	if err == nil && g.atFrame() && g.last.args[0] != uint64(unix.SIGSEGV) {
		t.Errorf("%+v", g.last)
	} else if err != nil && !errors.Is(err, errGone) {
		t.Error(err)
	}
}

// TestForgedListener names descriptors that are no listener of a new thread's.
func TestForgedListener(t *testing.T) {
	o := start(t)
	g := newGuest(t, o, 0x0f, 0x05)
	z := o.zygote
	z.threads.Lock()
	defer z.threads.Unlock()
	for _, fd := range []int{0, 1 << 20, z.shared.fd, z.codeFD, g.fd, g.p.mapper.fd} {
		if err := z.vouch(fd); err == nil {
			t.Errorf("descriptor %d was taken for a new listener", fd)
		}
	}
}

// TestMapBelow maps and unmaps what is not the guest's.
func TestMapBelow(t *testing.T) {
	for _, r := range [][2]uint64{{codeAddress, pageSize}, {codeAddress - pageSize, 2 * pageSize}, {0, 1 << 63}, {1 << 63, 1 << 63}, {pageSize, 1<<64 - pageSize}} {
		if below(hostarch.Addr(r[0]), r[1]) {
			t.Errorf("%#x bytes at %#x are the guest's", r[1], r[0])
		}
	}
	if !below(codeAddress-pageSize, pageSize) || !below(0, codeAddress) {
		t.Error("the guest's last page is not its own")
	}
}
