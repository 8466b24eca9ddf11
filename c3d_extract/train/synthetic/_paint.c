/* The inner loops over pixels of canvas.py and camera.py.

   Each does the same float32 operations in the same order as the NumPy beside its caller, so a clip is the
   same to the bit with and without it; hence no fused multiply-add (pyproject.toml). Sizes and indices are
   checked before they are used: what does not fit raises ValueError. */

#include "../_buffers.h"
#include <stdint.h>
#include <string.h>

/* Loops stand alone, since GCC takes them for cold where they are inlined and leaves them scalar, and in two
   versions where the loader can choose between them: eight pixels at a time or four, with the same results. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define LOOP __attribute__((noinline, target_clones("avx2", "default"))) static
#elif defined(__GNUC__)
#define LOOP __attribute__((noinline)) static
#else
#define LOOP static
#endif

#define MAX_ARRAYS 8
#define STRETCH 256 /* pixels of a line at a time, so that they stay in the first cache */
#define READ (PyBUF_ND)
#define WRITE (PyBUF_ND | PyBUF_WRITABLE)

static int
is_array(const Py_buffer *buffer, Py_ssize_t itemsize, int ndim)
{
    return buffer->itemsize == itemsize && buffer->ndim == ndim;
}

static inline float
clamp(float value, float low, float high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* A rod in one frame: its start, what it spans, that squared; the square of the radius where its rim ends, and
   how fast the cover grows from there. */
typedef struct {
    float x, y, across, down, length2, outer, growth;
} Rod;

LOOP void
cover_line(const float *values, float left, float y, Py_ssize_t n, float *restrict cover, float *restrict share,
           float *restrict slant)
{
    const Rod rod = *(const Rod *)values;
    const float dy = y - rod.y, along_y = dy * rod.down, dy2 = dy * dy;
    for (int32_t j = 0; j < n; j++) {
        const float dx = left + (float)j - rod.x;
        const float along = dx * rod.across + along_y;
        const float part = clamp(along / rod.length2, 0, 1);
        const float distance2 = ((part * rod.length2 - along) - along) * part + dx * dx + dy2;
        cover[j] = clamp((rod.outer - distance2) * rod.growth, 0, 1);
        share[j] = part;
        slant[j] = dx + dy;
    }
}

/* A thing in one frame: its centre, its angle's cosine and sine over its radius, its radius. */
typedef struct {
    float x, y, cos, sin, radius;
} Thing;

LOOP void
turn_line(const float *values, float left, float y, Py_ssize_t n, float *restrict u, float *restrict v,
          float *restrict radius)
{
    const Thing thing = *(const Thing *)values;
    const float dy = y - thing.y, dy_sin = dy * thing.sin, dy_cos = dy * thing.cos;
    for (int32_t j = 0; j < n; j++) {
        const float dx = left + (float)j - thing.x;
        u[j] = dx * thing.cos + dy_sin;
        v[j] = dy_cos - dx * thing.sin;
        radius[j] = thing.radius;
    }
}

typedef void (*LineOf)(const float *, float, float, Py_ssize_t, float *, float *, float *);

/* table float32 (B, `n_values`); box, y, left, length intp (R,); three float32 (N,) to be written */
static int
each_line(Py_buffer *b, Py_ssize_t n_values, LineOf line)
{
    const Py_ssize_t n_boxes = b[0].shape[0], n_rows = b[1].shape[0], n_pixels = b[5].shape[0];
    if (!is_array(&b[0], sizeof(float), 2) || b[0].shape[1] != n_values)
        return 0;
    for (int k = 1; k < 8; k++)
        if (!is_array(&b[k], k < 5 ? sizeof(Py_ssize_t) : sizeof(float), 1) ||
            b[k].shape[0] != (k < 5 ? n_rows : n_pixels))
            return 0;
    const Py_ssize_t *box = b[1].buf, *y = b[2].buf, *left = b[3].buf, *length = b[4].buf;
    Py_ssize_t from = 0;
    for (Py_ssize_t r = 0; r < n_rows; r++) {
        if (box[r] < 0 || box[r] >= n_boxes || length[r] < 0 || length[r] > n_pixels - from)
            return 0;
        line((const float *)b[0].buf + n_values * box[r], (float)left[r], (float)y[r], length[r],
             (float *)b[5].buf + from, (float *)b[6].buf + from, (float *)b[7].buf + from);
        from += length[r];
    }
    return from == n_pixels;
}

static int
cover_buffers(Py_buffer *b)
{
    return each_line(b, sizeof(Rod) / sizeof(float), cover_line);
}

static int
turn_buffers(Py_buffer *b)
{
    return each_line(b, sizeof(Thing) / sizeof(float), turn_line);
}

/* Two colours, and how much either covers at most. */
typedef struct {
    float colour[3], second[3], strength;
} Look;

static inline float
mixed(float level, const Look *look, int c, int second, float share)
{
    return level + ((second ? look->second[c] : look->colour[c]) - level) * share;
}

LOOP void
lay_line(float *restrict blue, float *restrict green, float *restrict red, Py_ssize_t n,
         const float *restrict cover, const uint8_t *restrict second, const Look *look)
{
    const Look own = *look;
    for (Py_ssize_t k = 0; k < n; k++) {
        const float share = cover[k] > own.strength ? own.strength : cover[k];
        blue[k] = mixed(blue[k], &own, 0, second[k], share);
        green[k] = mixed(green[k], &own, 1, second[k], share);
        red[k] = mixed(red[k], &own, 2, second[k], share);
    }
}

typedef struct {
    float *levels;
    Py_ssize_t size, n_rows, n_pixels;
    const Py_ssize_t *first, *length;
    const float *cover;
    const uint8_t *second;
} Paint;

/* The rows from `row` to `end`, whose pixels begin at `pixel`. */
static int
lay_rows(const Paint *paint, const Look *look, Py_ssize_t row, Py_ssize_t end, Py_ssize_t pixel)
{
    if (row < 0 || end > paint->n_rows || pixel < 0)
        return 0;
    for (; row < end; row++) {
        const Py_ssize_t first = paint->first[row], length = paint->length[row];
        if (length == 0)
            continue; /* its first pixel may lie outside */
        if (length < 0 || length > paint->n_pixels - pixel || first < 0 || first > paint->size - length)
            return 0;
        float *level = paint->levels + first;
        lay_line(level, level + paint->size, level + 2 * paint->size, length, paint->cover + pixel,
                 paint->second + pixel, look);
        pixel += length;
    }
    return 1;
}

/* levels float32 (3, M); first, length intp (R,); rows, pixels intp (L·T + 1,); cover float32, second bool (N,);
   looks float32 (L, 7). Frame by frame, which stays in cache, and in each look by look. */
static int
lay_buffers(Py_buffer *b)
{
    for (int k = 1; k < 5; k++)
        if (!is_array(&b[k], sizeof(Py_ssize_t), 1) || b[k].shape[0] != b[k < 3 ? 1 : 3].shape[0])
            return 0;
    if (!is_array(&b[0], sizeof(float), 2) || b[0].shape[0] != 3 || !is_array(&b[5], sizeof(float), 1) ||
        !is_array(&b[6], 1, 1) || b[6].shape[0] != b[5].shape[0] || !is_array(&b[7], sizeof(float), 2) ||
        b[7].shape[0] < 1 || b[7].shape[1] != sizeof(Look) / sizeof(float) || b[3].shape[0] < 1)
        return 0;
    const Py_ssize_t n_looks = b[7].shape[0], n_frames = (b[3].shape[0] - 1) / n_looks;
    const Py_ssize_t *rows = b[3].buf, *pixels = b[4].buf;
    const Paint paint = {b[0].buf, b[0].shape[1], b[1].shape[0], b[5].shape[0],
                         b[1].buf, b[2].buf, b[5].buf, b[6].buf};
    if (n_frames * n_looks != b[3].shape[0] - 1)
        return 0;
    for (Py_ssize_t t = 0; t < n_frames; t++)
        for (Py_ssize_t l = 0; l < n_looks; l++) {
            const Py_ssize_t box = l * n_frames + t;
            if (!lay_rows(&paint, (const Look *)b[7].buf + l, rows[box], rows[box + 1], pixels[box]))
                return 0;
        }
    return 1;
}

LOOP void
mix_lines(const float *upper, const float *lower, float share, Py_ssize_t n, float *restrict out)
{
    for (Py_ssize_t k = 0; k < n; k++)
        out[k] = upper[k] + (lower[k] - upper[k]) * share;
}

LOOP void
mix_neighbours(const float *line, const float *restrict share, Py_ssize_t n, float *restrict out)
{
    for (Py_ssize_t k = 0; k < n; k++)
        out[k] = line[k] + (line[k + 1] - line[k]) * share[k];
}

LOOP void
mix_columns(const float *line, const Py_ssize_t *first, const float *share, Py_ssize_t n, float *out)
{
    for (Py_ssize_t k = 0; k < n; k++)
        out[k] = line[first[k]] + (line[first[k] + 1] - line[first[k]]) * share[k];
}

static int
are_pairs(const Py_ssize_t *first, Py_ssize_t n, Py_ssize_t size)
{
    for (Py_ssize_t k = 0; k < n; k++)
        if (first[k] < 0 || first[k] + 1 >= size)
            return 0;
    return 1;
}

static int
adjoin(const Py_ssize_t *first, Py_ssize_t n)
{
    for (Py_ssize_t k = 1; k < n; k++)
        if (first[k] != first[0] + k)
            return 0;
    return 1;
}

/* ground float32 (3, A, B); rows intp (T, H) and float32 (T, H), columns (T, W): the first of two lines, and how
   far towards the second; out float32 (3, T, H, W) */
static int
view_buffers(Py_buffer *b)
{
    if (!is_array(&b[0], sizeof(float), 3) || b[0].shape[0] != 3 || !is_array(&b[5], sizeof(float), 4) ||
        b[5].shape[0] != 3)
        return 0;
    const Py_ssize_t n_rows = b[0].shape[1], n_columns = b[0].shape[2];
    const Py_ssize_t n_frames = b[5].shape[1], height = b[5].shape[2], width = b[5].shape[3];
    for (int k = 1; k < 5; k++)
        if (!is_array(&b[k], k % 2 ? sizeof(Py_ssize_t) : sizeof(float), 2) || b[k].shape[0] != n_frames ||
            b[k].shape[1] != (k < 3 ? height : width))
            return 0;
    if (width < 1 || !are_pairs(b[1].buf, n_frames * height, n_rows) || !are_pairs(b[3].buf, n_frames * width, n_columns))
        return 0;
    float *line = PyMem_Malloc(n_columns * sizeof(float));
    if (line == NULL)
        return 0;
    for (Py_ssize_t t = 0; t < n_frames; t++) {
        const Py_ssize_t *row = (const Py_ssize_t *)b[1].buf + t * height;
        const Py_ssize_t *column = (const Py_ssize_t *)b[3].buf + t * width;
        const float *down = (const float *)b[2].buf + t * height, *across = (const float *)b[4].buf + t * width;
        const int straight = adjoin(column, width);
        for (Py_ssize_t i = 0; i < 3 * height; i++) {
            const Py_ssize_t c = i / height, y = i % height;
            const float *upper = (const float *)b[0].buf + (c * n_rows + row[y]) * n_columns;
            float *out = (float *)b[5].buf + ((c * n_frames + t) * height + y) * width;
            if (straight) {
                mix_lines(upper + column[0], upper + n_columns + column[0], down[y], width + 1, line);
                mix_neighbours(line, across, width, out);
            } else {
                mix_lines(upper, upper + n_columns, down[y], n_columns, line);
                mix_columns(line, column, across, width, out);
            }
        }
    }
    PyMem_Free(line);
    return 1;
}

/* Each pixel gives a share to two neighbours. */
LOOP void
share_line(const float *line, const float *before, const float *after, Py_ssize_t n, const float *shares,
           float *restrict out)
{
    const float keep = shares[0], side = shares[1];
    for (Py_ssize_t k = 0; k < n; k++)
        out[k] = line[k] * keep + (before[k] + after[k]) * side;
}

/* pixels, out float32 (P, H, W); shares float32 (2,): what a pixel keeps, and what each neighbour gives */
static int
blur_buffers(Py_buffer *b)
{
    if (!is_array(&b[0], sizeof(float), 3) || !is_array(&b[1], sizeof(float), 1) || b[1].shape[0] != 2 ||
        !is_array(&b[2], sizeof(float), 3))
        return 0;
    const Py_ssize_t height = b[0].shape[1], width = b[0].shape[2];
    for (int k = 0; k < 3; k++)
        if (b[0].shape[k] != b[2].shape[k])
            return 0;
    float *mixed_rows = width < 1 ? NULL : PyMem_Malloc(width * sizeof(float));
    if (mixed_rows == NULL)
        return 0;
    for (Py_ssize_t row = 0; row < b[0].shape[0] * height; row++) {
        const float *line = (const float *)b[0].buf + row * width;
        float *out = (float *)b[2].buf + row * width;
        if (row % height > 0 && row % height < height - 1) {
            share_line(line, line - width, line + width, width, b[1].buf, mixed_rows);
            line = mixed_rows;
        }
        out[0] = line[0];
        out[width - 1] = line[width - 1];
        share_line(line + 1, line, line + 2, width - 2, b[1].buf, out + 1);
    }
    PyMem_Free(mixed_rows);
    return 1;
}

/* To the nearest whole number, ties to even; exact below 2^22. */
static inline float
rounded(float value)
{
    const float shift = 12582912; /* 1.5 * 2^23: the sum has no bits for fractions */
    return (value + shift) - shift;
}

/* One line of matrix·lines, each sum from the left: lines (8, STRETCH). */
LOOP void
weigh_lines(const float *matrix, const float *lines, Py_ssize_t n, float *restrict out)
{
    const float *m = matrix;
    for (Py_ssize_t x = 0; x < n; x++) {
        const float *in = lines + x;
        out[x] = m[0] * in[0] + m[1] * in[STRETCH] + m[2] * in[2 * STRETCH] + m[3] * in[3 * STRETCH] +
                 m[4] * in[4 * STRETCH] + m[5] * in[5 * STRETCH] + m[6] * in[6 * STRETCH] + m[7] * in[7 * STRETCH];
    }
}

static void
weigh(const float *matrix, const float *lines, Py_ssize_t n, float *out)
{
    for (int k = 0; k < 8; k++)
        weigh_lines(matrix + 8 * k, lines, n, out + k * STRETCH);
}

/* Turn each 8x8 block of lines (8, STRETCH) about its diagonal. */
LOOP void
turn_blocks(const float *restrict lines, Py_ssize_t n, float *restrict out)
{
    for (Py_ssize_t x = 0; x < n; x += 8)
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 8; j++)
                out[i * STRETCH + x + j] = lines[j * STRETCH + x + i];
}

