/* The inner loop of preprocess.FrameSampler: OpenCV's 8-bit bilinear, on the pixels of a crop alone.

   One call makes one crop. Every index and weight is checked against the frame before it is used, so
   wrong tables raise ValueError and never read outside. NumPy does the same arithmetic in preprocess.py
   where this module could not be compiled; tests hold both to OpenCV's pixels. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3") /* some Pythons compile with -O2, which leaves loops scalar */
#endif

#define MAX_COLUMNS 4096 /* of a crop, as Preprocessing.from_json allows */

/* Where the lines of a crop sample the frame: an array int32 (4, n) of the first and second source lines
   and their weights in 1/2048. */
typedef struct {
    const int32_t *first, *second, *weight_first, *weight_second;
    Py_ssize_t n;
} Axis;

typedef struct {
    const uint8_t *pixels;
    Py_ssize_t height, width, channels, step; /* step: bytes from row to row */
} Frame;

/* sums[4 j + c] = (p·w + p'·w') >> 4 for column j of the crop: at most 255 * 2048 / 16, which 15 bits hold. */
static void
across_any(const uint8_t *line, Py_ssize_t channels, const Axis *columns, int16_t *sums)
{
    for (Py_ssize_t j = 0; j < columns->n; j++) {
        const uint8_t *p = line + channels * columns->first[j];
        const uint8_t *q = line + channels * columns->second[j];
        const int32_t a = columns->weight_first[j], b = columns->weight_second[j];
        for (int c = 0; c < 3; c++)
            sums[4 * j + c] = (int16_t)((p[c] * a + q[c] * b) >> 4);
        sums[4 * j + 3] = 0;
    }
}

#ifdef __SSE2__
static inline __m128i
pixel(const uint8_t *line, int32_t column)
{
    int32_t value;
    memcpy(&value, line + 4 * (Py_ssize_t)column, 4);
    return _mm_cvtsi32_si128(value);
}

/* The same for pixels of four bytes, with all channels of one column in a register. */
static void
across_four(const uint8_t *line, const Axis *columns, int16_t *sums)
{
    for (Py_ssize_t j = 0; j < columns->n; j++) {
        __m128i both = _mm_unpacklo_epi8(pixel(line, columns->first[j]), pixel(line, columns->second[j]));
        both = _mm_unpacklo_epi8(both, _mm_setzero_si128());
        const __m128i weights = _mm_set1_epi32(columns->weight_first[j] | columns->weight_second[j] << 16);
        const __m128i sum = _mm_srai_epi32(_mm_madd_epi16(both, weights), 4);
        _mm_storel_epi64((__m128i *)(sums + 4 * j), _mm_packs_epi32(sum, sum));
    }
}
#endif

static void
across(const uint8_t *line, Py_ssize_t channels, const Axis *columns, int16_t *sums)
{
#ifdef __SSE2__
    if (channels == 4) {
        across_four(line, columns, sums);
        return;
    }
#endif
    across_any(line, channels, columns, sums);
}

/* ((u·w >> 16) + (l·w' >> 16) + 2) >> 2 of an upper and a lower line of sums. */
static void
down(const int16_t *restrict upper, int16_t a, const int16_t *restrict lower, int16_t b, Py_ssize_t n_columns,
     uint8_t *restrict out)
{
    uint8_t made[4 * MAX_COLUMNS];
    for (Py_ssize_t k = 0; k < 4 * n_columns; k++) {
        const int16_t u = (int16_t)((upper[k] * a) >> 16), l = (int16_t)((lower[k] * b) >> 16);
        made[k] = (uint8_t)((int16_t)(u + l + 2) >> 2);
    }
    for (Py_ssize_t j = 0; j < n_columns; j++)
        memcpy(out + 3 * j, made + 4 * j, 3);
}

