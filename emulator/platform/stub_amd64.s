#include "textflag.h"

// The code page of every stub process, docs/platform.md. It is copied and runs where
// layout.go says, so that it refers to nothing outside itself; five constants in it are
// patched (stub_amd64.go).

// Host system calls.
#define SYS_MMAP 9
#define SYS_MUNMAP 11
#define SYS_RT_SIGPROCMASK 14
#define SYS_SCHED_YIELD 24
#define SYS_GETPPID 110
#define SYS_EXIT 60
#define SYS_SIGALTSTACK 131
#define SYS_PRCTL 157
#define SYS_FUTEX 202
#define SYS_EXIT_GROUP 231
#define SYS_SECCOMP 317

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1

// The end of all user memory on a host with four levels of page tables.
#define TASK_SIZE 0x7ffffffff000

// layout.go
#define CODE 0x7fff80000000
#define REQUESTS 0x7fff80001000
#define RESULTS 0x7fff80002000
#define PAGE 4096
#define SLOT_MASK 0x3fff

// System calls of the stub's own, which only notify: layout.go.
#define NOTIFY_FRAME 0x3ff1
#define NOTIFY_PARK 0x3ff2
#define NOTIFY_MAPPER 0x3ff3

// requests, layout.go
#define REQ_SEQ 0
#define REQ_KIND 4
#define REQ_NR 8
#define REQ_ARGS 16
#define REQ_MEMFD 64
#define REQ_OFFSET 72
#define REQ_PARENT 80
#define REQ_FLAGS 88
#define REQ_PROGRAM 96
#define REQ_STACK 112
#define REQ_MASK 136
#define MAP_COUNT 1024
#define MAP_CHANGES 1032
#define CHANGE 56

#define KIND_CALL 0
#define KIND_PROCESS 1
#define KIND_GUEST 2
#define KIND_MAPPER 3

// results, layout.go
#define RES_SEQ 0
#define RES_VALUE 8
#define RES_LISTENER 16

// The signal frame: struct ucontext behind the return address, in it struct sigcontext.
#define REG(n) (48+8*(n))(SP)
#define FRAME_RIP REG(16)
#define FRAME_FPSTATE REG(23)

// What lies at a slot's end, above the alternate stack.
#define SLOT_FS -8(BX)
#define SLOT_GS -16(BX)

TEXT ·stub(SB),NOSPLIT|NOFRAME,$0
	// A table of places: stub_amd64.go reads where the jumps go.
	JMP boot
	JMP pages
	JMP handler
	JMP saved
	JMP notified
	JMP parked
	JMP asked
	JMP mapped
	JMP leave
	JMP left
	JMP end

// boot runs in the zygote, from a copy of this page at R8 that the kernel's process
// mapped. R9 is the descriptor of the code, R10 that of the shared pages, R12 where the
// zygote's pages lie in them. Everything but this copy goes.
boot:
	MOVQ R8, R14
	MOVQ R9, BX
	MOVQ R10, BP

	MOVQ $SYS_MUNMAP, AX
	MOVQ $0, DI
	MOVQ R14, SI
	SYSCALL
	TESTQ AX, AX
	JNE fail

	MOVQ $SYS_MUNMAP, AX
	LEAQ PAGE(R14), DI
	MOVQ $TASK_SIZE, SI
	SUBQ DI, SI
	SYSCALL
	TESTQ AX, AX
	JNE fail

	MOVQ $SYS_MMAP, AX
	MOVQ $CODE, DI
	MOVQ $PAGE, SI
	MOVQ $5, DX    // PROT_READ|PROT_EXEC
	MOVQ $0x11, R10 // MAP_SHARED|MAP_FIXED
	MOVQ BX, R8
	MOVQ $0, R9
	SYSCALL
	MOVQ $CODE, DI
	CMPQ AX, DI
	JNE fail

	MOVQ BP, R8
	MOVQ R12, R9
	MOVQ $0x1111111111111111, AX // patched: the address of pages
	JMP AX

