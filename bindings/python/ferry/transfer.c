/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers of ferry._ferry.Engine: from numbers to requests, and the calls on batches. A wait
 * is cut into slices, so that signals are seen and an engine can be closed meanwhile.
 */
#include "_ferry.h"

#include <stdlib.h>
#include <string.h>

/* The arguments of submit and transfer: (ops, segments, locals, remotes, lengths, timeout_ms,
 * priority, protocol, notify_name, notify). */
struct work {
    struct numbers ops, segments, locals, remotes, lengths;
    struct ferry_submit attr;
    struct ferry_request *requests, few[8];
    size_t n;
};

static void work_free(struct work *work)
{
    numbers_free(&work->ops);
    numbers_free(&work->segments);
    numbers_free(&work->locals);
    numbers_free(&work->remotes);
    numbers_free(&work->lengths);
    if (work->requests != work->few)
        free(work->requests);
}

static bool count(struct work *work)
{
    const struct numbers *all[] = {&work->locals, &work->remotes, &work->lengths, &work->ops,
                                   &work->segments};
    bool is_set = false;

    work->n = 1;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i]->is_scalar)
            continue;
        if (is_set && all[i]->n != work->n) {
            PyErr_Format(PyExc_ValueError,
                         "%zu local addresses, %zu remote addresses and %zu lengths",
                         work->locals.n, work->remotes.n, work->lengths.n);
            return false;
        }
        is_set = true;
        work->n = all[i]->n;
    }
    return true;
}

static bool fill(struct work *work)
{
    work->requests = work->few;
    if (work->n > sizeof(work->few) / sizeof(work->few[0]))
        work->requests = malloc(work->n * sizeof(*work->requests));
    if (!work->requests) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < work->n; i++) {
        uint64_t op = numbers_at(&work->ops, i);

        work->requests[i] = (struct ferry_request){
            .local = (void *)(uintptr_t)numbers_at(&work->locals, i),
            .remote = numbers_at(&work->remotes, i),
            .len = numbers_at(&work->lengths, i),
            .segment = numbers_at(&work->segments, i),
            .op = op > FERRY_WRITE ? UINT32_MAX : (uint32_t)op,
        };
    }
    return true;
}

static bool work_get(PyObject *args, struct work *work)
{
    PyObject *ops, *segments, *locals, *remotes, *lengths;
    unsigned int timeout_ms, priority;
    const char *protocol, *name, *notify;
    Py_ssize_t notify_len;

    memset(work, 0, sizeof(*work));
    if (!PyArg_ParseTuple(args, "OOOOOIIzzz#", &ops, &segments, &locals, &remotes, &lengths,
                          &timeout_ms, &priority, &protocol, &name, &notify, &notify_len))
        return false;
    work->attr = (struct ferry_submit){
        .size = sizeof(work->attr),
        .timeout_ms = timeout_ms,
        .priority = priority,
        .protocol = protocol,
        .notify_name = name,
        .notify = notify,
        .notify_len = notify ? (size_t)notify_len : 0,
    };
    if (numbers_get(ops, "op", &work->ops) &&
        numbers_get(segments, "segment", &work->segments) &&
        numbers_get(locals, "local", &work->locals) &&
        numbers_get(remotes, "remote", &work->remotes) &&
        numbers_get(lengths, "length", &work->lengths) && count(work) && fill(work))
        return true;
    work_free(work);
    return false;
}

