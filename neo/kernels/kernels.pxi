"""The kernels as functions of torch tensors; compiled once for each instruction set, by the files that include this.

Every tensor is checked before its memory is touched (buffers.pxi): KernelArgumentError names kernel and argument. What
a kernel computes stands at its callers (block.py, convolution.py, first.py, norm.py), which make the outputs.
The GIL is let go while a kernel runs, so that tasks on threads run side by side; not for a few microseconds, which are
shorter than another thread takes to wake up and this one to get the GIL back.
"""
from cpython.pycapsule cimport PyCapsule_New

include "declarations.pxi"
include "buffers.pxi"


matrix = PyCapsule_New(&matrix_kernels, NEO_MATRIX, NULL)    # for _direct.cpp
AMD = is_amd()
BYTES = VECTOR_BYTES    # of a vector: channels must be a multiple of BYTES / itemsize


cdef extern from "Python.h" nogil:
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *thread)


cdef enum:
    SHORT_NS = 25000
    LARGEST_WINDOW = 15     # its places fit a byte
    MOST_PLANES = 4         # of a first block's images


cdef inline PyThreadState *let_go(long entries, long nanoseconds_each) noexcept nogil:
    """Let go of the GIL for work that takes about so long; NULL where it is too short for that."""
    return PyEval_SaveThread() if entries * nanoseconds_each > SHORT_NS else NULL


cdef inline void take_back(PyThreadState *thread) noexcept nogil:
    if thread != NULL:
        PyEval_RestoreThread(thread)


cdef int done(int status) except -1:
    if status:
        raise MemoryError("neo.kernels: no memory to work in")
    return 0


cdef inline long entries_of(const Call *call) noexcept:
    return call.n * call.channels * call.h * call.w


cdef inline int stride_of(str kernel, long stride) except -1:
    return expect(stride == 1 or stride == 2, kernel, "stride", "1 or 2", stride)


cdef int window_of(str kernel, long window, long h, long w, long largest) except -1:
    """A window as large as the image or what the kernels can take, at the most."""
    cdef long most = min(h, w, largest)
    if not 1 <= window <= most:
        refuse(kernel, "window", f"1 to {most}", window)
    return 0


# --- convolutions ---------------------------------------------------------------------------------------------------


def convolution(x, weight, bias, y, long stride):
    cdef str kernel = "convolution"
    cdef Call call
    begin(&call)
    stride_of(kernel, stride)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, call.channels, True, READ)
    cdef long outputs = call.last.size[0]
    cdef void *pb = row(&call, kernel, "bias", bias, outputs, READ | OPTIONAL)
    cdef void *py = image(&call, kernel, "y", y, call.n, outputs, (call.h - 1) // stride + 1, (call.w - 1) // stride + 1,
                          WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 3)
    cdef int status = (convolution_double if call.dtype == NEO_DOUBLE else convolution_float)(
        px, pw, pb, py, call.n, call.h, call.w, call.channels, outputs, <int> stride)
    take_back(thread)
    done(status)


def convolution_input(g, weight, x, long stride):
    cdef str kernel = "convolution_input"
    cdef Call call
    begin(&call)
    stride_of(kernel, stride)
    cdef void *px = lead(&call, kernel, "x", x, True, WRITTEN)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, call.channels, True, READ)
    cdef long outputs = call.last.size[0]
    cdef void *pg = image(&call, kernel, "g", g, call.n, outputs, (call.h - 1) // stride + 1, (call.w - 1) // stride + 1,
                          READ)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 3)
    cdef int status = (convolution_input_double if call.dtype == NEO_DOUBLE else convolution_input_float)(
        pg, pw, px, call.n, call.h, call.w, call.channels, outputs, <int> stride)
    take_back(thread)
    done(status)


def convolution_weight(x, g, weight, long stride):
    cdef str kernel = "convolution_weight"
    cdef Call call
    begin(&call)
    stride_of(kernel, stride)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, call.channels, True, WRITTEN)
    cdef long outputs = call.last.size[0]
    cdef void *pg = image(&call, kernel, "g", g, call.n, outputs, (call.h - 1) // stride + 1, (call.w - 1) // stride + 1,
                          READ)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 3)
    cdef int status = (convolution_weight_double if call.dtype == NEO_DOUBLE else convolution_weight_float)(
        px, pg, pw, call.n, call.h, call.w, call.channels, outputs, <int> stride)
    take_back(thread)
    done(status)


# --- sums over pixels -----------------------------------------------------------------------------------------------


