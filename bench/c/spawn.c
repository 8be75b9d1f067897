/*
 * Times a command as a whole process: from before it is started until it has been waited for. It runs where the kernel puts it;
 * its output goes nowhere. Nanoseconds of each run, a line each, on stdout.
 *
 *   spawn RUNS COMMAND [ARGUMENT...]
 */
#include "harness.h"
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv) {
	if (argc < 3) return 2;
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	for (int fd = 0; fd < 3; fd++) posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", fd == 0 ? O_RDONLY : O_WRONLY, 0);
	for (int i = 0; i < atoi(argv[1]); i++) {
		pid_t pid;
		int status;
		uint64_t start = now_ns();
		errno = posix_spawnp(&pid, argv[2], &actions, NULL, argv + 2, environ);
		if (errno != 0) die(argv[2]);
		waitpid(pid, &status, 0);
		printf("%lu\n", now_ns() - start);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
		fprintf(stderr, "%s ended with status %d\n", argv[2], status);
		return 1;
	}
	return 0;
}
