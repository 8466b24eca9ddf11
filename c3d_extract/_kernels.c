/* The inner loops over pixels: crops of frames as OpenCV's 8-bit bilinear makes them, from B, G and R for
   preprocess/resize.py, and for decode/sampling.py from 4:2:0 planes, which become B, G and R on the way.

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
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAS_AVX2 /* what needs it is left out of the module where the processor has none */
#define AVX2 __attribute__((target("avx2")))
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
typedef void (*SumLine)(const void *source, const int32_t *rows, int16_t *sums);

typedef struct {
    Frame frame;
    Py_ssize_t n;
    Column columns[MAX_COLUMNS + 1];
} Pixels;

static void
sum_pixels(const void *source, const int32_t *rows, int16_t *sums)
{
    const Pixels *from = source;
    const uint8_t *line = from->frame.pixels + from->frame.step * rows[0];
    for (Py_ssize_t j = 0; j < from->n; j++) {
        const uint8_t *p = line + from->columns[j].first, *q = line + from->columns[j].second;
        const int32_t a = from->columns[j].weights & 0xffff, b = from->columns[j].weights >> 16;
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
   Works on columns in twos: there is one more than n. */
static void
sum_pixels_fast(const void *source, const int32_t *rows, int16_t *sums)
{
    const Pixels *from = source;
    const uint8_t *line = from->frame.pixels + from->frame.step * rows[0];
    for (Py_ssize_t j = 0; j < from->n; j += 2) {
        const Column *column = from->columns + j;
        const __m128i two = _mm_packs_epi32(weighted(line, column), weighted(line, column + 1));
        _mm_storeu_si128((__m128i *)(sums + 4 * j), two);
    }
}
#else
#define sum_pixels_fast sum_pixels
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

#ifdef HAS_AVX2
static int has_avx2;

/* The same, eight columns at a time. */
AVX2 static void
down_fast(const int16_t *upper, int16_t a, const int16_t *lower, int16_t b, Py_ssize_t n_columns, uint8_t *out)
{
    const __m256i two = _mm256_set1_epi16(2), first = _mm256_set1_epi16(a), second = _mm256_set1_epi16(b);
    const __m256i without_fourth = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    for (Py_ssize_t j = 0; j < n_columns; j += 8) {
        __m256i sums[2];
        for (int h = 0; h < 2; h++) {
            const __m256i u = _mm256_loadu_si256((const void *)(upper + 4 * j + 16 * h));
            const __m256i l = _mm256_loadu_si256((const void *)(lower + 4 * j + 16 * h));
            sums[h] = _mm256_add_epi16(_mm256_mulhi_epi16(u, first), _mm256_mulhi_epi16(l, second));
            sums[h] = _mm256_srai_epi16(_mm256_add_epi16(sums[h], two), 2);
        }
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(sums[0], sums[1]), 0xd8);
        uint8_t made[28], *to = j + 10 <= n_columns ? out + 3 * j : made; /* four bytes more than it fills */
        _mm256_storeu2_m128i((void *)(to + 12), (void *)to, _mm256_shuffle_epi8(bytes, without_fourth));
        if (to == made)
            memcpy(out + 3 * j, made, (size_t)(3 * (n_columns - j < 8 ? n_columns - j : 8)));
    }
}
#else
#define has_avx2 0
#define down_fast down
#endif

static void
make_crop(SumLine sum_line, const void *source, const Axis *rows, Py_ssize_t n_columns, uint8_t *out)
{
    /* Lines of the frame are summed once: the second of one row is often the first of the next. */
    int16_t lines[2][4 * (MAX_COLUMNS + 16)];
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
            const int32_t next = k == 0 || i + 1 == rows->n ? wanted[1] : rows->first[i + 1];
            sum_line(source, (int32_t[2]){wanted[k], next}, lines[slot[k]]);
        }
        (has_avx2 ? down_fast : down)(lines[slot[0]], (int16_t)rows->weight_first[i], lines[slot[1]],
                                      (int16_t)rows->weight_second[i], n_columns, out + 3 * n_columns * i);
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
    Pixels from;
    Axis rows, columns;
    if (!read_frame(pixels, &from.frame) || !read_axis(row_table, from.frame.height, &rows) ||
        !read_axis(column_table, from.frame.width, &columns) || out->len != 3 * rows.n * columns.n)
        return 0;
    const int32_t step = (int32_t)from.frame.channels;
    from.n = columns.n;
    for (Py_ssize_t j = 0; j <= columns.n; j++) {
        const Py_ssize_t k = j < columns.n ? j : j - 1;
        from.columns[j] = (Column){step * columns.first[k], step * columns.second[k],
                                   columns.weight_first[k] | columns.weight_second[k] << 16};
    }
    const int fast = step == 4 || columns.last < from.frame.width - 1;
    make_crop(fast ? sum_pixels_fast : sum_pixels, &from, &rows, columns.n, out->buf);
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

#ifdef HAS_AVX2
/* Where in a line of luma and of chroma the crop's columns lie, two pixels each, n columns in eights: in 16 bytes from
   `windows` on, or, where that is -1, two bytes from `pairs` on for each column; and which of the 16 bytes they are. */
typedef struct {
    const uint8_t *planes[3];
    Py_ssize_t line_sizes[3], n;
    const int32_t *pairs[2], *windows[2];
    const uint8_t *inside[2];
    const int16_t *weights, *factors;
} Planes;

typedef int16_t __attribute__((aligned(1), may_alias)) Pair;

/* Write the pixels of line rows[0]; line rows[1] is the next. */
AVX2 static void
pick(const Planes *from, int k, const int32_t *rows, uint8_t *out)
{
    const uint8_t *line = from->planes[k] + from->line_sizes[k] * (rows[0] >> (k > 0)), *inside = from->inside[k > 0];
    const uint8_t *next = from->planes[k] + from->line_sizes[k] * (rows[1] >> (k > 0));
    const int32_t *windows = from->windows[k > 0], *p = from->pairs[k > 0];
    for (Py_ssize_t i = 0; i < from->n; i += 8, p += 8) {
        __m128i bytes;
        if (windows[i / 8] >= 0)
            bytes = _mm_loadu_si128((const void *)(line + windows[i / 8]));
        else { /* a large frame, whose lines the decoder's last writes have driven out of the caches */
#define AT(j) *(const Pair *)(line + p[j])
            bytes = _mm_setr_epi16(AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7));
            for (int j = 0; j < 8; j += 2)
                _mm_prefetch((const void *)(next + p[j]), _MM_HINT_T0);
        }
        bytes = _mm_shuffle_epi8(bytes, _mm_loadu_si128((const void *)(inside + 2 * i)));
        _mm_storeu_si128((void *)(out + 2 * i), bytes);
    }
}

