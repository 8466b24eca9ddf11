/* How the compiled loops get at NumPy's arrays. */

#ifndef C3D_EXTRACT_BUFFERS_H
#define C3D_EXTRACT_BUFFERS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Fill `buffers` from `n` objects, each with the flags in `kinds`; 0 with an exception set where one refuses. */
static int
get_buffers(PyObject *const *objects, const int *kinds, Py_buffer *buffers, int n)
{
    for (int k = 0; k < n; k++)
        if (PyObject_GetBuffer(objects[k], &buffers[k], kinds[k]) < 0) {
            while (k > 0)
                PyBuffer_Release(&buffers[--k]);
            return 0;
        }
    return 1;
}

/* Give the buffers back; None, or ValueError where the arrays were found not to fit together. */
static PyObject *
done(Py_buffer *buffers, int n, int fits)
{
    for (int k = 0; k < n; k++)
        PyBuffer_Release(&buffers[k]);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "arrays that do not fit together");
        return NULL;
    }
    return Py_NewRef(Py_None);
}

#endif
