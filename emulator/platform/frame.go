//go:build amd64

package platform

import (
	"unsafe"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/arch"
)

// frame is struct rt_sigframe of the kernel.
type frame struct {
	restorer uint64
	flags    uint64
	link     uint64
	stack    [3]uint64
	regs     registers
	mask     uint64
	info     linux.SignalInfo
	// XSAVE state follows, at the next 64 bytes.
}

// frameSize is the size of a frame without XSAVE state.
const frameSize = uint64(unsafe.Sizeof(frame{}))

// registers is struct sigcontext.
type registers struct {
	r8, r9, r10, r11, r12, r13, r14, r15 uint64
	rdi, rsi, rbp, rbx, rdx, rax, rcx    uint64
	rsp, rip, eflags                     uint64
	segments                             uint64
	err, trap, oldmask, cr2, fpstate     uint64
	_                                    [8]uint64
}

// leaving is what IRETQ takes off the stack.
type leaving struct {
	rip, cs, eflags, rsp, ss uint64
}

// leavingDistance is how far below the frame that is.
const leavingDistance = 64

// bases are the segment bases, which the handler reads and writes.
type bases struct {
	gs, fs uint64
}

// Segments of a 64-bit process.
const (
	userCS = 0x33
	userSS = 0x2b
)

// Flags that a process may have set, and those that it always has.
const (
	flagsUser = 0x254dd5
	flagsSet  = 0x202
)

// Faults of the processor and bits of a page fault's error code.
const (
	trapGeneralProtection = 13
	trapPageFault         = 14
	faultWrite            = 1 << 1
	faultUser             = 1 << 2
	faultInstruction      = 1 << 4
)

// registersOf are the registers in a copy of a frame. A base that no register can hold
// was not written by the handler.
func registersOf(f *registers, b bases) linux.PtraceRegs {
	if !canonical(b.fs) {
		b.fs = 0
	}
	if !canonical(b.gs) {
		b.gs = 0
	}
	return linux.PtraceRegs{
		R15: f.r15, R14: f.r14, R13: f.r13, R12: f.r12, Rbp: f.rbp, Rbx: f.rbx, R11: f.r11, R10: f.r10,
		R9: f.r9, R8: f.r8, Rax: f.rax, Rcx: f.rcx, Rdx: f.rdx, Rsi: f.rsi, Rdi: f.rdi, Orig_rax: ^uint64(0),
		Rip: f.rip, Cs: userCS, Eflags: f.eflags&flagsUser | flagsSet, Rsp: f.rsp, Ss: userSS,
		Fs_base: b.fs, Gs_base: b.gs,
	}
}

// write puts registers where the handler takes them from.
func (t *thread) write(r *linux.PtraceRegs) {
	f := &t.frame().regs
	f.r8, f.r9, f.r10, f.r11, f.r12, f.r13, f.r14, f.r15 = r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15
	f.rdi, f.rsi, f.rbp, f.rbx, f.rdx, f.rax, f.rcx = r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx, r.Rax, r.Rcx
	// Should the handler begin again, these are what the guest has.
	f.rip, f.rsp, f.eflags = r.Rip, r.Rsp, r.Eflags
	*t.leaving() = leaving{rip: r.Rip, cs: userCS, eflags: r.Eflags&flagsUser | flagsSet, rsp: r.Rsp, ss: userSS}
	*t.bases() = bases{gs: r.Gs_base, fs: r.Fs_base}
}

// xsave is the part of the frame that holds a floating point state of that size: the
// kernel rounds up to 64 bytes from the frame's end towards the stack's top.
func (t *thread) xsave(size int) []byte {
	z := t.p.z
	return t.memory[slotSize-z.xsave:][:min(size, int(z.xsave)-slotTop)]
}

// pullFloats copies the thread's floating point state to the Sentry, pushFloats back.
func (t *thread) pullFloats(ac *arch.Context64) {
	state := ac.FloatingPointData().Slice()
	copy(state, t.xsave(len(state)))
}

func (t *thread) pushFloats(ac *arch.Context64) {
	state := ac.FloatingPointData().Slice()
	copy(t.xsave(len(state)), state)
}
