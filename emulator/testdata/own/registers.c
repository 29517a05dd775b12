// registers holds patterns in every register while signals, forks, threads and system
// calls go on, and says what was lost.
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int handled;
static __thread int own;

__attribute__((target("avx2"))) static void handler(int sig, siginfo_t *i, void *u) {
	char here;
	stack_t s;
	sigaltstack(0, &s);
	if (!(s.ss_flags & SS_ONSTACK) || &here < (char *)s.ss_sp || &here >= (char *)s.ss_sp + s.ss_size)
		_exit(2);
	__asm__ volatile("vpcmpeqd %%ymm0,%%ymm0,%%ymm0\n vmovdqa %%ymm0,%%ymm7\n vmovdqa %%ymm0,%%ymm15"
			 : : : "xmm0", "xmm7", "xmm15");
	__atomic_add_fetch(&handled, 1, __ATOMIC_SEQ_CST);
	getppid();
}

// hold loads registers from seed, spins or makes system calls, and counts what changed.
__attribute__((target("avx2"), noinline)) static int hold(uint64_t seed, int n, int call) {
	uint8_t in[16 * 32], out[16 * 32];
	uint64_t a, b, c, d, e;
	for (unsigned i = 0; i < sizeof in; i++)
		in[i] = seed * 31 + i * 7;
	__asm__ volatile(
		"mov %[in], %%rax\n"
		".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqu \\i*32(%%rax), %%ymm\\i\n .endr\n"
		"mov %[seed], %%rbx\n lea 1(%%rbx), %%r12\n lea 2(%%rbx), %%r13\n lea 3(%%rbx), %%r14\n lea 4(%%rbx), %%r15\n"
		"mov %[n], %%r8d\n mov %[call], %%r9d\n"
		"1: test %%r9d, %%r9d\n jz 2f\n mov $110, %%eax\n syscall\n"
		"2: dec %%r8d\n jnz 1b\n"
		"mov %[out], %%rax\n"
		".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqu %%ymm\\i, \\i*32(%%rax)\n .endr\n"
		"mov %%rbx, %%rax\n mov %%r12, %%rcx\n mov %%r13, %%rdx\n mov %%r14, %%rsi\n mov %%r15, %%rdi\n"
		: "=a"(a), "=c"(b), "=d"(c), "=S"(d), "=D"(e)
		: [in] "m"(*(char **)&(char *){(char *)in}), [out] "m"(*(char **)&(char *){(char *)out}), [seed] "m"(seed),
		  [n] "m"(n), [call] "m"(call)
		: "rbx", "r8", "r9", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
		  "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return memcmp(in, out, sizeof in) != 0 || a != seed || b != seed + 1 || c != seed + 2 || d != seed + 3 || e != seed + 4;
}

static int lost;
static pthread_barrier_t ready;
static int want;

static void *work(void *arg) {
	static __thread char stack[65536];
	stack_t s = {.ss_sp = stack, .ss_size = sizeof stack};
	sigaltstack(&s, 0);
	pthread_barrier_wait(&ready);
	own = (long)arg;
	for (uint64_t i = 0; handled < want; i++) {
		if (hold(i * 0x9e3779b97f4a7c15u + (long)arg, 20000, 0) || hold(i, 50, 1) || own != (int)(long)arg)
			__atomic_add_fetch(&lost, 1, __ATOMIC_SEQ_CST);
		if ((long)arg && i % 16 == 0)
			pthread_kill(pthread_self(), SIGUSR1);
	}
	return 0;
}

int main(int argc, char **argv) {
	want = argc > 1 ? atoi(argv[1]) : 500;
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
	sigaction(SIGALRM, &sa, 0);
	sigaction(SIGUSR1, &sa, 0);
	struct itimerval v = {{0, 1000}, {0, 1000}};
	pthread_t t[3];
	pthread_barrier_init(&ready, 0, 4);
	for (long i = 0; i < 3; i++)
		pthread_create(&t[i], 0, work, (void *)(i + 1));
	char stack[65536];
	stack_t s = {.ss_sp = stack, .ss_size = sizeof stack};
	sigaltstack(&s, 0);
	pthread_barrier_wait(&ready);
	setitimer(ITIMER_REAL, &v, 0);
	int children = 0;
	for (int i = 0; handled < want; i++) {
		pid_t p = fork();
		if (p == 0)
			_exit(hold(i, 2000, 0) || hold(i, 20, 1));
		int status;
		while (waitpid(p, &status, 0) != p)
			;
		if (status)
			lost++;
		children++;
	}
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], 0);
	printf("signals %d lost %d children %s\n", handled >= want, lost, children ? "some" : "none");
	return lost != 0;
}
