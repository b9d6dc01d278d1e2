/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The extension module ferry._ferry: its types, constants and how a status becomes an
 * exception. The classes of exceptions, and everything that users see, are Python
 * (ferry/__init__.py).
 */
#include "_ferry.h"

static PyObject *make_error; /* (status, text) -> exception; set once by ferry/__init__.py */

PyObject *raise_status(ferry_status status, const char *text)
{
    PyObject *error;

    if (!make_error) {
        PyErr_Format(PyExc_RuntimeError, "%s: %s", ferry_strstatus(status), text);
        return NULL;
    }
    error = PyObject_CallFunction(make_error, "iN", (int)status, text_of(text));
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

PyObject *raise_last(ferry_status status)
{
    return raise_status(status, ferry_error());
}

PyObject *text_of(const char *text)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

static PyObject *module_set_make_error(PyObject *module, PyObject *callable)
{
    Py_INCREF(callable);
    Py_XDECREF(make_error);
    make_error = callable;
    Py_RETURN_NONE;
}

static PyObject *module_strstatus(PyObject *module, PyObject *args)
{
    int status;

    if (!PyArg_ParseTuple(args, "i", &status))
        return NULL;
    return PyUnicode_FromString(ferry_strstatus(status));
}

static PyObject *module_scope(PyObject *module, PyObject *args)
{
    int status;

    if (!PyArg_ParseTuple(args, "i", &status))
        return NULL;
    return PyLong_FromLong((long)ferry_status_scope(status));
}

static PyObject *module_version(PyObject *module, PyObject *unused)
{
    return PyUnicode_FromString(ferry_version());
}

static PyObject *module_plugins(PyObject *module, PyObject *unused)
{
    char *json = NULL;
    ferry_status status;
    PyObject *text;

    Py_BEGIN_ALLOW_THREADS;
    status = ferry_engine_describe(NULL, "plugins", &json);
    Py_END_ALLOW_THREADS;
    if (status)
        return raise_last(status);
    text = text_of(json);
    ferry_string_free(json);
    return text;
}

/* Memory that nobody vouches for: for those who have addresses and nothing else. */
static PyObject *module_read_memory(PyObject *module, PyObject *args)
{
    PyObject *address, *length;
    uint64_t addr, len;

    if (!PyArg_ParseTuple(args, "OO", &address, &length) ||
        !number_get(address, "address", &addr) || !number_get(length, "length", &len))
        return NULL;
    if (len > PY_SSIZE_T_MAX || (len && !addr)) {
        PyErr_SetString(PyExc_ValueError, "not a range of memory");
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)(uintptr_t)addr, (Py_ssize_t)len);
}

static PyObject *module_view_memory(PyObject *module, PyObject *args)
{
    PyObject *address, *length;
    uint64_t addr, len;

    if (!PyArg_ParseTuple(args, "OO", &address, &length) ||
        !number_get(address, "address", &addr) || !number_get(length, "length", &len))
        return NULL;
    if (len > PY_SSIZE_T_MAX || !addr) {
        PyErr_SetString(PyExc_ValueError, "not a range of memory");
        return NULL;
    }
    return PyMemoryView_FromMemory((char *)(uintptr_t)addr, (Py_ssize_t)len, 0x200 /* write */);
}

static PyMethodDef methods[] = {
    {"set_make_error", module_set_make_error, METH_O, NULL},
    {"strstatus", module_strstatus, METH_VARARGS, NULL},
    {"scope", module_scope, METH_VARARGS, NULL},
    {"version", module_version, METH_NOARGS, NULL},
    {"plugins", module_plugins, METH_NOARGS, NULL},
    {"read_memory", module_read_memory, METH_VARARGS, NULL},
    {"view_memory", module_view_memory, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "ferry._ferry",
                                        .m_size = -1, .m_methods = methods};

static bool add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);

    return type && !PyModule_AddObject(module, name, type);
}

PyMODINIT_FUNC PyInit__ferry(void);

PyMODINIT_FUNC PyInit__ferry(void)
{
    PyObject *module = PyModule_Create(&definition);

    if (!module)
        return NULL;
    if (!add_type(module, "Engine", &engine_spec) || !add_type(module, "Pin", &pin_spec)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
