// semantics prints what a program sees of signals, threads, memory, tracing and filters, in lines
// that are the same on every kernel.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reg.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { page = 4096 };

#define say(...) (printf(__VA_ARGS__), putchar('\n'), fflush(stdout))

// result is a system call's, or minus its error.
static long result(long r) {
	return r < 0 ? -errno : r;
}

static sigjmp_buf back;
static volatile int got, code, onstack;
static void *volatile where;
static char alternate[65536];

static void on(int sig, siginfo_t *i, void *context) {
	stack_t s;
	sigaltstack(0, &s);
	got = sig, code = i->si_code, where = i->si_addr, onstack = s.ss_flags;
	if (sig != SIGUSR1 && sig != SIGALRM && sig != SIGTRAP)
		siglongjmp(back, 1);
}

static void take(int sig, int flags) {
	struct sigaction act = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | flags};
	sigaction(sig, &act, 0);
}

static void faults(void) {
	char *p = mmap(0, 2 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t s = {alternate, 0, sizeof alternate};
	sigaltstack(&s, 0);
	take(SIGSEGV, SA_ONSTACK), take(SIGBUS, 0), take(SIGFPE, 0), take(SIGILL, 0), take(SIGTRAP, SA_ONSTACK);
	if (!sigsetjmp(back, 1))
		*(volatile char *)p = 1;
	say("write to read-only: %d code %d at %d on stack %d", got, code, (int)((char *)where - p), onstack);
	sigaltstack(0, &s);
	say("left it by a jump: flags %d", s.ss_flags);
	munmap(p + page, page);
	if (!sigsetjmp(back, 1))
		*(volatile char *)(p + page + 17);
	say("read of nothing: %d code %d at %d", got, code, (int)((char *)where - p));
	if (!sigsetjmp(back, 1))
		((void (*)(void))p)();
	say("execute: %d code %d at %d", got, code, (int)((char *)where - p));
	if (!sigsetjmp(back, 1))
		*(volatile char *)0x8000000000000000;
	say("not canonical: %d code %d at %p", got, code, where);
	if (!sigsetjmp(back, 1))
		((void (*)(void))0x0000800000000000)();
	say("to where no code can be: %d code %d", got, code);
	if (!sigsetjmp(back, 1))
		__asm__ volatile("ud2");
	say("ud2: %d code %d", got, code);
	volatile int zero = 0;
	if (!sigsetjmp(back, 1))
		zero = 1 / zero;
	say("division: %d code %d", got, code);
	if (!sigsetjmp(back, 1))
		__asm__ volatile("hlt");
	say("hlt: %d code %d", got, code);
	got = 0;
	__asm__ volatile("int3");
	say("int3: %d code %d on stack %d", got, code, onstack);
	got = 0;
	__asm__ volatile("pushf\n orl $0x100,(%%rsp)\n popf\n nop\n pushf\n andl $~0x100,(%%rsp)\n popf" : : : "memory", "cc");
	say("single step: %d code %d", got, code);
	int fd = memfd_create("f", 0);
	char *f = ftruncate(fd, page) ? 0 : mmap(0, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!sigsetjmp(back, 1))
		f[page] = 1;
	say("past the end: %d at %d", got, (int)((char *)where - f));
	// In the kernel's own copies.
	int q[2];
	if (pipe(q))
		exit(1);
	say("write from nothing: %ld", result(write(q[1], p + page, 1)));
	say("write: %ld", result(write(q[1], p, 8)));
	say("read to read-only: %ld", result(read(q[0], p, 8)));
	struct iovec v = {p + page, 8};
	say("writev: %ld", result(writev(q[1], &v, 1)));
	say("past the end of a file: %ld", result(write(q[1], f + page, 1)));
	say("sigaltstack on nothing: %ld", result(sigaltstack((stack_t *)(p + page), 0)));
	say("to the stack of a signal, unmapped: %d", ({
		pid_t pid = fork();
		if (!pid) {
			stack_t bad = {p + page, 0, page};
			signal(SIGSEGV, SIG_DFL);
			sigaltstack(&bad, 0), take(SIGUSR1, SA_ONSTACK), raise(SIGUSR1), _exit(0);
		}
		int status;
		waitpid(pid, &status, 0);
		status & 0x7f;
	}));
}

static volatile long count;

static void timers(void) {
	struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
	take(SIGALRM, SA_RESTART);
	setitimer(ITIMER_REAL, &often, 0);
	double x = 1;
	got = 0;
	for (count = 0; count < 20000000; count++)
		x = x * 1.0000001;
	int q[2], n = pipe(q);
	pid_t pid = fork();
	if (!pid) {
		usleep(20000);
		n = write(q[1], "x", 1);
		_exit(0);
	}
	char c;
	n = read(q[0], &c, 1);
	setitimer(ITIMER_REAL, &never, 0);
	while (waitpid(pid, 0, 0) < 0 && errno == EINTR)
		;
	say("timer: %d, restarted read %d, sum %.3f", got, n, x);
}

static int shared;

static int child(void *p) {
	shared++;
	return *(int *)p;
}

static int spin(void *p) {
	syscall(SYS_set_tid_address, 0);
	__atomic_add_fetch(&shared, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static void clones(void) {
	static char stack[65536] __attribute__((aligned(16)));
	int arg = 7, status = 0, tid = 1, ptid = 0;
	shared = 0;
	pid_t pid = vfork();
	if (pid == 0) {
		shared = 5;
		_exit(3);
	}
	waitpid(pid, &status, 0);
	say("vfork: %d, status %#x", shared, status);
	pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &arg);
	waitpid(pid, &status, 0);
	say("clone VM VFORK: %d, status %#x", shared, status);
	pid = clone(child, stack + sizeof stack, CLONE_FS | CLONE_FILES | SIGCHLD | CLONE_PARENT_SETTID, &arg, &ptid);
	waitpid(pid, &status, 0);
	say("clone FILES: %d, status %#x, id %d", shared, status, ptid == pid);
	pid = clone(spin, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
		CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_DETACHED, &arg, &ptid, stack, &tid);
	while (__atomic_load_n(&shared, __ATOMIC_SEQ_CST) != 7)
		sched_yield();
	say("thread: %d, id %d", shared, ptid == pid);
}

struct robust {
	struct robust_list_head head;
	struct {
		struct robust_list list;
		uint32_t futex;
	} lock;
} robust;

static void *dies(void *unused) {
	robust.head.list.next = &robust.lock.list;
	robust.lock.list.next = &robust.head.list;
	robust.head.futex_offset = offsetof(struct robust, lock.futex) - offsetof(struct robust, lock.list);
	robust.lock.futex = syscall(SYS_gettid);
	syscall(SYS_set_robust_list, &robust.head, sizeof robust.head);
	return 0;
}

static void threads(void) {
	pthread_t t;
	pthread_create(&t, 0, dies, 0);
	pthread_join(t, 0);
	for (int i = 0; i < 1000 && !(robust.lock.futex & FUTEX_OWNER_DIED); i++)
		usleep(1000);
	say("robust list: owner died %d", !!(robust.lock.futex & FUTEX_OWNER_DIED));
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutex_t *shared = mmap(0, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutex_init(shared, &a);
	if (fork() == 0) {
		pthread_mutex_lock(shared);
		_exit(0);
	}
	wait(0);
	say("robust mutex: %s", pthread_mutex_lock(shared) == EOWNERDEAD ? "EOWNERDEAD" : "none");
	struct timespec before, after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	for (int i = 0; i < 100000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &after);
		if (after.tv_sec < before.tv_sec || (after.tv_sec == before.tv_sec && after.tv_nsec < before.tv_nsec)) {
			say("the clock went back");
			break;
		}
		before = after;
	}
	struct timespec call;
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &call);
	say("vdso and call: %d", call.tv_sec - after.tv_sec < 2 && call.tv_sec >= after.tv_sec);
}

static void storms(void) {
	char *base = mmap(0, 256 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("s", 0);
	if (ftruncate(fd, 256 * page))
		exit(1);
	unsigned seed = 1;
	long sum = 0;
	for (int i = 0; i < 3000; i++) {
		seed = seed * 1103515245 + 12345;
		int at = seed >> 8 & 255, n = (seed >> 16 & 15) + 1;
		n = at + n > 256 ? 256 - at : n;
		switch (seed >> 20 & 3) {
		case 0: mmap(base + at * page, n * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
		case 1: mmap(base + at * page, n * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, at * page); break;
		case 2: mprotect(base + at * page, n * page, seed >> 24 & 1 ? PROT_READ : PROT_READ | PROT_WRITE); break;
		case 3: mmap(base + at * page, n * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
		}
		if (!sigsetjmp(back, 1)) {
			base[at * page + 5]++;
			sum += base[at * page + 5];
		} else
			sum += 1000;
	}
	say("storm: %ld", sum);
	char *high = mmap((char *)0x7fff7fff0000 - 16 * page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	say("high: %d", high != MAP_FAILED && (*high = 1));
	char *grown = mmap(0, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*grown = 42;
	grown = mremap(grown, page, 64 * page, MREMAP_MAYMOVE);
	grown[63 * page] = 1;
	say("mremap: %d", *grown);
}

static void traced(void) {
	struct user_regs_struct r;
	int status, steps = 0;
	volatile long secret = 0x1234;
	pid_t pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		__asm__ volatile("mov $0x1122334455667788,%%r12\n mov $39,%%eax\n syscall\n nop\n nop\n cmp $99,%%eax\n jne 1f\n movq $1,%0\n1:" : "+m"(secret) : : "rax", "rcx", "r11", "r12", "memory");
		_exit(secret == 1 ? 21 : 22);
	}
	waitpid(pid, &status, 0);
	say("traced: stopped %d", WSTOPSIG(status));
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD);
	for (;;) {
		ptrace(PTRACE_SYSCALL, pid, 0, 0);
		waitpid(pid, &status, 0);
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		if (!WIFSTOPPED(status) || r.orig_rax == 39)
			break;
	}
	say("enters getpid: %d, r12 %llx", WSTOPSIG(status), r.r12);
	ptrace(PTRACE_SYSCALL, pid, 0, 0);
	waitpid(pid, &status, 0);
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	say("leaves it: %d", r.rax == (unsigned long)pid);
	r.rax = 99;
	ptrace(PTRACE_SETREGS, pid, 0, &r);
	for (; steps < 3; steps++) {
		ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
		waitpid(pid, &status, 0);
	}
	say("steps: %d, signal %d, peek %lx", steps, WSTOPSIG(status), ptrace(PTRACE_PEEKDATA, pid, &secret, 0));
	ptrace(PTRACE_CONT, pid, 0, 0);
	waitpid(pid, &status, 0);
	say("exit: %d", WEXITSTATUS(status));
}

static void filtered(void) {
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getuid, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP | 5),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getgid, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog prog = {sizeof f / sizeof *f, f};
	int status;
	pid_t pid = fork();
	if (!pid) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		say("filter: %ld", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog));
		say("refused: %ld", result(syscall(SYS_getppid)));
		take(SIGSYS, 0);
		if (!sigsetjmp(back, 1))
			syscall(SYS_getuid);
		say("trapped: %d code %d", got, code);
		syscall(SYS_getgid);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	say("killed: %d", status & 0x7f);
}

int main(void) {
	faults();
	timers();
	clones();
	threads();
	storms();
	traced();
	filtered();
	return 0;
}
