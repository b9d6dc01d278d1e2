/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The type ferry._ferry.Engine: an engine, its memory, segments and notifications, by numbers.
 * Every call into the library is made without the interpreter's lock: the library takes locks
 * of its own. Transfers are in transfer.c; what users see is Python.
 */
#include "_ferry.h"

#include <stdlib.h>
#include <string.h>

struct ferry_engine *engine_enter(struct engine *self)
{
    struct ferry_engine *engine = NULL;

    pthread_mutex_lock(&self->lock);
    if (self->engine && !self->is_closing) {
        engine = self->engine;
        self->n_calls++;
    }
    pthread_mutex_unlock(&self->lock);
    if (!engine)
        raise_status(FERRY_ECANCELED, "the engine is closed");
    return engine;
}

void engine_leave(struct engine *self)
{
    pthread_mutex_lock(&self->lock);
    if (!--self->n_calls && self->is_closing)
        pthread_cond_broadcast(&self->idle);
    pthread_mutex_unlock(&self->lock);
}

bool engine_may_wait(struct engine *self)
{
    bool is_closing;

    if (PyErr_CheckSignals())
        return false;
    pthread_mutex_lock(&self->lock);
    is_closing = self->is_closing;
    pthread_mutex_unlock(&self->lock);
    if (is_closing)
        raise_status(FERRY_ECANCELED, "the engine is being closed");
    return !is_closing;
}

uint32_t take_slice(uint32_t *left_ms)
{
    uint32_t slice = *left_ms < SLICE_MS ? *left_ms : SLICE_MS;

    if (*left_ms != FERRY_FOREVER)
        *left_ms -= slice;
    return slice;
}

/* ---- open and close
 * --------------------------------------------------------------------------- */

static PyObject *engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct engine *self = (struct engine *)alloc(type, 0);

    if (self) {
        pthread_mutex_init(&self->lock, NULL);
        pthread_cond_init(&self->idle, NULL);
        log_queue_init(&self->log);
    }
    return (PyObject *)self;
}

/* The library's close with no call under way; who waits in slices sees is_closing. */
static void close_engine(struct engine *self, uint32_t timeout_ms)
{
    struct ferry_engine *engine;

    pthread_mutex_lock(&self->lock);
    engine = self->is_closing ? NULL : self->engine;
    self->is_closing = true;
    while (self->n_calls)
        pthread_cond_wait(&self->idle, &self->lock);
    pthread_mutex_unlock(&self->lock);
    ferry_engine_close(engine, timeout_ms);
    if (engine) {
        pthread_mutex_lock(&self->lock);
        self->engine = NULL;
        pthread_mutex_unlock(&self->lock);
    }
    log_queue_close(&self->log);
}

static void engine_dealloc(PyObject *object)
{
    struct engine *self = (struct engine *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);

    Py_BEGIN_ALLOW_THREADS;
    close_engine(self, 0);
    Py_END_ALLOW_THREADS;
    log_queue_fini(&self->log);
    pthread_cond_destroy(&self->idle);
    pthread_mutex_destroy(&self->lock);
    free_object(object);
    Py_DECREF(type);
}