static void
make_crop(const Frame *frame, const Axis *rows, const Axis *columns, uint8_t *out)
{
    /* Lines of the frame are summed once: the second of one row is often the first of the next. */
    int16_t lines[2][4 * MAX_COLUMNS];
    int32_t held[2] = {-1, -1};
    for (Py_ssize_t i = 0; i < rows->n; i++) {
        const int32_t wanted[2] = {rows->first[i], rows->second[i]};
        int slot[2];
        for (int k = 0; k < 2; k++) {
            slot[k] = wanted[k] == held[0] ? 0 : wanted[k] == held[1] ? 1 : -1;
            if (slot[k] >= 0)
                continue;
            slot[k] = k == 0 ? held[0] == wanted[1] : 1 - slot[0]; /* spare the line that the other needs */
            held[slot[k]] = wanted[k];
            across(frame->pixels + frame->step * wanted[k], frame->channels, columns, lines[slot[k]]);
        }
        down(lines[slot[0]], (int16_t)rows->weight_first[i], lines[slot[1]], (int16_t)rows->weight_second[i],
             columns->n, out + 3 * columns->n * i);
    }
}

static int
read_axis(const Py_buffer *table, Py_ssize_t n_lines, Axis *axis)
{
    const int32_t *values = table->buf;
    if (table->itemsize != 4 || table->ndim != 2 || table->shape[0] != 4 || table->shape[1] > MAX_COLUMNS)
        return 0;
    const Py_ssize_t n = table->shape[1];
    *axis = (Axis){values, values + n, values + 2 * n, values + 3 * n, n};
    for (Py_ssize_t k = 0; k < 2 * n; k++)
        if (values[k] < 0 || values[k] >= n_lines || values[2 * n + k] < 0 || values[2 * n + k] > 2048)
            return 0;
    return 1;
}

static int
read_frame(const Py_buffer *buffer, Frame *frame)
{
    if (buffer->itemsize != 1 || buffer->ndim != 3 || buffer->shape[2] < 3 || buffer->shape[2] > 4)
        return 0;
    if (buffer->strides[2] != 1 || buffer->strides[1] != buffer->shape[2])
        return 0;
    *frame = (Frame){buffer->buf, buffer->shape[0], buffer->shape[1], buffer->shape[2], buffer->strides[0]};
    return 1;
}

static int
sample_buffers(const Py_buffer *pixels, const Py_buffer *row_table, const Py_buffer *column_table, Py_buffer *out)
{
    Frame frame;
    Axis rows, columns;
    if (!read_frame(pixels, &frame) || !read_axis(row_table, frame.height, &rows) ||
        !read_axis(column_table, frame.width, &columns) || out->len != 3 * rows.n * columns.n)
        return 0;
    make_crop(&frame, &rows, &columns, out->buf);
    return 1;
}

static PyObject *
sample(PyObject *Py_UNUSED(module), PyObject *args)
{
    static const int kinds[4] = {PyBUF_STRIDES, PyBUF_ND, PyBUF_ND, PyBUF_ND | PyBUF_WRITABLE};
    PyObject *objects[4];
    Py_buffer buffers[4];
    int n = 0, fits = 0;
    if (!PyArg_ParseTuple(args, "OOOO:sample", &objects[0], &objects[1], &objects[2], &objects[3]))
        return NULL;
    while (n < 4 && PyObject_GetBuffer(objects[n], &buffers[n], kinds[n]) == 0)
        n++;
    if (n == 4) {
        fits = sample_buffers(&buffers[0], &buffers[1], &buffers[2], &buffers[3]);
        if (!fits)
            PyErr_SetString(PyExc_ValueError, "frame, rows, columns and out do not fit together");
    }
    while (n > 0)
        PyBuffer_Release(&buffers[--n]);
    return fits ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {
    {"sample", sample, METH_VARARGS,
     "sample(frame, rows, columns, out)\n--\n\n"
     "Write the crop of ``frame``, uint8 (H, W, 3 or 4), to ``out``, uint8 (rows, columns, 3).\n\n"
     "``rows`` and ``columns`` are int32 (4, n): first and second source line, their weights in 1/2048."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_bilinear", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit__bilinear(void)
{
    return PyModuleDef_Init(&definition);
}