def channel_sums(x, sums):
    cdef str kernel = "channel_sums"
    cdef Call call
    begin(&call)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef void *ps = row(&call, kernel, "sums", sums, call.channels, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 1)
    (channel_sums_double if call.dtype == NEO_DOUBLE else channel_sums_float)(
        px, ps, call.n * call.h * call.w, call.channels)
    take_back(thread)


def pixel_means(x, means):
    cdef str kernel = "pixel_means"
    cdef Call call
    begin(&call)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef void *pm = table(&call, kernel, "means", means, call.dtype, call.n, call.channels, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 1)
    (pixel_means_double if call.dtype == NEO_DOUBLE else pixel_means_float)(
        px, pm, call.n, call.h * call.w, call.channels)
    take_back(thread)


def spread_means(means, x):
    cdef str kernel = "spread_means"
    cdef Call call
    begin(&call)
    cdef void *px = lead(&call, kernel, "x", x, True, WRITTEN)
    cdef void *pm = table(&call, kernel, "means", means, call.dtype, call.n, call.channels, READ)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 1)
    (spread_means_double if call.dtype == NEO_DOUBLE else spread_means_float)(
        pm, px, call.n, call.h * call.w, call.channels)
    take_back(thread)


# --- batch norm, rectifier, pooling ---------------------------------------------------------------------------------


