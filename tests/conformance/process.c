/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a point of either suite in a process group of its own and turns whatever becomes of it,
 * an answer, a crash, a hang, into one outcome. Never loads the plugin itself.
 */
#include "suite.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t fc_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void fc_sleep_ms(unsigned ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&ts, &ts) && errno == EINTR)
        ;
}

struct fc_shared *fc_shared_new(void)
{
    void *mem = mmap(NULL, sizeof(struct fc_shared), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return mem == MAP_FAILED ? NULL : mem;
}

void fc_shared_free(struct fc_shared *shared)
{
    munmap(shared, sizeof(*shared));
}

/* False: still there after limit_ms. */
static bool wait_child(pid_t pid, uint64_t limit_ms, int *how_out)
{
    uint64_t end = fc_now_ms() + limit_ms;
    for (;;) {
        pid_t got = waitpid(pid, how_out, WNOHANG);
        if (got == pid)
            return true;
        if (got < 0 || fc_now_ms() > end)
            return false;
        fc_sleep_ms(2);
    }
}

static void join_log(const struct fc_shared *shared, char *out, size_t room)
{
    unsigned end = atomic_load(&shared->log_at);
    unsigned from = end > FC_COUNT(shared->log) ? end - (unsigned)FC_COUNT(shared->log) : 0;
    size_t at = 0;
    out[0] = '\0';
    for (unsigned i = from; i < end && at < room; i++) {
        int n = snprintf(out + at, room - at, "%s%s", at ? "\n" : "",
                         shared->log[i % FC_COUNT(shared->log)]);
        at += n > 0 ? (size_t)n : 0;
    }
}

bool fc_run_process(struct fc_shared *shared, int number, const char *name, const char *about,
                    uint64_t limit_ms, void (*child)(void *arg), void *arg,
                    struct fc_outcome *out)
{
    static char log[4200];
    memset(shared, 0, sizeof(*shared));
    uint64_t begin = fc_now_ms();
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return false;
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        child(arg);
        atomic_store(&shared->ended, 1 + FC_PASS);
        exit(0); /* not _exit: a leak checker has its say */
    }
    setpgid(pid, pid);
    int how = 0;
    bool hung = !wait_child(pid, limit_ms, &how);
    kill(-pid, SIGKILL);
    if (hung)
        waitpid(pid, &how, 0);
    int ended = atomic_load(&shared->ended);
    *out = (struct fc_outcome){.number = number,
                               .name = name,
                               .expected = shared->expected,
                               .seen = shared->seen,
                               .log = log,
                               .ms = (unsigned)(fc_now_ms() - begin)};
    const char *stage = atomic_load(&shared->stage);
    const char *target_stage = atomic_load(&shared->target_stage);
    const char *in = stage ? " in " : "";
    stage = stage ? stage : "";
    if (hung) {
        out->result = FC_FAIL;
        snprintf(shared->expected, sizeof(shared->expected), "%s", about);
        snprintf(shared->seen, sizeof(shared->seen), "hung%s%s: no end within %llu s%s%s", in,
                 stage, (unsigned long long)limit_ms / 1000,
                 target_stage ? "; the target is in " : "", target_stage ? target_stage : "");
    } else if (ended == 1 + FC_PASS && WIFEXITED(how) && WEXITSTATUS(how) == 0) {
        out->result = FC_PASS;
        snprintf(shared->expected, sizeof(shared->expected), "%s", about);
    } else if (ended > 1 + FC_PASS && WIFEXITED(how)) { /* a sanitizer may change the status */
        out->result = (enum fc_result)(ended - 1);
        if (!shared->expected[0])
            snprintf(shared->expected, sizeof(shared->expected), "%s", about);
    } else {
        out->result = FC_FAIL;
        snprintf(shared->expected, sizeof(shared->expected), "%s", about);
        if (WIFSIGNALED(how))
            snprintf(shared->seen, sizeof(shared->seen), "the process died of SIG%s%s%s",
                     sigabbrev_np(WTERMSIG(how)), in, stage);
        else if (ended == 1 + FC_PASS)
            snprintf(shared->seen, sizeof(shared->seen),
                     "the process ended with status %d after the point had passed "
                     "(a sanitizer's report?)",
                     WEXITSTATUS(how));
        else
            snprintf(shared->seen, sizeof(shared->seen),
                     "the process exited with status %d%s%s", WEXITSTATUS(how), in, stage);
    }
    join_log(shared, log, sizeof(log));
    return true;
}