LOOP void
round_line(float *restrict line, Py_ssize_t n, const float *steps)
{
    for (Py_ssize_t x = 0; x < n; x += 8)
        for (int j = 0; j < 8; j++)
            line[x + j] = rounded(line[x + j] / steps[j]) * steps[j];
}

typedef struct {
    float cosines[64], turned[64], steps[64];
} Transform;

/* Eight lines of `n` pixels each, n a multiple of 8 and at most STRETCH, `step` apart. */
static void
compress_lines(float *pixels, Py_ssize_t step, Py_ssize_t n, const Transform *transform)
{
    float a[8 * STRETCH], b[8 * STRETCH];
    for (int i = 0; i < 8; i++)
        memcpy(a + STRETCH * i, pixels + step * i, n * sizeof(float));
    weigh(transform->cosines, a, n, b);
    turn_blocks(b, n, a);
    weigh(transform->cosines, a, n, b); /* turned: the coefficient of (k, n) is at (n, k) */
    for (int k = 0; k < 8; k++)
        round_line(b + k * STRETCH, n, transform->steps + 8 * k);
    weigh(transform->turned, b, n, a);
    turn_blocks(a, n, b);
    weigh(transform->turned, b, n, a);
    for (int i = 0; i < 8; i++)
        memcpy(pixels + step * i, a + STRETCH * i, n * sizeof(float));
}

