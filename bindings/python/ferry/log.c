/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines on their way from the core's threads to Python. The core calls with locks of its
 * own held, so nobody here waits for the interpreter's: a line is queued, and a Python thread
 * that is blocked without the interpreter's lock takes it.
 */
#include "_ferry.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LINES = 10000 };

void log_queue_init(struct log_queue *queue)
{
    memset(queue, 0, sizeof(*queue));
    queue->tail = &queue->head;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->cond, NULL);
}

void log_queue_close(struct log_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->is_closed = true;
    pthread_cond_broadcast(&queue->cond);
    pthread_mutex_unlock(&queue->lock);
}

void log_queue_fini(struct log_queue *queue)
{
    while (queue->head) {
        struct log_line *next = queue->head->next;

        free(queue->head);
        queue->head = next;
    }
    pthread_cond_destroy(&queue->cond);
    pthread_mutex_destroy(&queue->lock);
}

void log_queue_put(void *arg, int level, const char *text)
{
    struct log_queue *queue = arg;
    size_t len = strlen(text);
    struct log_line *line = malloc(sizeof(*line) + len + 1);

    if (line) {
        line->next = NULL;
        line->level = level;
        memcpy(line->text, text, len + 1);
    }
    pthread_mutex_lock(&queue->lock);
    if (line && queue->n < MAX_LINES) {
        *queue->tail = line;
        queue->tail = &line->next;
        queue->n++;
        line = NULL;
        pthread_cond_signal(&queue->cond);
    } else {
        queue->n_lost++;
    }
    pthread_mutex_unlock(&queue->lock);
    free(line);
}

struct log_line *log_queue_take(struct log_queue *queue, unsigned *n_lost_out)
{
    struct log_line *line;

    pthread_mutex_lock(&queue->lock);
    while (!queue->head && !queue->is_closed)
        pthread_cond_wait(&queue->cond, &queue->lock);
    line = queue->head;
    if (line) {
        queue->head = line->next;
        if (!queue->head)
            queue->tail = &queue->head;
        queue->n--;
    }
    *n_lost_out = queue->n_lost;
    queue->n_lost = 0;
    pthread_mutex_unlock(&queue->lock);
    return line;
}