static PyObject *engine_open(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_options options = {.size = sizeof(options)};
    const char *path, *role;
    struct ferry_engine *engine = NULL;
    ferry_status status;
    int is_file, logs;

    if (!PyArg_ParseTuple(args, "pzzzzzzzzip", &is_file, &path, &role, &options.name,
                          &options.bind, &options.metadata_server, &options.protocol,
                          &options.device_name, &options.config_json, &options.log_level,
                          &logs))
        return NULL;
    if (self->engine || self->is_closing) {
        PyErr_SetString(PyExc_RuntimeError, "an engine is opened once");
        return NULL;
    }
    if (logs) {
        options.log = log_queue_put;
        options.log_arg = &self->log;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = is_file ? ferry_engine_open_file(path, role, &options, &engine)
                     : ferry_engine_open(&options, &engine);
    Py_END_ALLOW_THREADS;
    if (status) {
        raise_last(status);
        log_queue_close(&self->log);
        return NULL;
    }
    self->engine = engine;
    Py_RETURN_NONE;
}

static PyObject *engine_close(PyObject *object, PyObject *args)
{
    unsigned int timeout_ms;

    if (!PyArg_ParseTuple(args, "I", &timeout_ms))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    close_engine((struct engine *)object, timeout_ms);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *engine_name(PyObject *object, PyObject *unused)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine = engine_enter(self);
    PyObject *name;

    if (!engine)
        return NULL;
    name = PyUnicode_FromString(ferry_engine_name(engine));
    engine_leave(self);
    return name;
}

static PyObject *engine_describe(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    const char *what;
    char *json = NULL;
    ferry_status status;
    PyObject *text;

    if (!PyArg_ParseTuple(args, "s", &what) || !(engine = engine_enter(self)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = ferry_engine_describe(engine, what, &json);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    if (status)
        return raise_last(status);
    text = text_of(json);
    ferry_string_free(json);
    return text;
}

/* (level, text, lines lost before it), or None when the engine is closed. */
static PyObject *engine_next_log(PyObject *object, PyObject *unused)
{
    struct engine *self = (struct engine *)object;
    struct log_line *line;
    unsigned n_lost = 0;
    PyObject *result;

    Py_BEGIN_ALLOW_THREADS;
    line = log_queue_take(&self->log, &n_lost);
    Py_END_ALLOW_THREADS;
    if (!line)
        Py_RETURN_NONE;
    result = Py_BuildValue("iNI", line->level, text_of(line->text), n_lost);
    free(line);
    return result;
}

/* ---- memory
 * ----------------------------------------------------------------------------------- */

/* register(addresses, lengths, access, location[, memfd]): the first address is where memfd
 * begins
 */
static PyObject *engine_register(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_buffer *buffers = NULL;
    struct numbers addrs, lens;
    struct ferry_engine *engine;
    PyObject *addrs_arg, *lens_arg, *result = NULL;
    const char *location;
    unsigned int access;
    int fd = -1;
    ferry_status status;

    if (!PyArg_ParseTuple(args, "OOIz|i", &addrs_arg, &lens_arg, &access, &location, &fd) ||
        !numbers_get(addrs_arg, "addresses", &addrs))
        return NULL;
    if (!numbers_get(lens_arg, "lengths", &lens)) {
        numbers_free(&addrs);
        return NULL;
    }
    if (!lens.is_scalar && lens.n != addrs.n) {
        PyErr_Format(PyExc_ValueError, "%zu addresses and %zu lengths", addrs.n, lens.n);
        goto out;
    }
    engine = engine_enter(self);
    if (!engine)
        goto out;
    buffers = calloc(addrs.n + 1, sizeof(*buffers));
    for (size_t i = 0; buffers && i < addrs.n; i++) {
        buffers[i].addr = (void *)(uintptr_t)addrs.v[i];
        buffers[i].len = numbers_at(&lens, i);
        buffers[i].access = access;
        buffers[i].location = location;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = !buffers   ? FERRY_ENOMEM
             : !addrs.n ? FERRY_OK
             : fd >= 0 ? ferry_memory_register_fd(engine, buffers, addrs.n, fd, buffers[0].addr)
                       : ferry_memory_register(engine, buffers, addrs.n);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    result = status ? raise_last(status) : Py_BuildValue("");
out:
    free(buffers);
    numbers_free(&addrs);
    numbers_free(&lens);
    return result;
}

/* memory_fd(nbytes): a descriptor to map, the caller's, or -1 */
static PyObject *engine_memory_fd(PyObject *object, PyObject *arg)
{
    struct engine *self = (struct engine *)object;
    unsigned long long len = PyLong_AsUnsignedLongLong(arg);
    struct ferry_engine *engine;
    int fd;

    if (len == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    engine = engine_enter(self);
    if (!engine)
        return NULL;
    fd = ferry_memory_fd(engine, len);
    engine_leave(self);
    return PyLong_FromLong(fd);
}

/* unregister(addresses) */
static PyObject *engine_unregister(PyObject *object, PyObject *addrs_arg)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    struct numbers addrs;
    void **starts = NULL;
    PyObject *result = NULL;
    ferry_status status;

    if (!numbers_get(addrs_arg, "addresses", &addrs))
        return NULL;
    engine = engine_enter(self);
    if (!engine)
        goto out;
    starts = calloc(addrs.n + 1, sizeof(*starts));
    for (size_t i = 0; starts && i < addrs.n; i++)
        starts[i] = (void *)(uintptr_t)addrs.v[i];
    Py_BEGIN_ALLOW_THREADS;
    status = !starts   ? FERRY_ENOMEM
             : addrs.n ? ferry_memory_unregister(engine, starts, addrs.n)
                       : FERRY_OK;
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    result = status ? raise_last(status) : Py_BuildValue("");
out:
    free(starts);
    numbers_free(&addrs);
    return result;
}

/* ---- segments
 * -------------------------------------------------------------------------------- */

static PyObject *engine_segment_open(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    ferry_segment segment = 0;
    unsigned int timeout_ms;
    const char *name;
    ferry_status status;

    if (!PyArg_ParseTuple(args, "sI", &name, &timeout_ms) || !(engine = engine_enter(self)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = ferry_segment_open(engine, name, timeout_ms, &segment);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    return status ? raise_last(status) : PyLong_FromUnsignedLongLong(segment);
}

static PyObject *segment_call(PyObject *object, PyObject *args,
                              ferry_status (*call)(struct ferry_engine *, ferry_segment,
                                                   uint32_t))
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    unsigned long long segment;
    unsigned int timeout_ms;
    ferry_status status;

    if (!PyArg_ParseTuple(args, "KI", &segment, &timeout_ms) || !(engine = engine_enter(self)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = call(engine, segment, timeout_ms);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    return status ? raise_last(status) : Py_BuildValue("");
}

static PyObject *engine_segment_refresh(PyObject *self, PyObject *args)
{
    return segment_call(self, args, ferry_segment_refresh);
}

static PyObject *engine_segment_probe(PyObject *self, PyObject *args)
{
    return segment_call(self, args, ferry_segment_probe);
}

static PyObject *engine_segment_close(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    unsigned long long segment;

    if (!PyArg_ParseTuple(args, "K", &segment) || !(engine = engine_enter(self)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    ferry_segment_close(engine, segment);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    Py_RETURN_NONE;
}

/* A list of (address, length, access, location). */
static PyObject *engine_segment_buffers(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_buffer *buffers = NULL;
    struct ferry_engine *engine;
    unsigned long long segment;
    size_t room = 0, n = 0;
    ferry_status status;
    PyObject *list = NULL;

    if (!PyArg_ParseTuple(args, "K", &segment) || !(engine = engine_enter(self)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    do { /* more may have come between the two looks */
        room = n;
        free(buffers);
        buffers = calloc(room + 1, sizeof(*buffers));
        status =
            buffers ? ferry_segment_buffers(engine, segment, buffers, room, &n) : FERRY_ENOMEM;
    } while (!status && n > room);
    Py_END_ALLOW_THREADS;
    if (!status)
        list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        PyObject *item = Py_BuildValue("KKIN", (unsigned long long)(uintptr_t)buffers[i].addr,
                                       (unsigned long long)buffers[i].len, buffers[i].access,
                                       text_of(buffers[i].location));

        if (!item || PyList_SetItem(list, (Py_ssize_t)i, item))
            Py_CLEAR(list);
    }
    engine_leave(self);
    free(buffers);
    return status ? raise_last(status) : list;
}

/* ---- notifications
 * ---------------------------------------------------------------------------- */

/* notify(segment, name, data, timeout_ms) */
static PyObject *engine_notify(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_engine *engine;
    unsigned long long segment;
    unsigned int timeout_ms;
    const char *name, *data;
    Py_ssize_t len;
    ferry_status status;

    if (!PyArg_ParseTuple(args, "Kss#I", &segment, &name, &data, &len, &timeout_ms) ||
        !(engine = engine_enter(self)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = ferry_notify(engine, segment, name, data, (size_t)len, timeout_ms);
    Py_END_ALLOW_THREADS;
    engine_leave(self);
    return status ? raise_last(status) : Py_BuildValue("");
}

/* (from, name, data), or None when none came in that time. */
static PyObject *engine_notification(PyObject *object, PyObject *args)
{
    struct engine *self = (struct engine *)object;
    struct ferry_notification *notification = NULL;
    struct ferry_engine *engine;
    unsigned int left_ms;
    ferry_status status = FERRY_EAGAIN;
    PyObject *result = NULL;
    bool more = true;

    if (!PyArg_ParseTuple(args, "I", &left_ms) || !(engine = engine_enter(self)))
        return NULL;
    while (status == FERRY_EAGAIN && more) {
        uint32_t slice = take_slice(&left_ms);

        Py_BEGIN_ALLOW_THREADS;
        status = ferry_notification_next(engine, slice, &notification);
        Py_END_ALLOW_THREADS;
        more = left_ms && status == FERRY_EAGAIN;
        if (more && !engine_may_wait(self)) {
            engine_leave(self);
            return NULL;
        }
    }
    engine_leave(self);
    if (status == FERRY_EAGAIN)
        Py_RETURN_NONE;
    if (status)
        return raise_last(status);
    result = Py_BuildValue("NNy#", text_of(notification->from), text_of(notification->name),
                           (const char *)notification->data, (Py_ssize_t)notification->len);
    ferry_notification_free(notification);
    return result;
}

static PyMethodDef engine_methods[] = {
    {"open", engine_open, METH_VARARGS, NULL},
    {"close", engine_close, METH_VARARGS, NULL},
    {"name", engine_name, METH_NOARGS, NULL},
    {"describe", engine_describe, METH_VARARGS, NULL},
    {"next_log", engine_next_log, METH_NOARGS, NULL},
    {"register", engine_register, METH_VARARGS, NULL},
    {"memory_fd", engine_memory_fd, METH_O, NULL},
    {"unregister", engine_unregister, METH_O, NULL},
    {"segment_open", engine_segment_open, METH_VARARGS, NULL},
    {"segment_refresh", engine_segment_refresh, METH_VARARGS, NULL},
    {"segment_probe", engine_segment_probe, METH_VARARGS, NULL},
    {"segment_close", engine_segment_close, METH_VARARGS, NULL},
    {"segment_buffers", engine_segment_buffers, METH_VARARGS, NULL},
    {"notify", engine_notify, METH_VARARGS, NULL},
    {"notification", engine_notification, METH_VARARGS, NULL},
    {"submit", engine_submit, METH_VARARGS, NULL},
    {"transfer", engine_transfer, METH_VARARGS, NULL},
    {"batch_wait", engine_batch_wait, METH_VARARGS, NULL},
    {"batch_poll", engine_batch_poll, METH_VARARGS, NULL},
    {"batch_request", engine_batch_request, METH_VARARGS, NULL},
    {"batch_cancel", engine_batch_cancel, METH_VARARGS, NULL},
    {"batch_free", engine_batch_free, METH_VARARGS, NULL},
    {"fd", engine_fd, METH_NOARGS, NULL},
    {"reap", engine_reap, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, (void *)"The library's engine, by numbers; ferry.Engine is the one to use."},
    {Py_tp_new, (void *)engine_new},
    {Py_tp_dealloc, (void *)engine_dealloc},
    {Py_tp_methods, engine_methods},
    {0, NULL},
};

PyType_Spec engine_spec = {
    .name = "ferry._ferry.Engine",
    .basicsize = sizeof(struct engine),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = engine_slots,
};
