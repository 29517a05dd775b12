// hostile is a guest that attacks what runs it: seed and rounds. Each attack is a child's, which may
// die of it. What must live is the machine, and a victim that notices everything done to it.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

// The stub, docs/platform.md.
enum { page = 4096, slot = 16384 };
static const uint64_t code = 0x7fff80000000, requests = 0x7fff80001000, results = 0x7fff80002000, slots = 0x7fff80010000,
	end = 0x7ffffffff000;

static uint64_t state;

static uint64_t draw(uint64_t n) {
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (state >> 8) % n;
}

uint64_t registers[17], target;

// leap goes to target with all registers as they are there.
static void leap(void) {
	__asm__ volatile(
		"lea registers(%rip),%r15\n mov 0(%r15),%rax\n mov 8(%r15),%rbx\n mov 16(%r15),%rcx\n mov 24(%r15),%rdx\n"
		"mov 32(%r15),%rsi\n mov 40(%r15),%rdi\n mov 48(%r15),%rbp\n mov 56(%r15),%r8\n mov 64(%r15),%r9\n"
		"mov 72(%r15),%r10\n mov 80(%r15),%r11\n mov 88(%r15),%r12\n mov 96(%r15),%r13\n mov 104(%r15),%r14\n"
		"mov 120(%r15),%rsp\n mov 112(%r15),%r15\n jmp *target(%rip)\n");
}

static uint64_t word(void) {
	static const uint64_t numbers[] = {9, 10, 11, 15, 56, 57, 59, 60, 62, 101, 157, 202, 231, 234, 317, 0x3ff1, 0x3ff2, 0x3ff3};
	switch (draw(8)) {
	case 0: return draw(600);
	case 1: return numbers[draw(sizeof numbers / sizeof *numbers)];
	case 2: return code + draw(page);
	case 3: return requests + draw(2 * page);
	case 4: return slots + draw(4 * slot);
	case 5: return (uint64_t)registers + draw(256);
	case 6: return 1ull << draw(64);
	default: return state;
	}
}

// inside enters the stub anywhere, with harmful registers.
static void inside(void) {
	for (int i = 0; i < 16; i++)
		registers[i] = word();
	if (draw(2))
		registers[15] = slots + draw(3 * slot);
	target = code + draw(1024);
	leap();
}

// nowhere goes where no code can be.
static void nowhere(void) {
	static const uint64_t places[] = {0x7fffffffffff, 0x7ffffffff000, 0x800000000000, 0xffff800000000000, 0xffffffffff600000, 0xffffffffff600400, ~0ull, 0};
	for (int i = 0; i < 16; i++)
		registers[i] = word();
	target = places[draw(sizeof places / sizeof *places)];
	leap();
}

static void *scribble(void *unused) {
	for (;;) {
		uint64_t at = draw(8) ? slots + draw(8 * slot) : results + draw(page);
		*(volatile uint64_t *)(at & ~7ull) = word();
	}
	return 0;
}

static void *call(void *unused) {
	for (;;)
		syscall(SYS_getppid);
	return 0;
}

static void nothing(int sig) {}

// forge writes to the shared pages while other threads use them.
static void forge(void) {
	pthread_t t;
	struct sigaction act = {.sa_handler = nothing, .sa_flags = SA_NODEFER};
	sigaction(SIGVTALRM, &act, 0);
	for (int i = 0; i < 3; i++)
		pthread_create(&t, 0, i ? call : scribble, 0);
	for (int i = 0; i < 200; i++) {
		syscall(SYS_tgkill, getpid(), getpid(), SIGVTALRM);
		pthread_create(&t, 0, call, 0);
		if (fork() == 0)
			_exit(0);
	}
	_exit(0);
}