// pages maps the requests and results of this process: R8 is the descriptor, R9 the offset.
// R14 is a page to unmap, or 0.
pages:
	MOVQ $SYS_MMAP, AX
	MOVQ $REQUESTS, DI
	MOVQ $PAGE, SI
	MOVQ $1, DX    // PROT_READ
	MOVQ $0x11, R10 // MAP_SHARED|MAP_FIXED
	SYSCALL
	MOVQ $REQUESTS, DI
	CMPQ AX, DI
	JNE fail

	MOVQ $SYS_MMAP, AX
	MOVQ $RESULTS, DI
	MOVQ $3, DX // PROT_READ|PROT_WRITE
	ADDQ $PAGE, R9
	SYSCALL
	MOVQ $RESULTS, DI
	CMPQ AX, DI
	JNE fail

	TESTQ R14, R14
	JEQ main
	MOVQ $SYS_MUNMAP, AX
	MOVQ R14, DI
	MOVQ $PAGE, SI
	SYSCALL
	TESTQ AX, AX
	JNE fail

// main is the life of the zygote and of the first thread of every stub process: wait for
// a request, make the system call that it names, say what came of it. Only the requests,
// which nobody here can write, and registers are trusted.
main:
	MOVQ $REQUESTS, R12
	MOVQ $RESULTS, R15
	XORQ R13, R13
wait:
	MOVL REQ_SEQ(R12), DX
	CMPL DX, R13
	JNE request
	MOVQ $SYS_FUTEX, AX
	LEAQ REQ_SEQ(R12), DI
	MOVQ $FUTEX_WAIT, SI
	MOVL R13, DX
	XORQ R10, R10
	XORQ R8, R8
	XORQ R9, R9
	SYSCALL
	JMP wait

request:
	MOVL DX, R13
	MOVL REQ_KIND(R12), BX
	MOVQ REQ_NR(R12), AX
	MOVQ (REQ_ARGS+0)(R12), DI
	MOVQ (REQ_ARGS+8)(R12), SI
	MOVQ (REQ_ARGS+16)(R12), DX
	MOVQ (REQ_ARGS+24)(R12), R10
	MOVQ (REQ_ARGS+32)(R12), R8
	MOVQ (REQ_ARGS+40)(R12), R9
	SYSCALL

	CMPQ BX, $KIND_CALL
	JEQ done
	TESTQ AX, AX
	JEQ child
	JLT done
	CMPQ BX, $KIND_PROCESS
	JEQ done

	// A thread: it says what its listener is.
	MOVQ AX, BX
listener:
	CMPQ RES_LISTENER(R15), $0
	JNE found
	MOVQ $SYS_SCHED_YIELD, AX
	SYSCALL
	JMP listener
found:
	MOVQ BX, AX
done:
	MOVQ AX, RES_VALUE(R15)
	MOVL R13, RES_SEQ(R15)
	MOVQ $SYS_FUTEX, AX
	LEAQ RES_SEQ(R15), DI
	MOVQ $FUTEX_WAKE, SI
	MOVQ $1, DX
	XORQ R10, R10
	XORQ R8, R8
	XORQ R9, R9
	SYSCALL
	JMP wait

child:
	CMPQ BX, $KIND_PROCESS
	JNE thread

	// A new process, still with the zygote's pages: the Sentry changes nothing in them
	// until this process has answered on its own.
	MOVQ $SYS_PRCTL, AX
	MOVQ $1, DI // PR_SET_PDEATHSIG
	MOVQ $9, SI // SIGKILL
	XORQ DX, DX
	XORQ R10, R10
	XORQ R8, R8
	SYSCALL
	TESTQ AX, AX
	JNE fail
	MOVQ $SYS_GETPPID, AX
	SYSCALL
	CMPQ AX, REQ_PARENT(R12)
	JNE fail
	MOVQ REQ_MEMFD(R12), R8
	MOVQ REQ_OFFSET(R12), R9
	XORQ R14, R14
	JMP pages

thread:
	XORQ SP, SP
	MOVQ $SYS_SIGALTSTACK, AX
	LEAQ REQ_STACK(R12), DI
	XORQ SI, SI
	SYSCALL
	TESTQ AX, AX
	JNE unheard
	CMPQ BX, $KIND_GUEST
	JNE filter
	MOVQ $SYS_RT_SIGPROCMASK, AX
	MOVQ $2, DI // SIG_SETMASK
	LEAQ REQ_MASK(R12), SI
	XORQ DX, DX
	MOVQ $8, R10
	SYSCALL
	TESTQ AX, AX
	JNE unheard
filter:
	MOVQ $SYS_SECCOMP, AX
	MOVQ $1, DI // SECCOMP_SET_MODE_FILTER
	MOVQ REQ_FLAGS(R12), SI
	LEAQ REQ_PROGRAM(R12), DX
	SYSCALL
	TESTQ AX, AX
	JLT unheard
	ADDQ $1, AX // a descriptor may be 0
	MOVQ AX, RES_LISTENER(R15)
	CMPQ BX, $KIND_MAPPER
	JEQ mapper