/* levels float32 (P, H, W); cosines, steps float32 (8, 8) */
static int
compress_buffers(Py_buffer *b)
{
    if (!is_array(&b[0], sizeof(float), 3))
        return 0;
    for (int k = 1; k < 3; k++)
        if (!is_array(&b[k], sizeof(float), 2) || b[k].shape[0] != 8 || b[k].shape[1] != 8)
            return 0;
    const Py_ssize_t height = b[0].shape[1], width = b[0].shape[2];
    Transform transform;
    for (int k = 0; k < 64; k++) {
        transform.cosines[k] = ((const float *)b[1].buf)[k];
        transform.turned[k] = ((const float *)b[1].buf)[k % 8 * 8 + k / 8];
        transform.steps[k] = ((const float *)b[2].buf)[k % 8 * 8 + k / 8];
    }
    for (Py_ssize_t p = 0; p < b[0].shape[0]; p++)
        for (Py_ssize_t y = 0; y + 8 <= height; y += 8)
            for (Py_ssize_t x = 0; x + 8 <= width; x += STRETCH)
                compress_lines((float *)b[0].buf + (p * height + y) * width + x, width,
                               (width - x < STRETCH ? width - x : STRETCH) / 8 * 8, &transform);
    return 1;
}

/* Light, grain, and what 8 bits hold. */
LOOP void
expose_line(const float *restrict scene, const float *light, const float *restrict grain, Py_ssize_t n,
            uint8_t *restrict out)
{
    const float gain = light[0], offset = light[1], strength = light[2];
    if (grain)
        for (Py_ssize_t k = 0; k < n; k++)
            out[k] = (uint8_t)(int32_t)clamp((scene[k] * gain + offset) + strength * grain[k], 0, 255);
    else
        for (Py_ssize_t k = 0; k < n; k++)
            out[k] = (uint8_t)(int32_t)clamp(scene[k] * gain + offset, 0, 255);
}

