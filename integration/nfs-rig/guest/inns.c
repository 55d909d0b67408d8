/* inns a|b -- CMD...: runs CMD in client container A or B (all namespaces of the process whose
 * id is in /run/rig/a.pid). With a pid namespace the command has to be a child; so that the
 * caller may treat this process as the command itself: signals sent here are passed on,
 * SIGKILL of this process kills the command (PDEATHSIG), and the exit status is the command's
 * (128+N if it died of signal N). The host-side pid of the command is this process's child. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
static pid_t child;
static void pass(int s) { if (child > 0) kill(child, s); }
int main(int argc, char **argv) {
  if (argc == 2 && !strcmp(argv[1], "--init")) { /* first process of a client: reaps, never ends */
    signal(SIGCHLD, SIG_IGN); signal(SIGTERM, SIG_IGN);
    for (;;) pause();
  }
  const char *me = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0], *who = "";
  if (!strncmp(me, "on_", 3)) { who = me + 3; argv++; argc--; } /* on_a CMD... */
  else if (argc > 1) { who = argv[1]; argv += 2; argc -= 2; }
  else argc = 0;
  if (argc > 0 && !strcmp(*argv, "--")) { argv++; argc--; }
  if (argc < 1) { fprintf(stderr, "usage: inns a|b [--] CMD...   or   on_a CMD...\n"); return 125; }
  char p[128], cwd[4096]; long pid = 0;
  if (!getcwd(cwd, sizeof cwd)) strcpy(cwd, "/");
  snprintf(p, sizeof p, "/run/rig/%s.pid", who);
  FILE *f = fopen(p, "r");
  if (!f || fscanf(f, "%ld", &pid) != 1) { fprintf(stderr, "inns: no client %s\n", who); return 125; }
  const char *ns[] = {"ipc", "uts", "net", "pid", "mnt"};
  int fd[5];
  for (int i = 0; i < 5; i++) {
    snprintf(p, sizeof p, "/proc/%ld/ns/%s", pid, ns[i]);
    if ((fd[i] = open(p, O_RDONLY | O_CLOEXEC)) < 0) { fprintf(stderr, "inns: %s: %s\n", p, strerror(errno)); return 125; }
  }
  for (int i = 0; i < 5; i++) if (setns(fd[i], 0)) { perror("inns: setns"); return 125; }
  if (chdir(cwd) && chdir("/")) return 125;
  int sigs[] = {SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH};
  sigset_t all, old; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, &old);
  child = fork();
  if (child < 0) { perror("inns: fork"); return 125; }
  if (!child) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigprocmask(SIG_SETMASK, &old, 0);
    execvp(*argv, argv);
    fprintf(stderr, "inns: %s: %s\n", *argv, strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
  }
  for (unsigned i = 0; i < sizeof sigs / sizeof *sigs; i++) {
    struct sigaction sa = {.sa_handler = pass}; struct sigaction was;
    sigaction(sigs[i], 0, &was);
    if (was.sa_handler != SIG_IGN) sigaction(sigs[i], &sa, 0);
  }
  sigprocmask(SIG_SETMASK, &old, 0);
  int st;
  while (waitpid(child, &st, 0) < 0 && errno == EINTR) ;
  return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}