/* B, G and R of sixteen pixels, 16 bits each, as swscale makes them on x86 (yuv_2_rgb.asm). `factors`: 8 times the
   offset of luma; then by 2^-13 those of luma, of U in B and G, of V in G and R. */
AVX2 static inline void
to_bgr(__m256i y, __m256i u, __m256i v, const int16_t *factors, __m256i *bgr)
{
#define TIMES(x, k) _mm256_mulhi_epi16(x, _mm256_set1_epi16(factors[k]))
    const __m256i middle = _mm256_set1_epi16(1024), zero = _mm256_setzero_si256(), most = _mm256_set1_epi16(255);
    y = TIMES(_mm256_sub_epi16(_mm256_slli_epi16(y, 3), _mm256_set1_epi16(factors[0])), 1);
    u = _mm256_sub_epi16(_mm256_slli_epi16(u, 3), middle);
    v = _mm256_sub_epi16(_mm256_slli_epi16(v, 3), middle);
    const __m256i added[3] = {TIMES(u, 2), _mm256_add_epi16(TIMES(u, 3), TIMES(v, 4)), TIMES(v, 5)};
    for (int c = 0; c < 3; c++)
        bgr[c] = _mm256_max_epi16(_mm256_min_epi16(_mm256_add_epi16(y, added[c]), most), zero);
}

AVX2 static void
sum_planes(const void *source, const int32_t *rows, int16_t *sums)
{
    const Planes *from = source;
    const __m256i zero = _mm256_setzero_si256();
    uint8_t picked[3][2 * MAX_COLUMNS];
    for (int k = 0; k < 3; k++)
        pick(from, k, rows, picked[k]);
    for (Py_ssize_t i = 0; i < 2 * from->n; i += 32, sums += 64) {
        __m256i wide[3], bgr[3], half[3][2];
        for (int h = 0; h < 2; h++) {
            for (int k = 0; k < 3; k++)
                wide[k] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(picked[k] + i + 16 * h)));
            to_bgr(wide[0], wide[1], wide[2], from->factors, bgr);
            const __m256i weights = _mm256_loadu_si256((const void *)(from->weights + i + 16 * h));
            for (int c = 0; c < 3; c++)
                half[c][h] = _mm256_srai_epi32(_mm256_madd_epi16(bgr[c], weights), 4);
        }
        for (int c = 0; c < 3; c++)
            bgr[c] = _mm256_packs_epi32(half[c][0], half[c][1]);
        const __m256i bg[2] = {_mm256_unpacklo_epi16(bgr[0], bgr[1]), _mm256_unpackhi_epi16(bgr[0], bgr[1])};
        const __m256i rx[2] = {_mm256_unpacklo_epi16(bgr[2], zero), _mm256_unpackhi_epi16(bgr[2], zero)};
        for (int h = 0; h < 2; h++) { /* each half of a register holds four of eight columns */
            const __m256i lower = _mm256_unpacklo_epi32(bg[h], rx[h]), upper = _mm256_unpackhi_epi32(bg[h], rx[h]);
            _mm256_storeu_si256((void *)(sums + 32 * h), _mm256_permute2x128_si256(lower, upper, 0x20));
            _mm256_storeu_si256((void *)(sums + 32 * h + 16), _mm256_permute2x128_si256(lower, upper, 0x31));
        }
    }
}

