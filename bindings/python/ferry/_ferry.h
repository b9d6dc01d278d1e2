/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_PYTHON_H
#define FERRY_PYTHON_H

/* What the extension's files share. Everything here is called with the interpreter's lock
 * held, unless its comment says otherwise. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ferry/ferry.h"

/*
 * Py_buffer has been in the stable ABI since 3.11 only, but its functions are exported, with
 * this layout, by every CPython 3: declared here for the older headers.
 */
#if Py_LIMITED_API + 0 < 0x030b0000
typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len;
    Py_ssize_t itemsize;
    int readonly;
    int ndim;
    char *format;
    Py_ssize_t *shape;
    Py_ssize_t *strides;
    Py_ssize_t *suboffsets;
    void *internal;
} Py_buffer;
extern int PyObject_GetBuffer(PyObject *object, Py_buffer *view, int flags);
extern void PyBuffer_Release(Py_buffer *view);
#define PyBUF_SIMPLE       0
#define PyBUF_WRITABLE     0x0001
#define PyBUF_FORMAT       0x0004
#define PyBUF_ND           0x0008
#define PyBUF_STRIDES      (0x0010 | PyBUF_ND)
#define PyBUF_C_CONTIGUOUS (0x0020 | PyBUF_STRIDES)
#endif

/* ---- args.c */

/* Numbers of one argument: as many as requests, or one for all of them. */
struct numbers {
    const uint64_t *v;
    size_t n;
    bool is_scalar;
    uint64_t one;
    uint64_t *own; /* copied out of a list */
    Py_buffer view;
    bool has_view; /* read where the caller has them */
};

/* An integer, a buffer of 64-bit integers or a sequence. false: an exception is set. */
bool numbers_get(PyObject *object, const char *name, struct numbers *numbers_out);
void numbers_free(struct numbers *numbers);
bool number_get(PyObject *object, const char *name, uint64_t *number_out);

static inline uint64_t numbers_at(const struct numbers *numbers, size_t i)
{
    return numbers->v[numbers->is_scalar ? 0 : i];
}

/* Bytes of a buffer object, for as long as the pin lives. */
struct pin {
    PyObject_HEAD Py_buffer view;
    bool has_view;
};

/* ---- module.c */

/* Raises the exception class of `status`, with ferry_error()'s text. Returns NULL. */
PyObject *raise_status(ferry_status status, const char *text);
PyObject *raise_last(ferry_status status);

/* A str. What servers and peers say need not be UTF-8: other bytes become U+FFFD. */
PyObject *text_of(const char *text);

/* ---- log.c: lines from any thread, for one Python thread that asks for them. */

struct log_line {
    struct log_line *next;
    int level;
    char text[];
};

struct log_queue {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct log_line *head, **tail;
    unsigned n, n_lost;
    bool is_closed;
};

void log_queue_init(struct log_queue *queue);
/* Those who wait are told; lines that are queued can still be taken. */
void log_queue_close(struct log_queue *queue);
void log_queue_fini(struct log_queue *queue);
/* Without the interpreter's lock: `queue` is a struct log_queue. */
void log_queue_put(void *queue, int level, const char *text);
/* Without the interpreter's lock. NULL: closed and empty. To be freed with free(). */
struct log_line *log_queue_take(struct log_queue *queue, unsigned *n_lost_out);

/* ---- engine.c, transfer.c */

struct engine {
    PyObject_HEAD struct ferry_engine *engine; /* NULL before open and after close */
    struct log_queue log;
    pthread_mutex_t lock; /* guards the next two; never held while waiting for anything else */
    pthread_cond_t idle;
    unsigned n_calls; /* under way without the interpreter's lock */
    bool is_closing;
};

/* Between these the engine is not closed. NULL: it is, and an exception is set. */
struct ferry_engine *engine_enter(struct engine *self);
void engine_leave(struct engine *self);
/* How long one uninterrupted wait may be: signals and a close are looked for between. */
enum { SLICE_MS = 100 };
/* After each slice. false: stop waiting, an exception is set. */
bool engine_may_wait(struct engine *self);
/* The next slice of what is left; FERRY_FOREVER stays. */
uint32_t take_slice(uint32_t *left_ms);

PyObject *engine_submit(PyObject *self, PyObject *args);
PyObject *engine_transfer(PyObject *self, PyObject *args);
PyObject *engine_batch_wait(PyObject *self, PyObject *args);
PyObject *engine_batch_poll(PyObject *self, PyObject *args);
PyObject *engine_batch_request(PyObject *self, PyObject *args);
PyObject *engine_batch_cancel(PyObject *self, PyObject *args);
PyObject *engine_batch_free(PyObject *self, PyObject *args);
PyObject *engine_fd(PyObject *self, PyObject *args);
PyObject *engine_reap(PyObject *self, PyObject *args);

extern PyType_Spec engine_spec;
extern PyType_Spec pin_spec;

#endif /* FERRY_PYTHON_H */
