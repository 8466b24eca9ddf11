/* The inner loops over pixels: of decode/colour.py, which gathers the parts of a frame that are needed, and of
   preprocess/resize.py, which samples them as OpenCV's 8-bit bilinear does.

   Every index and weight is checked against the frame before it is used, so wrong tables raise ValueError
   and never read or write outside. NumPy does the same in those modules where this could not be compiled;
   tests hold both to OpenCV's pixels. */

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

#define MAX_COLUMNS 4096 /* of a crop, as Preprocessing.from_json allows; even */

/* Where the lines of a crop sample the frame: an array int32 (4, n) of the first and second source lines
   and their weights in 1/2048. */
typedef struct {
    const int32_t *first, *second, *weight_first, *weight_second;
    Py_ssize_t n;
    int32_t last; /* the largest of the lines */
} Axis;

typedef struct {
    const uint8_t *pixels;
    Py_ssize_t height, width, channels, step; /* step: bytes from row to row */
} Frame;

/* One column of the crop: where its two pixels start in a line, and their weights, 16 bits each. */
typedef struct {
    int32_t first, second;
    int32_t weights;
} Column;

/* sums[4 j + c] = (p·w + p'·w') >> 4 for column j of the crop: at most 255 * 2048 / 16, which 15 bits hold. */
static void
across(const uint8_t *line, const Column *columns, Py_ssize_t n, int16_t *sums)
{
    for (Py_ssize_t j = 0; j < n; j++) {
        const uint8_t *p = line + columns[j].first, *q = line + columns[j].second;
        const int32_t a = columns[j].weights & 0xffff, b = columns[j].weights >> 16;
        for (int c = 0; c < 3; c++)
            sums[4 * j + c] = (int16_t)((p[c] * a + q[c] * b) >> 4);
        sums[4 * j + 3] = 0;
    }
}

#ifdef __SSE2__
static inline __m128i
four_bytes(const uint8_t *pixel)
{
    int32_t value;
    memcpy(&value, pixel, 4);
    return _mm_cvtsi32_si128(value);
}

static inline __m128i
weighted(const uint8_t *line, const Column *column)
{
    const __m128i both = _mm_unpacklo_epi8(four_bytes(line + column->first), four_bytes(line + column->second));
    const __m128i wide = _mm_unpacklo_epi8(both, _mm_setzero_si128());
    return _mm_srai_epi32(_mm_madd_epi16(wide, _mm_set1_epi32(column->weights)), 4);
}

/* The same with a pixel in a register, the byte after it included: not for the last pixel of three bytes.
   Works on columns in twos: `columns` and `sums` have one more than n where n is odd. */
static void
across_fast(const uint8_t *line, const Column *columns, Py_ssize_t n, int16_t *sums)
{
    for (Py_ssize_t j = 0; j < n; j += 2) {
        const __m128i two = _mm_packs_epi32(weighted(line, columns + j), weighted(line, columns + j + 1));
        _mm_storeu_si128((__m128i *)(sums + 4 * j), two);
    }
}
#else
#define across_fast across
#endif

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
    for (Py_ssize_t j = 0; j < n_columns - 1; j++)
        memcpy(out + 3 * j, made + 4 * j, 4); /* the fourth byte is written over by the next pixel */
    memcpy(out + 3 * (n_columns - 1), made + 4 * (n_columns - 1), 3);
}

static void
make_crop(const Frame *frame, const Axis *rows, const Axis *columns, uint8_t *out)
{
    /* Lines of the frame are summed once: the second of one row is often the first of the next. */
    int16_t lines[2][4 * MAX_COLUMNS];
    int32_t held[2] = {-1, -1};
    Column places[MAX_COLUMNS + 1];
    const int32_t step = (int32_t)frame->channels;
    for (Py_ssize_t j = 0; j < columns->n; j++)
        places[j] = (Column){step * columns->first[j], step * columns->second[j],
                             columns->weight_first[j] | columns->weight_second[j] << 16};
    places[columns->n] = places[columns->n - 1];
    const int fast = frame->channels == 4 || columns->last < frame->width - 1;
    for (Py_ssize_t i = 0; i < rows->n; i++) {
        const int32_t wanted[2] = {rows->first[i], rows->second[i]};
        int slot[2];
        for (int k = 0; k < 2; k++) {
            slot[k] = wanted[k] == held[0] ? 0 : wanted[k] == held[1] ? 1 : -1;
            if (slot[k] >= 0)
                continue;
            slot[k] = k == 0 ? held[0] == wanted[1] : 1 - slot[0]; /* spare the line that the other needs */
            held[slot[k]] = wanted[k];
            (fast ? across_fast : across)(frame->pixels + frame->step * wanted[k], places, columns->n,
                                          lines[slot[k]]);
        }
        down(lines[slot[0]], (int16_t)rows->weight_first[i], lines[slot[1]], (int16_t)rows->weight_second[i],
             columns->n, out + 3 * columns->n * i);
    }
}