PyObject *engine_submit(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    ferry_batch batch = 0;
    ferry_status status;
    struct work work;

    if (!work_get(args, &work))
        return NULL;
    engine = engine_enter(self);
    if (!engine) {
        work_free(&work);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = ferry_submit(engine, work.requests, work.n, &work.attr, &batch);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    work_free(&work);
    return status ? raise_last(status) : PyLong_FromUnsignedLongLong(batch);
}

/* None, or the exception with the lowest index that failed in `index`; where none did, all data
 * is there, `delivered`, unless the peer lost it in a restart. */
PyObject *engine_transfer(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    size_t failed = 0, n;
    ferry_status status;
    struct work work;
    PyObject *type, *value, *trace, *index;

    if (!work_get(args, &work))
        return NULL;
    engine = engine_enter(self);
    if (!engine) {
        work_free(&work);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = ferry_transfer(engine, work.requests, work.n, &work.attr, &failed);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    n = work.n;
    work_free(&work);
    if (!status)
        Py_RETURN_NONE;
    raise_last(status);
    PyErr_Fetch(&type, &value, &trace);
    index = failed < n ? PyLong_FromSize_t(failed) : Py_BuildValue("");
    if (!value || !index || PyObject_SetAttrString(value, "index", index) ||
        (n && failed == n && status != FERRY_ESTALE &&
         PyObject_SetAttrString(value, "delivered", Py_True)))
        PyErr_Clear();
    Py_XDECREF(index);
    PyErr_Restore(type, value, trace);
    return NULL;
}

/* ---- batches
 * ---------------------------------------------------------------------------------- */

static PyObject *status_tuple(ferry_status status, const struct ferry_batch_status *batch)
{
    return Py_BuildValue("OKKKKi", status == FERRY_OK ? Py_True : Py_False,
                         (unsigned long long)batch->total, (unsigned long long)batch->done,
                         (unsigned long long)batch->failed, (unsigned long long)batch->bytes,
                         (int)batch->first_error);
}

/* (ended, total, done, failed, bytes, first error) after at most that time. */
PyObject *engine_batch_wait(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_batch_status batch_status = {0};
    struct ferry_engine *engine;
    unsigned long long batch;
    unsigned int left_ms;
    ferry_status status = FERRY_EAGAIN;
    bool more = true;

    if (!PyArg_ParseTuple(args, "KI", &batch, &left_ms) || !(engine = engine_enter(self)))
        return NULL;
    while (status == FERRY_EAGAIN && more) {
        uint32_t slice = take_slice(&left_ms);

        Py_BEGIN_ALLOW_THREADS;
        status = ferry_batch_wait(engine, batch, slice, &batch_status);
        Py_END_ALLOW_THREADS;
        more = left_ms && status == FERRY_EAGAIN;
        if (more && !engine_may_wait(self)) {
            engine_leave(self);
            return NULL;
        }
    }
    engine_leave(self);
    return status && status != FERRY_EAGAIN ? raise_last(status)
                                            : status_tuple(status, &batch_status);
}

PyObject *engine_batch_poll(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_batch_status batch_status = {0};
    struct ferry_engine *engine;
    unsigned long long batch;
    ferry_status status;

    if (!PyArg_ParseTuple(args, "K", &batch) || !(engine = engine_enter(self)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = ferry_batch_poll(engine, batch, &batch_status);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    return status && status != FERRY_EAGAIN ? raise_last(status)
                                            : status_tuple(status, &batch_status);
}

/* (status, transport, rail) */
PyObject *engine_batch_request(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_request_status request = {0};
    struct ferry_engine *engine;
    unsigned long long batch, index;
    ferry_status status;

    if (!PyArg_ParseTuple(args, "KK", &batch, &index) || !(engine = engine_enter(self)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = ferry_batch_request(engine, batch, index, &request);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    if (status)
        return raise_last(status);
    return Py_BuildValue("iss", (int)request.status, request.transport, request.rail);
}

/* Whether it has ended. */
PyObject *engine_batch_cancel(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    unsigned long long batch;
    unsigned int left_ms;
    ferry_status status = FERRY_EAGAIN;
    bool more = true;

    if (!PyArg_ParseTuple(args, "KI", &batch, &left_ms) || !(engine = engine_enter(self)))
        return NULL;
    while (status == FERRY_EAGAIN && more) {
        uint32_t slice = take_slice(&left_ms);

        Py_BEGIN_ALLOW_THREADS;
        status = ferry_batch_cancel(engine, batch, slice);
        Py_END_ALLOW_THREADS;
        more = left_ms && status == FERRY_EAGAIN;
        if (more && !engine_may_wait(self)) {
            engine_leave(self);
            return NULL;
        }
    }
    engine_leave(self);
    if (status && status != FERRY_EAGAIN)
        return raise_last(status);
    return PyBool_FromLong(status == FERRY_OK);
}

/* Nothing where the engine is closed: its batches went with it. */
PyObject *engine_batch_free(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    unsigned long long batch;

    if (!PyArg_ParseTuple(args, "K", &batch))
        return NULL;
    pthread_mutex_lock(&self->lock);
    engine = self->is_closing ? NULL : self->engine;
    self->n_calls += engine != NULL;
    pthread_mutex_unlock(&self->lock);
    if (!engine)
        Py_RETURN_NONE;
    Py_BEGIN_ALLOW_THREADS;
    ferry_batch_free(engine, batch);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    Py_RETURN_NONE;
}

PyObject *engine_fd(PyObject *object, PyObject *unused)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine = engine_enter(self);
    int fd;

    if (!engine)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    fd = ferry_engine_fd(engine);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    return fd < 0 ? raise_last(FERRY_EDEVICE) : PyLong_FromLong(fd);
}

PyObject *engine_reap(PyObject *object, PyObject *unused)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine = engine_enter(self);
    PyObject *list;
    ferry_batch batches[64];
    size_t n;

    if (!engine)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    n = ferry_reap(engine, batches, sizeof(batches) / sizeof(batches[0]));
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        PyObject *item = PyLong_FromUnsignedLongLong(batches[i]);

        if (!item || PyList_SetItem(list, (Py_ssize_t)i, item))
            Py_CLEAR(list);
    }
    return list;
}