def norm(x, weight, bias, y, place, mean, scale, double eps, long window):
    cdef str kernel = "norm"
    cdef Call call
    begin(&call)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef long n = call.n, channels = call.channels, h = call.h, w = call.w
    window_of(kernel, window, h, w, LARGEST_WINDOW)
    cdef void *pw = row(&call, kernel, "weight", weight, channels, READ | OPTIONAL)
    cdef void *pb = row(&call, kernel, "bias", bias, channels, READ)
    cdef void *py = image(&call, kernel, "y", y, n, channels, h // window, w // window, WRITTEN)
    cdef uint8_t *pp = places(&call, kernel, place, n, channels, h // window, w // window, window, WRITTEN)
    cdef void *pm = row(&call, kernel, "mean", mean, channels, WRITTEN)
    cdef void *ps = row(&call, kernel, "scale", scale, channels, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 1)
    cdef int status = (norm_double if call.dtype == NEO_DOUBLE else norm_float)(
        px, pw, pb, py, pp, pm, ps, eps, n, h, w, channels, window)
    take_back(thread)
    done(status)


def norm_gradient(y_bar, y, place, x, weight, mean, scale, x_bar, sum_gx, sum_g, long window):
    cdef str kernel = "norm_gradient"
    cdef Call call
    begin(&call)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef long n = call.n, channels = call.channels, h = call.h, w = call.w
    window_of(kernel, window, h, w, LARGEST_WINDOW)
    cdef void *pg = image(&call, kernel, "y_bar", y_bar, n, channels, h // window, w // window, READ)
    cdef void *py = image(&call, kernel, "y", y, n, channels, h // window, w // window, READ)
    cdef uint8_t *pp = places(&call, kernel, place, n, channels, h // window, w // window, window, READ)
    cdef void *pw = row(&call, kernel, "weight", weight, channels, READ | OPTIONAL)
    cdef void *pm = row(&call, kernel, "mean", mean, channels, READ)
    cdef void *ps = row(&call, kernel, "scale", scale, channels, READ)
    cdef void *out = image(&call, kernel, "x_bar", x_bar, n, channels, h, w, WRITTEN)
    cdef void *pgx = row(&call, kernel, "sum_gx", sum_gx, channels, WRITTEN)
    cdef void *psg = row(&call, kernel, "sum_g", sum_g, channels, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 1)
    cdef int status = (norm_gradient_double if call.dtype == NEO_DOUBLE else norm_gradient_float)(
        pg, py, pp, px, pw, pm, ps, out, pgx, psg, n, h, w, channels, window)
    take_back(thread)
    done(status)


def norm_gradient_back(X, W, B, y_bar, y, place, x, weight, mean, scale, sum_gx, sum_g, y_bar_out, x_out, w_out,
                       long window):
    cdef str kernel = "norm_gradient_back"
    cdef Call call
    begin(&call)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef long n = call.n, channels = call.channels, h = call.h, w = call.w
    window_of(kernel, window, h, w, LARGEST_WINDOW)
    cdef void *pX = image(&call, kernel, "X", X, n, channels, h, w, READ)
    cdef void *pW = row(&call, kernel, "W", W, channels, READ | OPTIONAL)
    cdef void *pB = row(&call, kernel, "B", B, channels, READ | OPTIONAL)
    cdef void *pg = image(&call, kernel, "y_bar", y_bar, n, channels, h // window, w // window, READ)
    cdef void *py = image(&call, kernel, "y", y, n, channels, h // window, w // window, READ)
    cdef uint8_t *pp = places(&call, kernel, place, n, channels, h // window, w // window, window, READ)
    cdef void *pw = row(&call, kernel, "weight", weight, channels, READ | OPTIONAL)
    cdef void *pm = row(&call, kernel, "mean", mean, channels, READ)
    cdef void *ps = row(&call, kernel, "scale", scale, channels, READ)
    cdef void *pgx = row(&call, kernel, "sum_gx", sum_gx, channels, READ)
    cdef void *psg = row(&call, kernel, "sum_g", sum_g, channels, READ)
    cdef void *og = image(&call, kernel, "y_bar_out", y_bar_out, n, channels, h // window, w // window,
                          WRITTEN | OPTIONAL)
    cdef void *ox = image(&call, kernel, "x_out", x_out, n, channels, h, w, WRITTEN | OPTIONAL)
    cdef void *ow = row(&call, kernel, "w_out", w_out, channels, WRITTEN | OPTIONAL)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 1)
    cdef int status = (norm_gradient_back_double if call.dtype == NEO_DOUBLE else norm_gradient_back_float)(
        pX, pW, pB, pg, py, pp, px, pw, pm, ps, pgx, psg, og, ox, ow, n, h, w, channels, window)
    take_back(thread)
    done(status)


# --- the same with the convolution before it ------------------------------------------------------------------------


def block(x, weight, bias, gamma, beta, double eps, z, y, place, mean, scale, long stride, long window):
    cdef str kernel = "block"
    cdef Call call
    begin(&call)
    stride_of(kernel, stride)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef long n = call.n, h = (call.h - 1) // stride + 1, w = (call.w - 1) // stride + 1
    window_of(kernel, window, h, w, LARGEST_WINDOW)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, call.channels, True, READ)
    cdef long outputs = call.last.size[0]
    cdef void *pb = row(&call, kernel, "bias", bias, outputs, READ | OPTIONAL)
    cdef void *pgamma = row(&call, kernel, "gamma", gamma, outputs, READ | OPTIONAL)
    cdef void *pbeta = row(&call, kernel, "beta", beta, outputs, READ)
    cdef void *pz = image(&call, kernel, "z", z, n, outputs, h, w, WRITTEN)
    cdef void *py = image(&call, kernel, "y", y, n, outputs, h // window, w // window, WRITTEN)
    cdef uint8_t *pp = places(&call, kernel, place, n, outputs, h // window, w // window, window, WRITTEN)
    cdef void *pm = row(&call, kernel, "mean", mean, outputs, WRITTEN)
    cdef void *ps = row(&call, kernel, "scale", scale, outputs, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 3)
    cdef int status = (block_double if call.dtype == NEO_DOUBLE else block_float)(
        px, pw, pb, pgamma, pbeta, eps, pz, py, pp, pm, ps, n, call.h, call.w, call.channels, outputs, <int> stride, window)
    take_back(thread)
    done(status)


def block_gradient(y_bar, more, y, place, x, weight, gamma, z, mean, scale, z_bar, x_bar, w_bar, gamma_bar, beta_bar,
                   long stride, long window):
    cdef str kernel = "block_gradient"
    cdef Call call
    begin(&call)
    stride_of(kernel, stride)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef long n = call.n, h = (call.h - 1) // stride + 1, w = (call.w - 1) // stride + 1
    window_of(kernel, window, h, w, LARGEST_WINDOW)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, call.channels, True, READ)
    cdef long outputs = call.last.size[0]
    cdef void *pg = image(&call, kernel, "y_bar", y_bar, n, outputs, h // window, w // window, READ)
    cdef void *pmore = image(&call, kernel, "more", more, n, outputs, h, w, READ | OPTIONAL)
    cdef void *py = image(&call, kernel, "y", y, n, outputs, h // window, w // window, READ)
    cdef uint8_t *pp = places(&call, kernel, place, n, outputs, h // window, w // window, window, READ)
    cdef void *pgamma = row(&call, kernel, "gamma", gamma, outputs, READ | OPTIONAL)
    cdef void *pz = image(&call, kernel, "z", z, n, outputs, h, w, READ)
    cdef void *pm = row(&call, kernel, "mean", mean, outputs, READ)
    cdef void *ps = row(&call, kernel, "scale", scale, outputs, READ)
    cdef void *oz = image(&call, kernel, "z_bar", z_bar, n, outputs, h, w, WRITTEN)
    cdef void *ox = image(&call, kernel, "x_bar", x_bar, n, call.channels, call.h, call.w, WRITTEN | OPTIONAL)
    cdef void *ow = weights(&call, kernel, "w_bar", w_bar, outputs, call.channels, True, WRITTEN | OPTIONAL)
    cdef void *ogamma = row(&call, kernel, "gamma_bar", gamma_bar, outputs, WRITTEN)
    cdef void *obeta = row(&call, kernel, "beta_bar", beta_bar, outputs, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 3)
    cdef int status = (block_gradient_double if call.dtype == NEO_DOUBLE else block_gradient_float)(
        pg, pmore, py, pp, px, pw, pgamma, pz, pm, ps, oz, ox, ow, ogamma, obeta, n, call.h, call.w, call.channels,
        outputs, <int> stride, window)
    take_back(thread)
    done(status)


def block_gradient_back(X, W, G, B, y_bar, y, place, x, weight, gamma, z, mean, scale, gamma_bar, beta_bar, z_bar, Z, room,
                        y_bar_out, x_out, w_out, gamma_out, z_out, long stride, long window):
    cdef str kernel = "block_gradient_back"
    cdef Call call
    begin(&call)
    stride_of(kernel, stride)
    cdef void *px = lead(&call, kernel, "x", x, True, READ)
    cdef long n = call.n, inputs = call.channels, h = (call.h - 1) // stride + 1, w = (call.w - 1) // stride + 1
    window_of(kernel, window, h, w, LARGEST_WINDOW)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, inputs, True, READ)
    cdef long outputs = call.last.size[0]
    cdef void *pX = image(&call, kernel, "X", X, n, inputs, call.h, call.w, READ | OPTIONAL)
    cdef void *pW = weights(&call, kernel, "W", W, outputs, inputs, True, READ | OPTIONAL)
    expect(room is not None or X is None or W is None, kernel, "room", "given where X and W are", room)
    expect(x_out is None or W is not None, kernel, "W", "given where x_out is", W)
    expect(w_out is None or X is not None, kernel, "X", "given where w_out is", X)
    cdef void *pG = row(&call, kernel, "G", G, outputs, READ | OPTIONAL)
    cdef void *pB = row(&call, kernel, "B", B, outputs, READ | OPTIONAL)
    cdef void *pg = image(&call, kernel, "y_bar", y_bar, n, outputs, h // window, w // window, READ)
    cdef void *py = image(&call, kernel, "y", y, n, outputs, h // window, w // window, READ)
    cdef uint8_t *pp = places(&call, kernel, place, n, outputs, h // window, w // window, window, READ)
    cdef void *pgamma = row(&call, kernel, "gamma", gamma, outputs, READ | OPTIONAL)
    cdef void *pz = image(&call, kernel, "z", z, n, outputs, h, w, READ)
    cdef void *pm = row(&call, kernel, "mean", mean, outputs, READ)
    cdef void *ps = row(&call, kernel, "scale", scale, outputs, READ)
    cdef void *pgb = row(&call, kernel, "gamma_bar", gamma_bar, outputs, READ)
    cdef void *pbb = row(&call, kernel, "beta_bar", beta_bar, outputs, READ)
    cdef void *pzb = image(&call, kernel, "z_bar", z_bar, n, outputs, h, w, READ)
    cdef void *pZ = image(&call, kernel, "Z", Z, n, outputs, h, w, WRITTEN)
    cdef void *pr = image(&call, kernel, "room", room, n, outputs, h, w, WRITTEN | OPTIONAL)
    cdef void *og = image(&call, kernel, "y_bar_out", y_bar_out, n, outputs, h // window, w // window, WRITTEN | OPTIONAL)
    cdef void *ox = image(&call, kernel, "x_out", x_out, n, inputs, call.h, call.w, WRITTEN | OPTIONAL)
    cdef void *ow = weights(&call, kernel, "w_out", w_out, outputs, inputs, True, WRITTEN | OPTIONAL)
    cdef void *ogamma = row(&call, kernel, "gamma_out", gamma_out, outputs, WRITTEN | OPTIONAL)
    cdef void *oz = image(&call, kernel, "z_out", z_out, n, outputs, h, w, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 3)
    cdef int status = (block_gradient_back_double if call.dtype == NEO_DOUBLE else block_gradient_back_float)(
        pX, pW, pG, pB, pg, py, pp, px, pw, pgamma, pz, pm, ps, pgb, pbb, pzb, pZ, pr, og, ox, ow, ogamma, oz, n, call.h,
        call.w, inputs, outputs, <int> stride, window)
    take_back(thread)
    done(status)


include "first_block.pxi"
