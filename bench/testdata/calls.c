// calls times what a guest pays for, one row a line: its name, and nanoseconds of one, the
// least of several rounds. Of two processes at once, it prints how often they did it in a
// second, together and one alone.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { rounds = 5 };

static const char *self;

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void row(const char *name, int n, void (*f)(int)) {
	double least = 1e18;
	for (int r = 0; r < rounds; r++) {
		double t = now();
		f(n);
		t = (now() - t) / n;
		if (t < least)
			least = t;
	}
	printf("row %s %.0f\n", name, least);
	fflush(stdout);
}

static void getppids(int n) {
	while (n--)
		syscall(SYS_getppid);
}

static void pipes(int n) {
	int a[2], b[2];
	char c = 0;
	if (pipe(a) || pipe(b))
		fail("pipe");
	if (fork() == 0) {
		for (int i = 0; i < n; i++)
			if (read(a[0], &c, 1) != 1 || write(b[1], &c, 1) != 1)
				fail("pipe in the child");
		_exit(0);
	}
	for (int i = 0; i < n; i++)
		if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1)
			fail("pipe");
	wait(0);
	close(a[0]), close(a[1]), close(b[0]), close(b[1]);
}

static void pages(int n) {
	char *p = mmap(0, n * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		fail("mmap");
	for (int i = 0; i < n; i++)
		p[i * 4096L] = 1;
	munmap(p, n * 4096L);
}

static void maps(int n) {
	while (n--) {
		char *p = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			fail("mmap");
		p[0] = 1;
		munmap(p, 16384);
	}
}

static void forks(int n) {
	while (n--) {
		pid_t pid = fork();
		if (pid < 0)
			fail("fork");
		if (pid == 0)
			_exit(0);
		wait(0);
	}
}

static void execs(int n) {
	while (n--) {
		int status;
		pid_t pid = fork();
		if (pid < 0)
			fail("fork");
		if (pid == 0) {
			execl(self, self, "exit", (char *)0);
			fail("exec");
		}
		wait(&status);
		if (status)
			fail("the child");
	}
}

static void shell(int n) {
	while (n--) {
		char script[200];
		int status;
		snprintf(script, sizeof script, "i=0; while [ $i -lt 100 ]; do %s exit || exit 1; i=$((i+1)); done", self);
		if (fork() == 0) {
			execl("/bin/busybox", "sh", "-c", script, (char *)0);
			fail("exec of a shell");
		}
		wait(&status);
		if (status)
			fail("the shell");
	}
}

static void files(int n) {
	char name[64], data[1024] = {0};
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof name, "/tmp/%d", i);
		int fd = open(name, O_CREAT | O_WRONLY, 0644);
		if (fd < 0 || write(fd, data, sizeof data) != sizeof data)
			fail(name);
		close(fd);
	}
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof name, "/tmp/%d", i);
		if (unlink(name))
			fail(name);
	}
}

static volatile sig_atomic_t over;

static void stop(int signal) {
	over = 1;
}

static void compute(void) {
	static volatile unsigned x;
	for (int i = 0; i < 1000; i++)
		x = x * 1103515245 + 12345;
}

static void call(void) {
	syscall(SYS_getppid);
}

// together is how often the processes do it in a second.
static double together(int processes, void (*f)(void)) {
	int p[2];
	if (pipe(p))
		fail("pipe");
	for (int i = 0; i < processes; i++)
		if (fork() == 0) {
			long n = 0;
			signal(SIGALRM, stop);
			alarm(2);
			double t = now();
			while (!over) {
				f();
				n++;
			}
			double rate = n / (now() - t) * 1e9;
			if (write(p[1], &rate, sizeof rate) != sizeof rate)
				fail("write");
			_exit(0);
		}
	double sum = 0, rate;
	for (int i = 0; i < processes; i++) {
		if (read(p[0], &rate, sizeof rate) != sizeof rate)
			fail("read");
		sum += rate;
	}
	while (wait(0) > 0)
		;
	close(p[0]), close(p[1]);
	return sum;
}

static void both(const char *name, void (*f)(void)) {
	double one = together(1, f);
	printf("both %s %.0f %.0f\n", name, together(2, f), one);
	fflush(stdout);
}

// sleepers are n processes that wait, until the end.
static void sleepers(int n) {
	for (int i = 0; i < n; i++)
		if (fork() == 0) {
			execl(self, self, "sleep", (char *)0);
			fail("exec");
		}
}

int main(int argc, char **argv) {
	self = argv[0];
	if (argc < 2)
		return 1;
	if (!strcmp(argv[1], "exit"))
		return 0;
	if (!strcmp(argv[1], "sleep")) {
		pause();
		return 1;
	}
	if (!strcmp(argv[1], "sleepers") && argc == 3) {
		sleepers(atoi(argv[2]));
		return 0;
	}
	if (!strcmp(argv[1], "both")) {
		both("calls", call);
		both("computation", compute);
		return 0;
	}
	row("getppid", 50000, getppids);
	row("pipe", 10000, pipes);
	row("fork", 200, forks);
	row("exec", 100, execs);
	row("sh", 1, shell);
	row("page", 20000, pages);
	row("map", 3000, maps);
	row("files", 3000, files);
	return 0;
}