/* Planes to pixels. */
LOOP void
interleave(uint8_t planes[3][STRETCH], Py_ssize_t n, uint8_t *restrict out)
{
    for (Py_ssize_t k = 0; k < n; k++) {
        out[3 * k] = planes[0][k];
        out[3 * k + 1] = planes[1][k];
        out[3 * k + 2] = planes[2][k];
    }
}

/* scene float32 (3, T, M); light float32 (3,): gain, offset, strength of the grain; grain float32 (G,);
   starts intp (T,) where there is grain, or (0,); out uint8 (T, M, 3) */
static int
expose_buffers(Py_buffer *b)
{
    if (!is_array(&b[0], sizeof(float), 3) || !is_array(&b[1], sizeof(float), 1) || b[1].shape[0] != 3 ||
        !is_array(&b[2], sizeof(float), 1) || !is_array(&b[3], sizeof(Py_ssize_t), 1) || !is_array(&b[4], 1, 3))
        return 0;
    const Py_ssize_t n_frames = b[0].shape[1], size = b[0].shape[2], *starts = b[3].shape[0] ? b[3].buf : NULL;
    if (b[0].shape[0] != 3 || b[4].shape[0] != n_frames || b[4].shape[1] != size || b[4].shape[2] != 3 ||
        (starts && b[3].shape[0] != n_frames))
        return 0;
    uint8_t planes[3][STRETCH];
    for (Py_ssize_t t = 0; t < n_frames; t++) {
        if (starts && (starts[t] < 0 || starts[t] > b[2].shape[0] - 3 * size))
            return 0;
        const float *grain = starts ? (const float *)b[2].buf + starts[t] : NULL;
        for (Py_ssize_t from = 0; from < size; from += STRETCH) {
            const Py_ssize_t n = size - from < STRETCH ? size - from : STRETCH;
            for (int c = 0; c < 3; c++)
                expose_line((const float *)b[0].buf + (c * n_frames + t) * size + from, b[1].buf,
                            grain ? grain + c * size + from : NULL, n, planes[c]);
            interleave(planes, n, (uint8_t *)b[4].buf + 3 * (t * size + from));
        }
    }
    return 1;
}