// standing has its stack in the stub.
static void standing(void) {
	for (int i = 0; i < 16; i++)
		registers[i] = word();
	registers[15] = (draw(2) ? slots + draw(2 * slot) : requests + draw(2 * page)) & ~7ull;
	static const uint8_t programs[][8] = {{0x0f, 0x05, 0xeb, 0xfc}, {0x0f, 0x0b}, {0xcc}, {0x50, 0xeb, 0xfd}, {0x58, 0xeb, 0xfd}, {0xe8, 0xfb, 0xff, 0xff, 0xff}, {0xcf}, {0x48, 0xcf}};
	uint8_t *p = mmap(0, page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(p, programs[draw(sizeof programs / sizeof *programs)], 8);
	target = (uint64_t)p;
	leap();
}

// flags has odd ones set where it calls.
static void flags(void) {
	static const uint64_t odd[] = {0x100, 0x4000, 0x40000, 0x400, 0x10000, 0x200000, 0x3000};
	uint64_t f = odd[draw(7)] | odd[draw(7)] | 0x202;
	for (int i = 0; i < 10; i++)
		__asm__ volatile("push %0\n popf\n syscall\n pushq $0x202\n popf" : : "r"(f), "a"(SYS_getppid) : "rcx", "r11", "memory", "cc");
	_exit(0);
}

// old makes system calls as other machines do.
static void old(void) {
	uint64_t nr = draw(3) ? draw(450) : 1ull << 30 | draw(600);
	switch (draw(3)) {
	case 0: __asm__ volatile("int $0x80" : "+a"(nr) : "b"(word()), "c"(word()), "d"(word()) : "memory"); break;
	case 1: __asm__ volatile("sysenter" : "+a"(nr) : : "memory", "rcx", "rdx"); break;
	case 2: __asm__ volatile("syscall" : "+a"(nr) : "D"(word()), "S"(word()), "d"(word()) : "memory", "rcx", "r11"); break;
	}
	_exit(0);
}

static void bad(const char *what, long at) {
	printf("BAD %s at %#lx\n", what, at);
	fflush(stdout);
	_exit(9);
}

static void refusedAt(uint64_t at) {
	char *mine = mmap(0, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mmap((void *)at, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
		bad("mmap", at);
	if (mmap((void *)at, 2 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == (void *)at)
		bad("mmap", at);
	if (mprotect((void *)at, 2 * page, PROT_READ | PROT_WRITE | PROT_EXEC) == 0)
		bad("mprotect", at);
	if (mremap((void *)at, page, 2 * page, MREMAP_MAYMOVE) != MAP_FAILED)
		bad("mremap from", at);
	if (mremap(mine, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED && at + page > code)
		bad("mremap to", at);
	if (madvise((void *)at, 2 * page, MADV_DONTNEED) == 0)
		bad("madvise", at);
	int p[2];
	if (pipe(p) || write(p[1], "x", 1) != 1)
		bad("pipe", 0);
	if (at >= code && (read(p[0], (void *)at, 1) == 1 || write(p[1], (void *)at, 1) == 1))
		bad("read or write", at);
	munmap((void *)at, end - at);
}

// refused changes and names the stub's memory by system calls: all fail, and it lives.
static void refused(void) {
	struct itimerval never = {{0, 0}, {0, 0}};
	setitimer(ITIMER_REAL, &never, 0);
	refusedAt(code), refusedAt(requests), refusedAt(results), refusedAt(slots), refusedAt(code - page), refusedAt(end - slot);
	if (fork() == 0)
		_exit(getppid() == 0);
	int status;
	wait(&status);
	_exit(status);
}

static void (*const attacks[])(void) = {inside, inside, nowhere, forge, standing, flags, old, refused};

// victim fills memory and registers, and looks at them between system calls and signals.
static void victim(int until) {
	struct itimerval often = {{0, 3000}, {0, 3000}};
	struct sigaction act = {.sa_handler = nothing};
	uint64_t *memory = mmap(0, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t n = 0;
	char c;
	sigaction(SIGALRM, &act, 0);
	setitimer(ITIMER_REAL, &often, 0);
	for (;; n++) {
		for (int i = 0; i < 64 * page / 8; i += 512)
			memory[i] = n + i;
		register uint64_t b __asm__("rbx") = n ^ 1, d __asm__("r12") = n ^ 2, e __asm__("r13") = n ^ 3, f __asm__("r14") = n ^ 4;
		uint64_t a = SYS_getppid;
		__asm__ volatile("movq %4,%%xmm7\n syscall\n movq %%xmm7,%%rdx\n cmp %4,%%rdx\n jne 1f\n jmp 2f\n1: ud2\n2:"
				 : "+a"(a), "+r"(b), "+r"(d), "+r"(e), "+r"(f) : : "rcx", "r11", "rdx", "xmm7", "memory", "cc");
		if (b != (n ^ 1) || d != (n ^ 2) || e != (n ^ 3) || f != (n ^ 4) || (pid_t)a != getppid())
			_exit(2);
		for (int i = 0; i < 64 * page / 8; i += 512)
			if (memory[i] != n + i)
				_exit(3);
		if (n % 64 == 0) {
			int got = recv(until, &c, 1, MSG_DONTWAIT);
			if (got == 1)
				_exit(n > 100 ? 0 : 4);
		}
	}
}

int main(int argc, char **argv) {
	int p[2], status, died = 0, lived = 0;
	state = strtoull(argv[1], 0, 0) * 2654435761u + 88172645463325252ull;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, p))
		return 1;
	pid_t v = fork();
	if (v == 0)
		victim(p[0]);
	for (int i = 0; i < atoi(argv[2]); i++) {
		void (*attack)(void) = attacks[i % (sizeof attacks / sizeof *attacks)];
		draw(1);
		pid_t pid = fork();
		if (pid == 0) {
			struct itimerval most = {{0, 0}, {0, 50000}};
			setitimer(ITIMER_REAL, &most, 0);
			// What it has the guest's own kernel do shall not reach the others.
			if (setpgid(0, 0) || setuid(65534))
				_exit(9);
			attack();
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid) {
			perror("an attack's process");
			return 1;
		}
		if (attack == refused && status) {
			printf("BAD: attack %d of %d, status %#x\n", i, (int)(sizeof attacks / sizeof *attacks), status);
			return 1;
		}
		if (WIFSIGNALED(status))
			died++;
		else
			lived++;
	}
	if (write(p[1], "", 1) != 1 || waitpid(v, &status, 0) != v) {
		perror("the victim");
		return 1;
	}
	printf("hostile: %s died, %s lived, the victim's status is %#x\n", died ? "some" : "none", lived ? "some" : "none", status);
	return 0;
}
