/* Pillow's resize of 8-bit RGB images, pixel for pixel, in the vector units of the CPU. See resize.py.

   Each pass is a sum of source pixels with weights of 22 binary places, rounded half up and held within 8 bits (Pillow,
   src/libImaging/Resample.c). 64 sums go side by side: in the second pass those of neighbouring bytes of a row, in the first
   pass those of 21 rows of RGB, which are packed for it so that what belongs to one column lies together. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define PLACES 22
#define LANES 64
#define PACKED_ROWS 21 /* of 3 channels: 63 lanes, and the last is nobody's */
#define CHUNK 128
#define MOST_TARGETS 2

/* The compiler makes one version for each of these, and the machine's own is taken when the module is loaded. On ARM the plain
   one has vectors. */
#if defined(__x86_64__) && defined(__GLIBC__) && __GNUC__ >= 12 && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

typedef struct {
    Py_buffer first, weights; /* int32 [n] and int32 [n, taps]: the first source pixel of each target pixel, and all weights */
    Py_ssize_t n, taps;
} Axis;

typedef struct {
    Axis columns, rows;
    Py_buffer out; /* uint8 [rows.n, columns.n, 3] */
    uint8_t *narrow; /* uint8 [height, columns.n, 3]: what the first pass gives */
    uint8_t *packed; /* uint8 [columns.n, LANES] */
} Target;