// A guest thread that runs nothing.
park:
	MOVQ $NOTIFY_PARK, AX
	SYSCALL
parked:
	BYTE $0x90 // a jump to a jump would be cut short
	JMP park

// A guest thread that is needed no more.
leave:
	MOVQ $SYS_EXIT, AX
	XORQ DI, DI
	SYSCALL
left:
	BYTE $0x90
	JMP leave

unheard:
	MOVQ AX, RES_LISTENER(R15)
fail:
	MOVQ AX, DI
	NEGQ DI
	MOVQ $SYS_EXIT_GROUP, AX
	SYSCALL
	JMP fail

// mapper makes the system calls of one list after another for the address space. It says what the
// last one returned, and how many were left when one failed.
mapper:
	XORQ DI, DI
	XORQ R13, R13
ask:
	MOVQ R13, SI
	MOVQ $NOTIFY_MAPPER, AX
	SYSCALL
asked:
	MOVQ MAP_COUNT(R12), R13
	LEAQ MAP_CHANGES(R12), R14
change:
	MOVQ 0(R14), AX
	MOVQ 8(R14), DI
	MOVQ 16(R14), SI
	MOVQ 24(R14), DX
	MOVQ 32(R14), R10
	MOVQ 40(R14), R8
	MOVQ 48(R14), R9
	SYSCALL
mapped:
	MOVQ AX, DI
	CMPQ AX, $-4096
	JHI ask
	ADDQ $CHANGE, R14
	SUBQ $1, R13
	JNE change
	JMP ask

// handler takes every signal, on the alternate stack in the thread's slot. DI is the
// signal's number, SP the frame.
handler:
	MOVQ SP, SI
	MOVQ SP, BX
	ORQ $SLOT_MASK, BX
	ADDQ $1, BX
	MOVQ FRAME_RIP, AX
	MOVQ $0x2222222222222222, CX // patched: the address of handler
	CMPQ AX, CX
	JCS fresh
	MOVQ $0x3333333333333333, CX // patched: the address of end
	CMPQ AX, CX
	JCC fresh
	XORQ SI, SI // a signal in this code: the outer frame is whole, and counts
	MOVQ $0x5555555555555555, CX // patched: the address of saved
	CMPQ AX, CX
	JCC saved // the bases are, too
fresh:
	RDFSBASEQ AX
	MOVQ AX, SLOT_FS
	RDGSBASEQ AX
	MOVQ AX, SLOT_GS
saved:
	MOVQ BX, SP
	SUBQ $0x44444444, SP // patched: from a slot's end down to the outer frame
	MOVQ $NOTIFY_FRAME, AX
	SYSCALL
notified:
	// Out to what the frame says. The Sentry has put what IRETQ needs below the frame.
	// IRETQ fails with NT set.
	PUSHQ $0x202
	POPFQ
	MOVQ FRAME_FPSTATE, CX
	MOVL $0xfffffdff, AX // all but PKRU, which could take the frame away
	MOVL $0xffffffff, DX
	XRSTOR64 (CX)
	MOVQ SLOT_FS, AX
	WRFSBASEQ AX
	MOVQ SLOT_GS, AX
	WRGSBASEQ AX
	MOVQ REG(0), R8
	MOVQ REG(1), R9
	MOVQ REG(2), R10
	MOVQ REG(3), R11
	MOVQ REG(4), R12
	MOVQ REG(5), R13
	MOVQ REG(6), R14
	MOVQ REG(7), R15
	MOVQ REG(8), DI
	MOVQ REG(9), SI
	MOVQ REG(10), BP
	MOVQ REG(11), BX
	MOVQ REG(12), DX
	MOVQ REG(13), AX
	MOVQ REG(14), CX
	LEAQ -64(SP), SP
	IRETQ
end:
	INT $3

// func enter(copy, code, shared, offset uintptr)
TEXT ·enter(SB),NOSPLIT|NOFRAME,$0-32
	MOVQ copy+0(FP), R8
	MOVQ code+8(FP), R9
	MOVQ shared+16(FP), R10
	MOVQ offset+24(FP), R12
	JMP R8

// func stubAddress() uintptr
TEXT ·stubAddress(SB),NOSPLIT,$0-8
	MOVQ $·stub(SB), AX
	MOVQ AX, ret+0(FP)
	RET
