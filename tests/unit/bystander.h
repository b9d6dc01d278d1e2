/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BYSTANDER_H
#define BYSTANDER_H

/* A child that the application forks has every file that was open then. After cmocka.h. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t fork_bystander(void)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return pid;
}

static void end_process(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

#endif /* BYSTANDER_H */