static int
are_within(const int32_t *values, Py_ssize_t n, int32_t lowest, Py_ssize_t end)
{
    for (Py_ssize_t k = 0; k < n; k++)
        if (values[k] < lowest || values[k] >= end)
            return 0;
    return 1;
}

/* `b`: three planes, then the arguments after the line sizes, in their order. */
static int
sample_plane_buffers(const Py_buffer *b, const Py_ssize_t *line_sizes)
{
    const Py_ssize_t n = b[7].len / 4; /* weights: two of two bytes a column */
    Planes from = {{b[0].buf, b[1].buf, b[2].buf}, {line_sizes[0], line_sizes[1], line_sizes[2]}, n,
                   {b[4].buf, (const int32_t *)b[4].buf + n}, {b[5].buf, (const int32_t *)b[5].buf + n / 8},
                   {b[6].buf, (const uint8_t *)b[6].buf + 2 * n}, b[7].buf, b[8].buf};
    Axis rows;
    if (n < 16 || n > MAX_COLUMNS || n % 16 || b[4].len != 8 * n || b[5].len != n || b[6].len != 4 * n ||
        b[8].len != 12 || line_sizes[0] < 16 || line_sizes[1] < 16 || line_sizes[2] < 16 ||
        !read_axis(&b[3], b[0].len / line_sizes[0], &rows) || b[9].len % (3 * rows.n) || b[9].len / (3 * rows.n) > n)
        return 0;
    for (int k = 0; k < 3; k++)
        if (!are_within(from.pairs[k > 0], n, 0, line_sizes[k] - 1) ||
            !are_within(from.windows[k > 0], n / 8, -1, line_sizes[k] - 15) ||
            !are_within(rows.first, 2 * rows.n, 0, (b[k].len / line_sizes[k]) << (k > 0)))
            return 0;
    make_crop(sum_planes, &from, &rows, b[9].len / (3 * rows.n), b[9].buf);
    return 1;
}

static PyObject *
sample_planes(PyObject *Py_UNUSED(module), PyObject *args)
{
    static const int kinds[10] = {0, 0, 0, PyBUF_ND, PyBUF_ND, PyBUF_ND, PyBUF_ND, PyBUF_ND, PyBUF_ND, PyBUF_WRITABLE};
    PyObject *o[10];
    Py_ssize_t sizes[3];
    Py_buffer buffers[10];
    if (!PyArg_ParseTuple(args, "(OOO)(nnn)OOOOOOO:sample_planes", &o[0], &o[1], &o[2], &sizes[0], &sizes[1],
                          &sizes[2], &o[3], &o[4], &o[5], &o[6], &o[7], &o[8], &o[9]))
        return NULL;
    if (!get_buffers(o, kinds, buffers, 10))
        return NULL;
    return done(buffers, 10, sample_plane_buffers(buffers, sizes));
}
#endif

static PyMethodDef methods[] = {
    {"sample", sample, METH_VARARGS,
     "sample(frame, rows, columns, out)\n--\n\n"
     "Write the crop of ``frame``, uint8 (H, W, 3 or 4), to ``out``, uint8 (rows, columns, 3).\n\n"
     "``rows`` and ``columns`` are int32 (4, n): first and second source line, their weights in 1/2048."},
#ifdef HAS_AVX2
    {"sample_planes", sample_planes, METH_VARARGS,
     "sample_planes(planes, line_sizes, rows, pairs, windows, inside, weights, factors, out)\n--\n\n"
     "Write the crop of a 4:2:0 frame to ``out``, uint8 (rows, columns, 3); see `decode.sampling.ColumnTable`."},
#endif
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit__kernels(void)
{
#ifdef HAS_AVX2
    has_avx2 = __builtin_cpu_supports("avx2");
    if (!has_avx2)
        methods[1] = (PyMethodDef){NULL, NULL, 0, NULL};
#endif
    return PyModuleDef_Init(&definition);
}
