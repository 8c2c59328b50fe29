/* Holds a pod's namespaces open: sleeps, reaps orphans as process 1, leaves on a signal. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal_number) {
    (void)signal_number;
    _exit(0);
}

static void reap(int signal_number) {
    (void)signal_number;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        puts("pause " VERSION " (Keystone lab)");
        return 0;
    }
    struct sigaction leaving = {.sa_handler = leave};
    struct sigaction reaping = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
    if (sigaction(SIGINT, &leaving, NULL) || sigaction(SIGTERM, &leaving, NULL) ||
        sigaction(SIGCHLD, &reaping, NULL)) {
        perror("sigaction");
        return 1;
    }
    for (;;) {
        pause();
    }
}
