package emulator

import (
	"fmt"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/usermem"
)

const (
	// stackWords is how much of a task's stack is looked through for what may be return
	// addresses, and shownWords how much of it is shown.
	stackWords = 512
	shownWords = 16
	// maxFrames bounds a backtrace.
	maxFrames = 64
)

// stack describes a task: its state, the system call that it is in, its registers, where
// it is and where it came from, in the shape of Linux's own dumps. The kernel's frames are
// no guest's and are left out.
func (s *sentry) stack(pid int) (string, error) {
	root := s.k.RootPIDNamespace()
	t := root.TaskWithID(kernel.ThreadID(pid))
	if t == nil {
		return "", fmt.Errorf("no task %d", pid)
	}
	// A task that is held shows no other state than that.
	state, where := t.StateStatus(), t.TaskGoroutineState()
	s.k.Pause()
	defer s.k.Unpause()
	if t.ExitState() != kernel.TaskExitNone || t.MemoryManager() == nil {
		return "", fmt.Errorf("no task %d", pid)
	}
	s.k.ReceiveTaskStates()
	call, within := inCall(t, where)
	if where == kernel.TaskGoroutineStopped && strings.HasPrefix(state, "D") {
		state = "R (running)"
		if within {
			state = "S (sleeping)"
		}
	}
	parent := kernel.ThreadID(0)
	if p := t.Parent(); p != nil {
		parent = root.IDOfTask(p)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "task:%-15s state:%-14s pid:%-5d ppid:%-5d\n", t.Name(), state, pid, parent)
	if within {
		fmt.Fprintf(&b, "In system call %s\n", call)
	}
	writeRegisters(&b, t)
	writeBacktrace(&b, t)
	return b.String(), nil
}

// What a system call has for a result while it is not done: -ENOSYS from its beginning
// on, and one of the codes for a restart when a pause takes it out of its sleep.
const (
	noResult     = -38
	restartFirst = -516
	restartLast  = -512
)

// inCall is the system call that a paused task is in, if it is in one. where is the
// task's state before the pause.
func inCall(t *kernel.Task, where kernel.TaskGoroutineState) (string, bool) {
	result := int64(t.Arch().Return())
	blocked := where == kernel.TaskGoroutineBlockedInterruptible || where == kernel.TaskGoroutineBlockedUninterruptible
	if (result < restartFirst || result > restartLast) && !(blocked && result == noResult) && !(blocked && result == -4) {
		return "", false
	}
	number := t.Arch().SyscallNo()
	var args []string
	for _, a := range t.Arch().SyscallArgs() {
		args = append(args, fmt.Sprintf("%#x", a.Value))
	}
	return fmt.Sprintf("%d %s(%s)", number, t.SyscallTable().LookupName(number), strings.Join(args, ", ")), true
}

// registerOrder is how Linux's dumps order the registers of amd64. Those of other
// processors come in the order of their names.
var registerOrder = []string{
	"Rip", "Rsp", "Eflags", "Rax", "Rbx", "Rcx", "Rdx", "Rsi", "Rdi", "Rbp", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
	"Orig_rax", "Fs_base", "Gs_base",
}

// writeRegisters writes a task's registers.
func writeRegisters(b *strings.Builder, t *kernel.Task) {
	all, err := t.Arch().RegisterMap()
	if err != nil {
		return
	}
	var names []string
	for _, name := range registerOrder {
		if _, ok := all[name]; ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	for i, name := range names {
		fmt.Fprintf(b, "%8s: %016x", strings.ToUpper(name), all[name])
		if i%3 == 2 || i == len(names)-1 {
			b.WriteByte('\n')
		}
	}
}

// code is a mapping that can be executed.
type code struct {
	start, end hostarch.Addr
	offset     uint64
	name       string
}

// writeBacktrace writes where a task is, by the frame pointers of its functions, and then
// what else on its stack may be return addresses, which is marked "?".
func writeBacktrace(b *strings.Builder, t *kernel.Task) {
	ctx, mm := t.AsyncContext(), t.MemoryManager()
	var codes []code
	mm.ReadMapsDataInto(ctx, func(start, end hostarch.Addr, at hostarch.AccessType, _ string, offset uint64, _, _ uint32, _ uint64, name string) {
		if at.Execute {
			codes = append(codes, code{start, end, offset, name})
		}
	})
	describe := func(addr uint64) string {
		for _, c := range codes {
			if a := hostarch.Addr(addr); a >= c.start && a < c.end {
				name := c.name
				if name == "" {
					name = "[anonymous]"
				}
				return fmt.Sprintf("%s+%#x", name, addr-uint64(c.start)+c.offset)
			}
		}
		return ""
	}
	word := func(addr uint64) (uint64, bool) {
		var w [8]byte
		_, err := mm.CopyIn(ctx, hostarch.Addr(addr), w[:], usermem.IOOpts{IgnorePermissions: true})
		return hostarch.ByteOrder.Uint64(w[:]), err == nil
	}

	ip, sp := uint64(t.Arch().IP()), uint64(t.Arch().Stack())
	place := describe(ip)
	if place == "" {
		place = "not in code"
	}
	fmt.Fprintf(b, "Call Trace:\n [<%016x>] %s\n", ip, place)
	known := map[uint64]bool{}
	for frame, n := framePointer(t), 0; n < maxFrames && frame >= sp && frame%8 == 0; n++ {
		next, ok := word(frame)
		from, ok2 := word(frame + 8)
		if place = describe(from); !ok || !ok2 || place == "" {
			break
		}
		known[from] = true
		fmt.Fprintf(b, " [<%016x>] %s\n", from, place)
		if next <= frame {
			break
		}
		frame = next
	}
	var words []uint64
	for i := range uint64(stackWords) {
		w, ok := word(sp + 8*i)
		if !ok {
			break
		}
		words = append(words, w)
	}
	guessed := 0
	for _, w := range words {
		if place := describe(w); place != "" && !known[w] && guessed < maxFrames {
			known[w] = true
			guessed++
			fmt.Fprintf(b, " [<%016x>] ? %s\n", w, place)
		}
	}
	b.WriteString("Stack:")
	for i, w := range words[:min(len(words), shownWords)] {
		if i%4 == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, " %016x", w)
	}
	b.WriteByte('\n')
}

// framePointer is the register that by convention points to the caller's frame.
func framePointer(t *kernel.Task) uint64 {
	all, err := t.Arch().RegisterMap()
	if err != nil {
		return 0
	}
	for _, name := range []string{"Rbp", "R29"} {
		if v, ok := all[name]; ok {
			return uint64(v)
		}
	}
	return 0
}
