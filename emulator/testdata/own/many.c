// many begins as many threads as it is told, and then processes, until it has them or is told to
// try again, ends them, and does it once more. Each of them runs before the next begins.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static sem_t begun;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

static void *thread(void *unused) {
	sem_post(&begun);
	pthread_mutex_lock(&held);
	pthread_mutex_unlock(&held);
	return 0;
}

static void threads(int n) {
	pthread_attr_t small;
	pthread_t *all = calloc(n, sizeof *all);
	int i, err = 0;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 32768);
	pthread_mutex_lock(&held);
	for (i = 0; i < n && !(err = pthread_create(&all[i], &small, thread, 0)); i++)
		sem_wait(&begun);
	pthread_mutex_unlock(&held);
	for (int j = 0; j < i; j++)
		pthread_join(all[j], 0);
	printf("threads %s %d\n", i == n ? "all" : i > 20 ? "some" : "few", err);
	fflush(stdout);
	free(all);
}

static void processes(int n) {
	pid_t *all = calloc(n, sizeof *all);
	int i, err = 0, p[2];
	char c;
	if (pipe(p))
		exit(1);
	for (i = 0; i < n; i++) {
		if ((all[i] = fork()) < 0) {
			err = errno;
			break;
		}
		if (all[i] == 0) {
			if (write(p[1], "", 1) != 1)
				_exit(1);
			for (;;)
				pause();
		}
		if (read(p[0], &c, 1) != 1)
			exit(1);
	}
	int died = 0, status;
	for (int j = 0; j < i; j++)
		kill(all[j], SIGTERM);
	for (int j = 0; j < i; j++)
		if (waitpid(all[j], &status, 0) != all[j] || !WIFSIGNALED(status) || WTERMSIG(status) != SIGTERM)
			died++;
	printf("processes %s %d, %d died otherwise\n", i == n ? "all" : i > 20 ? "some" : "few", err, died);
	fflush(stdout);
	close(p[0]), close(p[1]);
	free(all);
}

int main(int argc, char **argv) {
	sem_init(&begun, 0, 0);
	for (int round = 0; round < 2; round++) {
		threads(atoi(argv[1]));
		processes(atoi(argv[2]));
	}
	return 0;
}
