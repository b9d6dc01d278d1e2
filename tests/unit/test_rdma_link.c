/* SPDX-License-Identifier: Apache-2.0 */
/* Rails that break and do not come back, as the rdma transport has it. */
#include "fake_rdma.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

static void a_failed_link_is_the_peers_fault(void **state)
{
    static const ferry_status refusals[] = {FERRY_ENOMEM, FERRY_ENOENT, FERRY_EINVAL, FERRY_EIO,
                                            0 /* no refusal: no queue pair to be had here */};

    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        struct ferry_tp *tp = fake_open(1);
        struct ferry_queue *queue = fake_queue(tp);
        struct ferry_peer *peer = fake_peer(tp);
        struct fake_memory m;
        ferry_status status;

        fake_memory(peer, MIB, &m);
        assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
        assert_int_equal(fake_write(queue, &m, 1, KIB, &status), 1);
        assert_int_equal(fake_ended(queue), FERRY_OK);

        fake.data = DATA_FAILS;
        fake.refusal = refusals[i];
        fake.answer = refusals[i] ? REFUSES : ANSWERS;
        fake.no_qp = !refusals[i];
        assert_int_equal(fake_write(queue, &m, 1, KIB, &status), 1);
        assert_int_equal(fake_ended(queue), FERRY_EUNREACH);
        assert_int_equal(fake_write(queue, &m, 1, KIB, &status), 0);
        assert_int_equal(status, FERRY_EUNREACH);

        /* nor does another attempt say anything else, while it lasts */
        assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_EUNREACH);
        assert_int_equal(fake_write(queue, &m, 1, KIB, &status), 0);
        assert_int_equal(status, FERRY_EUNREACH);

        fake.data = DATA_ARRIVES;
        fake.answer = ANSWERS;
        fake.no_qp = false;
        assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
        assert_int_equal(fake_write(queue, &m, 1, KIB, &status), 1);
        assert_int_equal(fake_ended(queue), FERRY_OK);
        rdma_peer_close(peer);
        rdma_queue_close(queue);
        fake_close(tp);
    }
}

/* Probes are empty: a path that swallows longer packets carries them all the same. */
static void rails_without_progress_are_given_up(void **state)
{
    for (uint32_t rails = 1; rails <= 2; rails++) {
        struct ferry_tp *tp = fake_open(rails);
        struct ferry_queue *queue = fake_queue(tp);
        struct ferry_peer *peer = fake_peer(tp);
        struct fake_memory m;
        ferry_status status;

        tp->config.retry_count = 2;
        fake_memory(peer, MIB, &m);
        assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
        fake.data = DATA_FAILS;
        for (int i = 0; i < 2; i++) { /* and again, when it is asked to try once more */
            assert_int_equal(fake_write(queue, &m, 1, MIB, &status), 1);
            assert_int_equal(fake_ended(queue), FERRY_EUNREACH);
            assert_in_range(fake.asked, 1, (1 + i) * rails * 20);
            assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
        }
        rdma_peer_close(peer);
        rdma_queue_close(queue);
        fake_close(tp);
    }
}

/* What counts is in a row: something arrived in between. */
static void progress_counts_anew(void **state)
{
    struct ferry_tp *tp = fake_open(1);
    struct ferry_queue *queue = fake_queue(tp);
    struct ferry_peer *peer = fake_peer(tp);
    struct fake_memory m;
    ferry_status status;

    tp->config.retry_count = 1;
    fake_memory(peer, MIB, &m);
    assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
    for (int i = 0; i < 5; i++) {
        fake.data_failures = 1;
        assert_int_equal(fake_write(queue, &m, 1, KIB, &status), 1);
        assert_int_equal(fake_ended(queue), FERRY_OK);
    }
    rdma_peer_close(peer);
    rdma_queue_close(queue);
    fake_close(tp);
}

/* What the peer made for a question is taken down there when it comes to nothing here. */
static void no_end_is_left_at_the_peer(void **state)
{
    static const enum fake_answer answers[] = {ANSWERS, ANSWERS_LATE, ANSWERS_MEANWHILE};

    for (size_t a = 0; a < sizeof(answers) / sizeof(answers[0]); a++) {
        struct ferry_tp *tp = fake_open(1);
        struct ferry_queue *queue = fake_queue(tp);
        bool late = answers[a] != ANSWERS;

        fake.unreachable = !late;
        fake.answer = answers[a];
        for (int i = 0; i < 3; i++) {
            struct ferry_peer *peer = fake_peer(tp);
            assert_int_equal(rdma_peer_attach(peer, queue, 200),
                             late ? FERRY_ETIMEDOUT : FERRY_EUNREACH);
            rdma_peer_close(peer);
            assert_int_equal(tp->n_served, 0);
            assert_int_equal(fake.n_qp, 0);
        }
        rdma_queue_close(queue);
        fake_close(tp);
    }
}

