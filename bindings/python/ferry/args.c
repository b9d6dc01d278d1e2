/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments: lists of 64-bit numbers, however the caller has them, and the memory of buffer
 * objects. Knows nothing of engines.
 */
#include "_ferry.h"

#include <stdlib.h>
#include <string.h>

bool number_get(PyObject *object, const char *name, uint64_t *number_out)
{
    PyObject *index;
    unsigned long long value;

    if (PyLong_Check(object)) {
        value = PyLong_AsUnsignedLongLong(object);
    } else {
        index = PyNumber_Index(object);
        if (!index)
            return false;
        value = PyLong_AsUnsignedLongLong(index);
        Py_DECREF(index);
    }
    if (value == (unsigned long long)-1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError) ||
            PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_OverflowError, "%s: %R is not in 0 to 2**64-1", name, object);
        }
        return false;
    }
    *number_out = value;
    return true;
}

/* A one-dimensional buffer of 64-bit integers in this machine's order. */
static bool is_of_u64(const Py_buffer *view)
{
    const char *format = view->format ? view->format : "B";

    if (*format == '@' || *format == '=')
        format++;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    else if (*format == '<')
        format++;
#endif
    return view->ndim == 1 && view->itemsize == 8 && *format && !format[1] &&
           strchr("QLqlNnP", *format);
}

static bool from_view(const char *name, struct numbers *numbers)
{
    const char *format = numbers->view.format;
    const int64_t *v = numbers->view.buf;

    numbers->v = numbers->view.buf;
    numbers->n = (size_t)numbers->view.len / 8;
    if (strpbrk(format, "qln")) {
        for (size_t i = 0; i < numbers->n; i++) {
            if (v[i] < 0) {
                PyErr_Format(PyExc_OverflowError, "%s[%zu]: %lld is negative", name, i,
                             (long long)v[i]);
                return false;
            }
        }
    }
    return true;
}

static bool from_list(PyObject *list, const char *name, struct numbers *numbers)
{
    Py_ssize_t n = PyList_Size(list);

    numbers->own = malloc(((size_t)n + 1) * sizeof(*numbers->own));
    if (!numbers->own) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PyList_GetItem(list, i); /* borrowed; NULL if the list shrank */
        bool ok;

        if (!item)
            return false;
        Py_INCREF(item);
        ok = number_get(item, name, &numbers->own[i]);
        Py_DECREF(item);
        if (!ok)
            return false;
    }
    numbers->v = numbers->own;
    numbers->n = (size_t)n;
    return true;
}

bool numbers_get(PyObject *object, const char *name, struct numbers *numbers)
{
    PyObject *list;
    bool ok;

    memset(numbers, 0, sizeof(*numbers));
    if (PyLong_Check(object))
        goto scalar;
    if (PyList_Check(object))
        return from_list(object, name, numbers) || (numbers_free(numbers), false);
    if (PyUnicode_Check(object) || PyBytes_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: integers are wanted, not %R", name,
                     (PyObject *)Py_TYPE(object));
        return false;
    }
    if (!PyObject_GetBuffer(object, &numbers->view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)) {
        numbers->has_view = true;
        if (is_of_u64(&numbers->view))
            return from_view(name, numbers) || (numbers_free(numbers), false);
        PyBuffer_Release(&numbers->view);
        numbers->has_view = false;
    } else {
        PyErr_Clear();
    }
    if (!PySequence_Check(object))
        goto scalar;
    list = PySequence_List(object);
    if (!list)
        return false;
    ok = from_list(list, name, numbers);
    Py_DECREF(list);
    if (!ok)
        numbers_free(numbers);
    return ok;

scalar:
    numbers->v = &numbers->one;
    numbers->n = 1;
    numbers->is_scalar = true;
    return number_get(object, name, &numbers->one);
}

void numbers_free(struct numbers *numbers)
{
    if (numbers->has_view)
        PyBuffer_Release(&numbers->view);
    free(numbers->own);
    memset(numbers, 0, sizeof(*numbers));
}

/* ---- pin
 * ------------------------------------------------------------------------------------ */

static PyObject *pin_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"object", NULL};
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *object;
    struct pin *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Pin", names, &object))
        return NULL;
    self = (struct pin *)alloc(type, 0);
    if (!self)
        return NULL;
    if (PyObject_GetBuffer(object, &self->view, PyBUF_SIMPLE)) {
        Py_DECREF(self);
        return NULL;
    }
    self->has_view = true;
    return (PyObject *)self;
}

static void pin_dealloc(PyObject *object)
{
    struct pin *self = (struct pin *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (self->has_view)
        PyBuffer_Release(&self->view);
    free_object(object);
    Py_DECREF(type);
}

static PyObject *pin_release(PyObject *object, PyObject *unused)
{
    struct pin *self = (struct pin *)object;

    if (self->has_view) {
        self->has_view = false;
        PyBuffer_Release(&self->view);
    }
    Py_RETURN_NONE;
}

static PyObject *pin_range(PyObject *object, PyObject *unused)
{
    struct pin *self = (struct pin *)object;

    if (!self->has_view) {
        PyErr_SetString(PyExc_ValueError, "released");
        return NULL;
    }
    return Py_BuildValue("KnO", (unsigned long long)(uintptr_t)self->view.buf, self->view.len,
                         self->view.readonly ? Py_True : Py_False);
}

static PyMethodDef pin_methods[] = {
    {"range", pin_range, METH_NOARGS, "(address, length in bytes, whether it is read-only)."},
    {"release", pin_release, METH_NOARGS, "Gives the memory back; more often does nothing."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pin_slots[] = {
    {Py_tp_doc, (void *)"Pin(object): holds the memory of a buffer object in place."},
    {Py_tp_new, (void *)pin_new},
    {Py_tp_dealloc, (void *)pin_dealloc},
    {Py_tp_methods, pin_methods},
    {0, NULL},
};

PyType_Spec pin_spec = {
    .name = "ferry._ferry.Pin",
    .basicsize = sizeof(struct pin),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = pin_slots,
};
