/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. A few threads that help with large copies while processors have nothing else to do. Who
 * copies hands out pieces, copies its own, and waits for those that were begun; a piece that
 * nobody has begun by then it takes back, so that a helper that sleeps or is not scheduled
 * costs nothing. Knows nothing of queues and peers.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "shm.h"

#define SPIN_NS    UINT64_C(50000)    /* for the next piece, before sleeping */
#define LOOK_NS    UINT64_C(10000000) /* how often it is asked who else wants to run */
#define WAIT_SPINS 4000u              /* looks at a helper before letting others run */

enum { FREE, TAKEN, POSTED, RUNNING, DONE };

struct helper {
    struct shm_helpers *all;
    pthread_t thread;
    atomic_uint state;
    atomic_uint asleep; /* futex: 1 = wake me */
    struct shm_piece piece;
};

struct shm_helpers {
    uint32_t n, n_cpus;
    int loadavg_fd;
    atomic_bool stop;
    atomic_uint_fast64_t next_look_ns;
    atomic_uint idle; /* helpers that may run now without taking anybody's processor */
    struct helper helper[];
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void run(struct shm_piece *piece)
{
    struct iovec local = {piece->local, piece->len}, remote = {piece->remote, piece->len};
    ssize_t rc;

    piece->error = 0;
    piece->moved = piece->len;
    if (!piece->pid) {
        shm_copy(piece->read ? piece->local : piece->remote,
                 piece->read ? piece->remote : piece->local, piece->len, piece->cold);
        return;
    }
    rc = piece->read ? process_vm_readv(piece->pid, &local, 1, &remote, 1, 0)
                     : process_vm_writev(piece->pid, &local, 1, &remote, 1, 0);
    piece->moved = rc > 0 ? (uint64_t)rc : 0;
    if (rc <= 0)
        piece->error = rc < 0 ? errno : EFAULT;
}

/* ---- helpers --------------------------------------------------------------------------- */

static void sleep_until_posted(struct helper *helper)
{
    atomic_store(&helper->asleep, 1);
    /* Sequentially consistent on both sides: whoever posts sees `asleep`, or we see the post.
     */
    if (atomic_load(&helper->state) == POSTED || atomic_load(&helper->all->stop))
        atomic_store(&helper->asleep, 0);
    else
        syscall(SYS_futex, &helper->asleep, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
    atomic_store(&helper->asleep, 0);
}

static void wake(struct helper *helper)
{
    if (atomic_exchange(&helper->asleep, 0))
        syscall(SYS_futex, &helper->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *helper_main(void *arg)
{
    struct helper *helper = arg;
    uint64_t since = ft_now_ns();

    pthread_setname_np(pthread_self(), "ferry-shm-copy");
    while (!atomic_load_explicit(&helper->all->stop, memory_order_relaxed)) {
        unsigned posted = POSTED;

        if (atomic_compare_exchange_strong(&helper->state, &posted, RUNNING)) {
            run(&helper->piece);
            atomic_store_explicit(&helper->state, DONE,
                                  memory_order_release); /* pairs with collect */
            since = ft_now_ns();
        } else if (ft_now_ns() - since < SPIN_NS) {
            relax();
        } else {
            sleep_until_posted(helper);
            since = ft_now_ns();
        }
    }
    return NULL;
}

struct shm_helpers *shm_helpers_start(uint32_t most)
{
    struct shm_helpers *helpers;
    sigset_t all, old;
    cpu_set_t cpus;
    uint32_t n_cpus = 1;

    if (!sched_getaffinity(0, sizeof(cpus), &cpus))
        n_cpus = (uint32_t)CPU_COUNT(&cpus);
    if (most > n_cpus - 1)
        most = n_cpus - 1;
    helpers = most ? calloc(1, sizeof(*helpers) + most * sizeof(*helpers->helper)) : NULL;
    if (!helpers)
        return NULL;
    helpers->n_cpus = n_cpus;
    helpers->loadavg_fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    sigfillset(&all); /* signals are the application's, in its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (helpers->loadavg_fd >= 0 && helpers->n < most) {
        struct helper *helper = &helpers->helper[helpers->n];

        helper->all = helpers;
        if (pthread_create(&helper->thread, NULL, helper_main, helper))
            break;
        helpers->n++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return helpers;
}

void shm_helpers_stop(struct shm_helpers *helpers)
{
    if (!helpers)
        return;
    atomic_store(&helpers->stop, true);
    for (uint32_t i = 0; i < helpers->n; i++) {
        wake(&helpers->helper[i]);
        pthread_join(helpers->helper[i].thread, NULL);
    }
    if (helpers->loadavg_fd >= 0)
        close(helpers->loadavg_fd);
    free(helpers);
}

/* ---- handing out ----------------------------------------------------------------------- */

/* Processors that nobody wants but helpers that are up, by the kernel's count of what runs. */
static void look(struct shm_helpers *helpers, uint64_t now)
{
    char text[64];
    double load[3];
    unsigned running = 0, up = 0, idle = 0;
    ssize_t n = pread(helpers->loadavg_fd, text, sizeof(text) - 1, 0);

    atomic_store_explicit(&helpers->next_look_ns, now + LOOK_NS, memory_order_relaxed);
    if (n > 0) {
        text[n] = '\0';
        if (sscanf(text, "%lf %lf %lf %u/", &load[0], &load[1], &load[2], &running) != 4)
            running = helpers->n_cpus;
        for (uint32_t i = 0; i < helpers->n; i++)
            up += !atomic_load_explicit(&helpers->helper[i].asleep, memory_order_relaxed);
        running -= running < up ? running : up;
        idle = running < helpers->n_cpus ? helpers->n_cpus - running : 0;
    }
    atomic_store_explicit(&helpers->idle, idle, memory_order_relaxed);
}

static struct helper *post(struct shm_helpers *helpers, const struct shm_piece *piece)
{
    for (uint32_t i = 0; i < helpers->n; i++) {
        struct helper *helper = &helpers->helper[i];
        unsigned state = FREE;

        if (!atomic_compare_exchange_strong(&helper->state, &state, TAKEN))
            continue;
        helper->piece = *piece;
        atomic_store(&helper->state, POSTED);
        wake(helper);
        return helper;
    }
    return NULL;
}

static struct shm_piece collect(struct helper *helper)
{
    struct shm_piece piece;
    unsigned posted = POSTED, spins = 0;

    if (atomic_compare_exchange_strong(&helper->state, &posted, TAKEN)) {
        run(&helper->piece); /* nobody had begun it */
    } else {
        while (atomic_load_explicit(&helper->state, memory_order_acquire) != DONE) {
            if (++spins % WAIT_SPINS == 0)
                sched_yield();
            relax();
        }
    }
    piece = helper->piece;
    atomic_store(&helper->state, FREE);
    return piece;
}

/* As one copy of both would have ended: what was moved without a gap, and what went wrong
 * first.
 */
static void join(struct shm_piece *whole, const struct shm_piece *next)
{
    if (!whole->error && whole->moved == whole->len) {
        whole->moved += next->moved;
        whole->error = next->error;
    }
    whole->len += next->len;
}

static struct shm_piece part_of(const struct shm_piece *whole, uint64_t at, uint64_t len)
{
    struct shm_piece part = *whole;

    part.local += at;
    part.remote += at;
    part.len = len;
    return part;
}

void shm_copy_together(struct shm_helpers *helpers, struct shm_piece *piece)
{
    const struct shm_piece whole = *piece;
    struct helper *posted[SHM_COPY_THREADS];
    uint64_t now, share, end;
    uint32_t want, n = 0;

    if (!helpers || whole.len < SHM_SHARED_FROM) {
        run(piece);
        return;
    }
    now = ft_now_ns();
    if (now >= atomic_load_explicit(&helpers->next_look_ns, memory_order_relaxed))
        look(helpers, now);
    want = atomic_load_explicit(&helpers->idle, memory_order_relaxed);
    if (want > helpers->n)
        want = helpers->n;
    share = whole.len / (want + 1) & ~UINT64_C(4095);
    /* From the end, so that ours is one piece whatever could be handed out. */
    for (end = whole.len; n < want; n++, end -= share) {
        struct shm_piece part = part_of(&whole, end - share, share);

        posted[n] = post(helpers, &part);
        if (!posted[n])
            break; /* other queues have them */
    }
    piece->len = end;
    run(piece);
    while (n) {
        struct shm_piece part = collect(posted[--n]);

        join(piece, &part);
    }
}