static inline uint8_t rounded(int32_t sum)
{
    sum >>= PLACES;
    return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

/* Sums LANES neighbouring bytes of `taps` lines; four lines at a time, so that sums are seldom stored. */
static inline __attribute__((always_inline)) void
sum_lanes(const uint8_t *restrict lines, Py_ssize_t stride, const int32_t *restrict weights, Py_ssize_t taps, uint8_t *restrict out)
{
    int32_t sums[LANES];
    Py_ssize_t tap = 0;
    for (int i = 0; i < LANES; i++)
        sums[i] = 1 << (PLACES - 1);
    for (; tap + 4 <= taps; tap += 4, lines += 4 * stride) {
        const uint8_t *a = lines, *b = a + stride, *c = b + stride, *d = c + stride;
        const int32_t *w = weights + tap;
        for (int i = 0; i < LANES; i++)
            sums[i] += a[i] * w[0] + b[i] * w[1] + c[i] * w[2] + d[i] * w[3];
    }
    for (; tap < taps; tap++, lines += stride)
        for (int i = 0; i < LANES; i++)
            sums[i] += lines[i] * weights[tap];
    for (int i = 0; i < LANES; i++)
        out[i] = rounded(sums[i]);
}

FOR_EACH_CPU static void sum_columns(const uint8_t *packed, const Axis *axis, uint8_t *out)
{
    const int32_t *first = axis->first.buf, *weights = axis->weights.buf;
    for (Py_ssize_t x = 0; x < axis->n; x++)
        sum_lanes(packed + first[x] * LANES, LANES, weights + x * axis->taps, axis->taps, out + x * LANES);
}

FOR_EACH_CPU static void sum_row(const uint8_t *lines, Py_ssize_t width, const int32_t *weights, Py_ssize_t taps, uint8_t *out)
{
    Py_ssize_t i = 0;
    for (; i + LANES <= width; i += LANES)
        sum_lanes(lines + i, width, weights, taps, out + i);
    for (; i < width; i++) {
        int32_t sum = 1 << (PLACES - 1);
        for (Py_ssize_t tap = 0; tap < taps; tap++)
            sum += lines[tap * width + i] * weights[tap];
        out[i] = rounded(sum);
    }
}

static inline Py_ssize_t least(Py_ssize_t a, Py_ssize_t b)
{
    return a < b ? a : b;
}

/* Both go through the columns by the chunk, which stays in the first cache. Pixels are moved as four bytes where a fourth is
   there: the next pixel writes over it. */
static void pack(const uint8_t *rows, Py_ssize_t count, Py_ssize_t width, uint8_t *packed)
{
    for (Py_ssize_t start = 0; start < width; start += CHUNK)
        for (Py_ssize_t row = 0; row < count; row++) {
            const uint8_t *from = rows + row * width * 3;
            uint8_t *to = packed + row * 3;
            for (Py_ssize_t x = start; x < least(start + CHUNK, width - 1); x++)
                memcpy(to + x * LANES, from + x * 3, 4);
            memcpy(to + (width - 1) * LANES, from + (width - 1) * 3, 3);
        }
}

static void unpack(const uint8_t *packed, Py_ssize_t count, Py_ssize_t width, uint8_t *rows)
{
    for (Py_ssize_t start = 0; start < width; start += CHUNK)
        for (Py_ssize_t row = 0; row < count; row++) {
            const uint8_t *from = packed + row * 3;
            uint8_t *to = rows + row * width * 3;
            for (Py_ssize_t x = start; x < least(start + CHUNK, width - 1); x++)
                memcpy(to + x * 3, from + x * LANES, 4);
            memcpy(to + (width - 1) * 3, from + (width - 1) * LANES, 3);
        }
}

static void resize_all(const uint8_t *image, Py_ssize_t height, Py_ssize_t width, uint8_t *packed, Target *targets, int count)
{
    for (Py_ssize_t y = 0; y < height; y += PACKED_ROWS) {
        Py_ssize_t num_rows = least(PACKED_ROWS, height - y);
        pack(image + y * width * 3, num_rows, width, packed);
        for (Target *target = targets; target < targets + count; target++) {
            sum_columns(packed, &target->columns, target->packed);
            unpack(target->packed, num_rows, target->columns.n, target->narrow + y * target->columns.n * 3);
        }
    }
    for (Target *target = targets; target < targets + count; target++) {
        const int32_t *first = target->rows.first.buf, *weights = target->rows.weights.buf;
        Py_ssize_t width_bytes = target->columns.n * 3, taps = target->rows.taps;
        for (Py_ssize_t y = 0; y < target->rows.n; y++)
            sum_row(target->narrow + first[y] * width_bytes, width_bytes, weights + y * taps, taps,
                    (uint8_t *)target->out.buf + y * width_bytes);
    }
}

/* Checks that an axis's arrays fit together and stay within `source` pixels; sets an error where they do not. */
static int check_axis(Axis *axis, Py_ssize_t source)
{
    axis->n = axis->first.len / (Py_ssize_t)sizeof(int32_t);
    Py_ssize_t num_weights = axis->weights.len / (Py_ssize_t)sizeof(int32_t);
    axis->taps = axis->n ? num_weights / axis->n : 0;
    int fits = axis->taps > 0 && axis->n * axis->taps == num_weights;
    const int32_t *first = axis->first.buf;
    for (Py_ssize_t i = 0; fits && i < axis->n; i++)
        fits = first[i] >= 0 && first[i] + axis->taps <= source;
    if (!fits)
        PyErr_Format(PyExc_ValueError, "weights do not fit %zd source pixels", source);
    return fits;
}

static int prepare(Target *target, Py_ssize_t height, Py_ssize_t width)
{
    if (!check_axis(&target->columns, width) || !check_axis(&target->rows, height))
        return 0;
    if (target->out.len != target->rows.n * target->columns.n * 3) {
        PyErr_Format(PyExc_ValueError, "got %zd bytes for %zd x %zd pixels", target->out.len, target->columns.n, target->rows.n);
        return 0;
    }
    target->narrow = PyMem_RawMalloc(height * target->columns.n * 3);
    target->packed = PyMem_RawMalloc(target->columns.n * LANES);
    if (target->narrow && target->packed)
        return 1;
    PyErr_NoMemory();
    return 0;
}

static void release(Target *target)
{
    Py_buffer *buffers[] = {&target->columns.first, &target->columns.weights, &target->rows.first, &target->rows.weights,
                            &target->out};
    for (int i = 0; i < 5; i++)
        PyBuffer_Release(buffers[i]);
    PyMem_RawFree(target->narrow);
    PyMem_RawFree(target->packed);
}

static PyObject *resize(PyObject *module, PyObject *args)
{
    Py_buffer image;
    Py_ssize_t height, width;
    PyObject *listed;
    Target targets[MOST_TARGETS];
    uint8_t *packed = NULL;
    int ready = 0, count = 0;
    (void)module;
    memset(targets, 0, sizeof targets);
    if (!PyArg_ParseTuple(args, "y*nnO!", &image, &height, &width, &PyTuple_Type, &listed))
        return NULL;
    if (height < 1 || width < 1 || image.len != height * width * 3 || PyTuple_GET_SIZE(listed) > MOST_TARGETS)
        PyErr_Format(PyExc_ValueError, "got %zd bytes for an image of %zd x %zd pixels", image.len, width, height);
    else
        packed = PyMem_RawCalloc(width, LANES);
    for (ready = packed != NULL; ready && count < PyTuple_GET_SIZE(listed);) {
        Target *t = &targets[count];
        ready = PyArg_ParseTuple(PyTuple_GET_ITEM(listed, count), "y*y*y*y*w*", &t->columns.first, &t->columns.weights,
                                 &t->rows.first, &t->rows.weights, &t->out);
        if (ready) {
            count++;
            ready = prepare(t, height, width);
        }
    }
    if (ready) {
        Py_BEGIN_ALLOW_THREADS
        resize_all(image.buf, height, width, packed, targets, count);
        Py_END_ALLOW_THREADS
    } else if (!PyErr_Occurred())
        PyErr_NoMemory();
    for (int i = 0; i < count; i++)
        release(&targets[i]);
    PyMem_RawFree(packed);
    PyBuffer_Release(&image);
    if (!ready)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"resize", resize, METH_VARARGS,
     "resize(image, height, width, targets): fills one or two targets, each a tuple (first column, column weights, first row, row "
     "weights, out)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_resize", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resize(void)
{
    return PyModuleDef_Init(&definition);
}