static PyObject *
call(PyObject *const *args, Py_ssize_t n, const int *kinds, Py_ssize_t wanted, int (*work)(Py_buffer *))
{
    Py_buffer buffers[MAX_ARRAYS];
    if (n != wanted)
        return PyErr_Format(PyExc_TypeError, "%zd arrays are needed, not %zd", wanted, n);
    if (!get_buffers(args, kinds, buffers, (int)n))
        return NULL;
    return done(buffers, (int)n, work(buffers));
}

/* Python's function `name` of as many arrays, READ or to WRITE, as follow. */
#define FUNCTION(name, ...)                                                                                           \
    static PyObject *name(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n)                           \
    {                                                                                                                 \
        static const int kinds[] = {__VA_ARGS__};                                                                     \
        return call(args, n, kinds, sizeof(kinds) / sizeof(kinds[0]), name##_buffers);                                \
    }

FUNCTION(cover, READ, READ, READ, READ, READ, WRITE, WRITE, WRITE)
FUNCTION(turn, READ, READ, READ, READ, READ, WRITE, WRITE, WRITE)
FUNCTION(lay, WRITE, READ, READ, READ, READ, READ, READ, READ)
FUNCTION(expose, READ, READ, READ, READ, WRITE)
FUNCTION(view, READ, READ, READ, READ, READ, WRITE)
FUNCTION(compress, WRITE, READ, READ)
FUNCTION(blur, READ, READ, WRITE)

static PyMethodDef methods[] = {
    {"cover", (PyCFunction)(void (*)(void))cover, METH_FASTCALL,
     "cover(rods, box, y, left, length, cover, share, slant)\n--\n\n"
     "Work out ``cover``, ``share`` and ``slant``, float32 (N,), of the N pixels of R rows.\n\n"
     "``rods`` is float32 (B, 7); ``box``, ``y``, ``left`` and ``length`` are intp (R,)."},
    {"turn", (PyCFunction)(void (*)(void))turn, METH_FASTCALL,
     "turn(things, box, y, left, length, u, v, radius)\n--\n\n"
     "Work out the things' own coordinates ``u`` and ``v``, and their ``radius``, float32 (N,), at N pixels.\n\n"
     "``things`` is float32 (B, 5); the others as for ``cover``."},
    {"lay", (PyCFunction)(void (*)(void))lay, METH_FASTCALL,
     "lay(levels, first, length, rows, pixels, cover, second, looks)\n--\n\n"
     "Lay L looks in T frames over the N pixels of R rows of ``levels``, float32 (3, M).\n\n"
     "``first`` and ``length`` are intp (R,); ``rows`` and ``pixels``, intp (L·T + 1,), say where those of each look\n"
     "and frame begin; ``cover`` is float32 (N,); ``second``, bool (N,), says where the second colour shows;\n"
     "``looks``, float32 (L, 7), are two colours and the most that they cover."},
    {"expose", (PyCFunction)(void (*)(void))expose, METH_FASTCALL,
     "expose(scene, light, grain, starts, out)\n--\n\n"
     "Write what a film holds of ``scene``, float32 (3, T, M), to ``out``, uint8 (T, M, 3).\n\n"
     "``light`` is float32 (3,): gain, offset and strength of the grain, which is cut from ``grain``, float32\n"
     "(G,), at ``starts``, intp (T,), or not at all where these are none."},
    {"view", (PyCFunction)(void (*)(void))view, METH_FASTCALL,
     "view(ground, rows, row_shares, columns, column_shares, out)\n--\n\n"
     "Write to ``out``, float32 (3, T, H, W), what frames see of ``ground``, float32 (3, A, B), bilinear.\n\n"
     "``rows``, intp (T, H), and ``columns``, (T, W), are the first of two lines each; shares, float32 of the same\n"
     "shapes, say how far to go to the second."},
    {"compress", (PyCFunction)(void (*)(void))compress, METH_FASTCALL,
     "compress(levels, cosines, steps)\n--\n\n"
     "Round the cosine transform of each whole 8x8 block of ``levels``, float32 (P, H, W), to ``steps``, (8, 8).\n\n"
     "``cosines``, float32 (8, 8), is the transform of a line."},
    {"blur", (PyCFunction)(void (*)(void))blur, METH_FASTCALL,
     "blur(pixels, shares, out)\n--\n\n"
     "Mix each pixel of ``pixels``, float32 (P, H, W), with those above and below, then beside it, into ``out``.\n\n"
     "``shares``, float32 (2,), are what it keeps and what each neighbour gives. Edges are left as they are."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_paint", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit__paint(void)
{
    return PyModuleDef_Init(&definition);
}