/* Nor does a bye that comes late hit what was connected since. */
static void a_late_bye_does_no_harm(void **state)
{
    struct ferry_tp *tp = fake_open(1);
    struct ferry_queue *queue = fake_queue(tp);
    struct ferry_peer *peer = fake_peer(tp);
    struct ferry_buf_sink nobody = {fake_forget};

    fake.answer = KEEPS;
    assert_int_equal(rdma_peer_attach(peer, queue, 200), FERRY_ETIMEDOUT);
    assert_non_null(strstr(fake_kept, "\"bye\":true"));
    fake.answer = ANSWERS;
    assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
    assert_int_equal(tp->n_served, 1);
    assert_int_equal(rdma_on_call(tp, "itself", fake_kept, strlen(fake_kept), &nobody),
                     FERRY_OK);
    assert_int_equal(tp->n_served, 1);
    rdma_peer_close(peer);
    rdma_queue_close(queue);
    fake_close(tp);
}

/* Who refused has nothing to take down. */
static void a_refusal_is_not_answered(void **state)
{
    struct ferry_tp *tp = fake_open(1);
    struct ferry_queue *queue = fake_queue(tp);
    struct ferry_peer *peer = fake_peer(tp);

    fake.answer = REFUSES;
    fake.refusal = FERRY_ENOENT;
    assert_int_equal(rdma_peer_attach(peer, queue, 200), FERRY_EUNREACH);
    assert_int_equal(fake.asked, 1);
    rdma_peer_close(peer);
    rdma_queue_close(queue);
    fake_close(tp);
}

/* Where as many are in flight as may be, a new rail can be tried all the same. */
static void a_full_queue_lets_peers_in(void **state)
{
    struct ferry_tp *tp = fake_open(1);
    struct ferry_queue *queue;
    struct ferry_peer *peer = fake_peer(tp), *other = fake_peer(tp);
    struct fake_memory m;
    ferry_status status;

    tp->config.max_cqe = 16;
    queue = fake_queue(tp);
    fake_memory(peer, MIB, &m);
    assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
    fake.data = DATA_STAYS;
    assert_int_equal(fake_write(queue, &m, 32, KIB, &status), 32);
    assert_int_equal(queue->outstanding, 16);
    assert_int_equal(rdma_peer_attach(other, queue, 1000), FERRY_OK);
    rdma_peer_close(other);
    rdma_peer_close(peer);
    rdma_queue_close(queue);
    fake_close(tp);
}

/* For TSan: a worker takes a job off the list just when the link is spread. */
static void a_job_is_taken_meanwhile(void **state)
{
    struct ferry_tp *tp = fake_open(2);
    struct ferry_queue *queue = fake_queue(tp);
    struct ferry_peer *peer = fake_peer(tp);
    struct rdma_rail *rail;

    assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
    rail = &queue->links[peer->number]->rail[1];
    pthread_mutex_lock(&queue->lock);
    rdma_job_add(&tp->jobs, &rail->job, ft_now_ns()); /* as when a port comes up */
    usleep(50000);                                    /* it is taken, and waits for the lock */
    rdma_link_spread(rail->link);
    assert_true(rail->wanted);
    for (int i = 0; i < 1000 && rail->state != RAIL_UP; i++) {
        pthread_mutex_unlock(&queue->lock);
        usleep(1000);
        pthread_mutex_lock(&queue->lock);
    }
    assert_int_equal(rail->state, RAIL_UP);
    pthread_mutex_unlock(&queue->lock);
    rdma_peer_close(peer);
    rdma_queue_close(queue);
    fake_close(tp);
}

/* Two workers have a job of it when it breaks: one was on its way when the other was asked for.
 */
static void a_rail_is_taken_down_once(void **state)
{
    struct ferry_tp *tp = fake_open(1);
    struct ferry_queue *queue = fake_queue(tp);
    struct ferry_peer *peer = fake_peer(tp);
    struct rdma_rail *rail;

    assert_int_equal(rdma_peer_attach(peer, queue, 1000), FERRY_OK);
    rail = &queue->links[peer->number]->rail[0];
    pthread_mutex_lock(&queue->lock);
    rdma_job_add(&tp->jobs, &rail->job, ft_now_ns());
    usleep(50000); /* it waits for the lock */
    rdma_rail_broken(rail, CAUSE_PATH);
    usleep(50000); /* and so does this one's */
    fake.asked = 0;
    for (int i = 0; i < 1000 && rail->state != RAIL_UP; i++) {
        pthread_mutex_unlock(&queue->lock);
        usleep(1000);
        pthread_mutex_lock(&queue->lock);
    }
    assert_int_equal(rail->state, RAIL_UP);
    pthread_mutex_unlock(&queue->lock);
    usleep(50000);
    assert_int_equal(fake.asked, 2); /* a bye, a question */
    assert_int_equal(fake.n_qp, 2);
    rdma_peer_close(peer);
    rdma_queue_close(queue);
    fake_close(tp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_link_is_the_peers_fault),
        cmocka_unit_test(rails_without_progress_are_given_up),
        cmocka_unit_test(progress_counts_anew),
        cmocka_unit_test(no_end_is_left_at_the_peer),
        cmocka_unit_test(a_late_bye_does_no_harm),
        cmocka_unit_test(a_refusal_is_not_answered),
        cmocka_unit_test(a_full_queue_lets_peers_in),
        cmocka_unit_test(a_job_is_taken_meanwhile),
        cmocka_unit_test(a_rail_is_taken_down_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
