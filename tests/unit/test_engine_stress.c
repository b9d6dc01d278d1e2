/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything at once, for the thread sanitizer: transfers, cancels, polls, registrations, and a
 * peer that goes away and comes back under the same name. What must hold: every batch ends, a
 * transfer that was reported done is there, and the survivor needs no restart.
 */
#include "engine_pair.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <time.h>

enum { THREADS = 4, SLOT = 64 << 10, RESTARTS = 8 };

static const char *protocol = "loop";

struct shared {
    struct ferry_engine *a;
    ferry_segment peer;
    char *ours;
    char *theirs; /* mapped at one place for all incarnations */
    atomic_bool stop;
    atomic_ullong done, failed, canceled;
};

struct worker {
    struct shared *shared;
    int id;
};

static void transfer_once(struct shared *shared, int id, unsigned round)
{
    enum { N = 8, SIZE = SLOT / N };
    char *mine = shared->ours + (size_t)id * SLOT, *there = shared->theirs + (size_t)id * SLOT;
    struct ferry_submit attr = {.size = sizeof(attr), .timeout_ms = 5000};
    struct ferry_request requests[N];
    struct ferry_batch_status status;
    ferry_batch batch;

    memset(mine, (int)(round + (unsigned)id), SLOT);
    for (int i = 0; i < N; i++)
        requests[i] =
            (struct ferry_request){.local = mine + i * SIZE,
                                   .remote = (uint64_t)(uintptr_t)there + (unsigned)i * SIZE,
                                   .len = SIZE,
                                   .segment = shared->peer,
                                   .op = FERRY_WRITE};
    if (ferry_submit(shared->a, requests, N, &attr, &batch)) {
        atomic_fetch_add(&shared->failed, 1);
        return;
    }
    if (round % 7 == 0)
        ferry_batch_cancel(shared->a, batch, 5000);
    else if (round % 3 == 0)
        while (ferry_batch_poll(shared->a, batch, NULL) == FERRY_EAGAIN)
            ;
    assert_int_equal(ferry_batch_wait(shared->a, batch, 20000, &status), FERRY_OK);
    assert_int_equal(status.done + status.failed, N);
    if (status.failed)
        atomic_fetch_add(round % 7 ? &shared->failed : &shared->canceled, 1);
    else
        atomic_fetch_add(&shared->done, 1);
    if (!status.failed)
        assert_memory_equal(mine, there, SLOT);
    ferry_batch_free(shared->a, batch);
}

static void *keep_transferring(void *arg)
{
    struct worker *worker = arg;
    struct shared *shared = worker->shared;

    for (unsigned round = 0; !atomic_load(&shared->stop); round++) {
        transfer_once(shared, worker->id, round);
    }
    return NULL;
}

static void *keep_registering(void *arg)
{
    struct shared *shared = arg;
    static char memory[64][4096];
    void *addrs[64];
    struct ferry_buffer buffers[64];

    for (int i = 0; i < 64; i++) {
        addrs[i] = memory[i];
        buffers[i] =
            (struct ferry_buffer){.addr = memory[i], .len = 4096, .access = FERRY_REMOTE_READ};
    }
    while (!atomic_load(&shared->stop)) {
        assert_ok(ferry_memory_register(shared->a, buffers, 64));
        assert_ok(ferry_memory_unregister(shared->a, addrs, 64));
    }
    return NULL;
}

static struct ferry_engine *open_peer(struct shared *shared, const char *name)
{
    struct ferry_options options = {.size = sizeof(options),
                                    .name = name,
                                    .protocol = protocol,
                                    .log = pair_log,
                                    .log_arg = (void *)(uintptr_t) "b"};
    struct ferry_buffer buffer = {.addr = shared->theirs,
                                  .len = THREADS * SLOT,
                                  .access = FERRY_REMOTE_READ | FERRY_REMOTE_WRITE};
    struct ferry_engine *engine;

    assert_ok(ferry_engine_open(&options, &engine));
    assert_ok(ferry_memory_register(engine, &buffer, 1));
    return engine;
}

static void all_at_once_while_the_peer_restarts(void **state)
{
    struct shared shared = {0};
    struct worker workers[THREADS];
    pthread_t threads[THREADS], registrar;
    struct ferry_engine *b;
    struct timespec pause = {.tv_nsec = 60000000};
    char name[64];

    shared.theirs =
        mmap(NULL, THREADS * SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    shared.a = pair_engine("a", protocol, NULL);
    assert_ok(ferry_memory_alloc(shared.a, THREADS * SLOT, 0, (void **)&shared.ours));
    b = open_peer(&shared, "127.0.0.1");
    snprintf(name, sizeof(name), "%s", ferry_engine_name(b));
    assert_ok(ferry_segment_open(shared.a, name, 5000, &shared.peer));
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.shared = &shared, .id = i};
        pthread_create(&threads[i], NULL, keep_transferring, &workers[i]);
    }
    pthread_create(&registrar, NULL, keep_registering, &shared);
    for (int i = 0; i < RESTARTS; i++) {
        unsigned long long before;

        nanosleep(&pause, NULL);
        ferry_engine_close(b, i % 2 ? 0 : 1000); /* transfers under way fail */
        b = open_peer(&shared, name);
        before = atomic_load(&shared.done);
        for (int tries = 0; atomic_load(&shared.done) == before; tries++) {
            assert_true(tries < 200);
            nanosleep(&pause, NULL);
        }
    }
    atomic_store(&shared.stop, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_join(registrar, NULL);
    assert_true(atomic_load(&shared.done) > 0);
    ferry_engine_close(shared.a, 1000);
    ferry_engine_close(b, 1000);
    munmap(shared.theirs, THREADS * SLOT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_at_once_while_the_peer_restarts),
    };

    if (argc > 1)
        protocol = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