static int
read_axis(const Py_buffer *table, Py_ssize_t n_lines, Axis *axis)
{
    const int32_t *values = table->buf;
    if (table->itemsize != 4 || table->ndim != 2 || table->shape[0] != 4 || table->shape[1] < 1 ||
        table->shape[1] > MAX_COLUMNS)
        return 0;
    const Py_ssize_t n = table->shape[1];
    *axis = (Axis){values, values + n, values + 2 * n, values + 3 * n, n, 0};
    for (Py_ssize_t k = 0; k < 2 * n; k++) {
        if (values[k] < 0 || values[k] >= n_lines || values[2 * n + k] < 0 || values[2 * n + k] > 2048)
            return 0;
        axis->last = values[k] > axis->last ? values[k] : axis->last;
    }
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

/* Release the buffers; return None, or set ValueError where the arrays were found not to fit together. */
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

static PyObject *
sample(PyObject *Py_UNUSED(module), PyObject *args)
{
    static const int kinds[4] = {PyBUF_STRIDES, PyBUF_ND, PyBUF_ND, PyBUF_ND | PyBUF_WRITABLE};
    PyObject *objects[4];
    Py_buffer buffers[4];
    if (!PyArg_ParseTuple(args, "OOOO:sample", &objects[0], &objects[1], &objects[2], &objects[3]))
        return NULL;
    if (!get_buffers(objects, kinds, buffers, 4))
        return NULL;
    return done(buffers, 4, sample_buffers(&buffers[0], &buffers[1], &buffers[2], &buffers[3]));
}

static int
are_within(const Py_buffer *indices, Py_ssize_t end)
{
    if (indices->itemsize != 4 || indices->ndim != 1)
        return 0;
    for (Py_ssize_t k = 0; k < indices->shape[0]; k++)
        if (((const int32_t *)indices->buf)[k] < 0 || ((const int32_t *)indices->buf)[k] >= end)
            return 0;
    return 1;
}

static int
is_plane(const Py_buffer *buffer)
{
    return buffer->itemsize == 1 && buffer->ndim == 2 && buffer->strides[1] == 1;
}

/* Blocks of one or two bytes: memcpy of a length known here is one load and one store. */
static void
gather_line(const uint8_t *line, const int32_t *columns, Py_ssize_t n, Py_ssize_t width, uint8_t *out)
{
    if (width == 2)
        for (Py_ssize_t j = 0; j < n; j++)
            memcpy(out + 2 * j, line + 2 * (Py_ssize_t)columns[j], 2);
    else
        for (Py_ssize_t j = 0; j < n; j++)
            out[j] = line[columns[j]];
}

static int
gather_buffers(const Py_buffer *plane, const Py_buffer *rows, const Py_buffer *columns, Py_buffer *out, int width)
{
    if ((width != 1 && width != 2) || !is_plane(plane) || !is_plane(out) || !are_within(rows, plane->shape[0]) ||
        !are_within(columns, plane->shape[1] / width) || out->shape[0] != rows->shape[0] ||
        out->shape[1] < width * columns->shape[0])
        return 0;
    for (Py_ssize_t i = 0; i < rows->shape[0]; i++)
        gather_line((const uint8_t *)plane->buf + plane->strides[0] * ((const int32_t *)rows->buf)[i], columns->buf,
                    columns->shape[0], width, (uint8_t *)out->buf + out->strides[0] * i);
    return 1;
}

static PyObject *
gather(PyObject *Py_UNUSED(module), PyObject *args)
{
    static const int kinds[4] = {PyBUF_STRIDES, PyBUF_ND, PyBUF_ND, PyBUF_STRIDES | PyBUF_WRITABLE};
    PyObject *objects[4];
    Py_buffer buffers[4];
    int width;
    if (!PyArg_ParseTuple(args, "OOOOi:gather", &objects[0], &objects[1], &objects[2], &objects[3], &width))
        return NULL;
    if (!get_buffers(objects, kinds, buffers, 4))
        return NULL;
    return done(buffers, 4, gather_buffers(&buffers[0], &buffers[1], &buffers[2], &buffers[3], width));
}

static PyMethodDef methods[] = {
    {"sample", sample, METH_VARARGS,
     "sample(frame, rows, columns, out)\n--\n\n"
     "Write the crop of ``frame``, uint8 (H, W, 3 or 4), to ``out``, uint8 (rows, columns, 3).\n\n"
     "``rows`` and ``columns`` are int32 (4, n): first and second source line, their weights in 1/2048."},
    {"gather", gather, METH_VARARGS,
     "gather(plane, rows, columns, out, width)\n--\n\n"
     "Write these rows and columns of ``plane``, uint8 (H, W), to ``out``; columns are ``width`` bytes, 1 or 2.\n\n"
     "``rows`` and ``columns`` are int32 (n,)."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit__kernels(void)
{
    return PyModuleDef_Init(&definition);
}
