package emulator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
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

// stopPatience is how long a task that runs may take to be stopped for a look.
const stopPatience = time.Second

// snapshot is what a task's registers were at a moment.
type snapshot struct {
	registers map[string]uintptr
	ip, sp    uint64
	result    int64 // of the system call
	number    uintptr
	args      arch.SyscallArguments
}

func (s *sentry) registersOf(t *kernel.Task) (snapshot, error) {
	a := t.Arch().Fork()
	s.activity.complete(t, a)
	all, err := a.RegisterMap()
	return snapshot{all, uint64(a.IP()), uint64(a.Stack()), int64(a.Return()), a.SyscallNo(), a.SyscallArgs()}, err
}

func asleep(state kernel.TaskGoroutineState) bool {
	return state == kernel.TaskGoroutineBlockedInterruptible || state == kernel.TaskGoroutineBlockedUninterruptible
}

// look takes a task's registers. One that sleeps is not disturbed: a stop would end its
// sleep as a signal does. Its registers are good if it sleeps the same sleep afterwards.
// Others are stopped for a moment.
func (s *sentry) look(t *kernel.Task) (snapshot, error) {
	if state, since := t.TaskGoroutineStateTime(); asleep(state) {
		snap, err := s.registersOf(t)
		if again, then := t.TaskGoroutineStateTime(); again == state && then == since {
			return snap, err
		}
	}
	t.BeginExternalStop()
	defer t.EndExternalStop()
	for deadline := time.Now().Add(stopPatience); t.TaskGoroutineState() != kernel.TaskGoroutineStopped; time.Sleep(time.Millisecond) {
		if t.ExitState() != kernel.TaskExitNone || time.Now().After(deadline) {
			break
		}
	}
	return s.registersOf(t)
}

// taskState is a task's state as /proc has it. One that is held from outside has that
// which it was held in.
func taskState(t *kernel.Task, result int64) string {
	state := t.StateStatus()
	if t.TaskGoroutineState() == kernel.TaskGoroutineStopped && strings.HasPrefix(state, "D") {
		if result >= restartFirst && result <= restartLast {
			return "S (sleeping)"
		}
		return "R (running)"
	}
	return state
}

// stack describes a task: its state, the system call that it is in, its registers, where
// it is and where it came from, in the shape of Linux's own dumps. The kernel's frames are
// no guest's and are left out.
func (s *sentry) stack(pid int) (string, error) {
	root := s.k.RootPIDNamespace()
	t := root.TaskWithID(kernel.ThreadID(pid))
	if t == nil {
		return "", fmt.Errorf("no task %d", pid)
	}
	where := t.TaskGoroutineState()
	mm := t.MemoryManager()
	if t.ExitState() != kernel.TaskExitNone || mm == nil {
		return "", fmt.Errorf("no task %d", pid)
	}
	snap, err := s.look(t)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	s.writeTask(&b, t, snap.result)
	if snap.inCall(where) {
		var args []string
		for _, a := range snap.args {
			args = append(args, fmt.Sprintf("%#x", a.Value))
		}
		fmt.Fprintf(&b, "In system call %d %s(%s)\n", snap.number, t.SyscallTable().LookupName(snap.number), strings.Join(args, ", "))
	}
	snap.writeRegisters(&b)
	snap.writeBacktrace(&b, t.AsyncContext(), mm)
	return b.String(), nil
}

// writeTask writes a task's line.
func (s *sentry) writeTask(b *strings.Builder, t *kernel.Task, result int64) {
	root := s.k.RootPIDNamespace()
	parent := kernel.ThreadID(0)
	if p := t.Parent(); p != nil {
		parent = root.IDOfTask(p)
	}
	fmt.Fprintf(b, "task:%-15s state:%-14s pid:%-5d ppid:%-5d\n", t.Name(), taskState(t, result), root.IDOfTask(t), parent)
}

// What a system call has for a result while it is not done: -ENOSYS from its beginning
// on, and -EINTR or one of the codes for a restart when a stop takes it out of its sleep.
const (
	noResult     = -int64(unix.ENOSYS)
	interrupted  = -int64(unix.EINTR)
	restartFirst = -516
	restartLast  = -512
)

// inCall says whether the task is in the system call of the registers. where is the task's
// state before the look.
func (s *snapshot) inCall(where kernel.TaskGoroutineState) bool {
	return s.result >= restartFirst && s.result <= restartLast || asleep(where) && (s.result == noResult || s.result == interrupted)
}

// registerOrder is how Linux's dumps order the registers of amd64. Those of other
// processors come in the order of their names.
var registerOrder = []string{
	"Rip", "Rsp", "Eflags", "Rax", "Rbx", "Rcx", "Rdx", "Rsi", "Rdi", "Rbp", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
	"Orig_rax", "Fs_base", "Gs_base",
}

// writeRegisters writes the registers.
func (s *snapshot) writeRegisters(b *strings.Builder) {
	all := s.registers
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
func (s *snapshot) writeBacktrace(b *strings.Builder, ctx context.Context, mm *mm.MemoryManager) {
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

	ip, sp := s.ip, s.sp
	place := describe(ip)
	if place == "" {
		place = "not in code"
	}
	fmt.Fprintf(b, "Call Trace:\n [<%016x>] %s\n", ip, place)
	known := map[uint64]bool{}
	for frame, n := s.framePointer(), 0; n < maxFrames && frame >= sp && frame%8 == 0; n++ {
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
func (s *snapshot) framePointer() uint64 {
	for _, name := range []string{"Rbp", "R29"} {
		if v, ok := s.registers[name]; ok {
			return uint64(v)
		}
	}
	return 0
}
