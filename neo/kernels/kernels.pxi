"""The kernels as functions of torch tensors; compiled once for each instruction set, by the files that include this.

Arguments are checked by their callers (neo/kernels/__init__.py): shapes, layouts and dtypes are taken on trust here.
The GIL is let go while a kernel runs, so that tasks on threads run side by side; not for a few microseconds, which are
shorter than another thread takes to wake up and this one to get the GIL back.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t, uintptr_t


ctypedef const void *In         # numbers to be read, float or double
ctypedef const uint8_t *Places  # which pixel of a window, a byte each
ctypedef void *Out


cdef extern from "kernels.h" nogil:
    enum: VECTOR_BYTES
    int convolution_float(In x, In weight, In bias, Out y, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_double(In x, In weight, In bias, Out y, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_input_float(In g, In weight, Out x, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_input_double(In g, In weight, Out x, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_weight_float(In x, In g, Out weight, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_weight_double(In x, In g, Out weight, long n, long h, long w, long inputs, long outputs, int stride)
    void channel_sums_float(In x, Out sums, long pixels, long channels)
    void channel_sums_double(In x, Out sums, long pixels, long channels)
    void pixel_means_float(In x, Out means, long n, long pixels, long channels)
    void pixel_means_double(In x, Out means, long n, long pixels, long channels)
    void spread_means_float(In means, Out x, long n, long pixels, long channels)
    void spread_means_double(In means, Out x, long n, long pixels, long channels)
    int norm_float(In x, In weight, In bias, Out y, uint8_t *place, Out mean, Out scale, double eps, long n, long h, long w,
                   long channels, long window)
    int norm_double(In x, In weight, In bias, Out y, uint8_t *place, Out mean, Out scale, double eps, long n, long h, long w,
                    long channels, long window)
    int norm_gradient_float(In y_bar, In y, Places place, In x, In weight, In mean, In scale, Out x_bar, Out sum_gx,
                            Out sum_g, long n, long h, long w, long channels, long window)
    int norm_gradient_double(In y_bar, In y, Places place, In x, In weight, In mean, In scale, Out x_bar, Out sum_gx,
                             Out sum_g, long n, long h, long w, long channels, long window)
    int norm_gradient_back_float(In X, In W, In B, In y_bar, In y, Places place, In x, In weight, In mean, In scale,
                                 In sum_gx, In sum_g, Out y_bar_out, Out x_out, Out w_out, long n, long h, long w,
                                 long channels, long window)
    int norm_gradient_back_double(In X, In W, In B, In y_bar, In y, Places place, In x, In weight, In mean, In scale,
                                  In sum_gx, In sum_g, Out y_bar_out, Out x_out, Out w_out, long n, long h, long w,
                                  long channels, long window)
    int block_float(In x, In weight, In bias, In gamma, In beta, double eps, Out z, Out y, uint8_t *place, Out mean,
                  Out scale, long n, long h, long w, long inputs, long outputs, int stride, long window)
    int block_double(In x, In weight, In bias, In gamma, In beta, double eps, Out z, Out y, uint8_t *place, Out mean,
                  Out scale, long n, long h, long w, long inputs, long outputs, int stride, long window)
    int block_gradient_float(In y_bar, In more, In y, Places place, In x, In weight, In gamma, In z, In mean, In scale,
                           Out z_bar, Out x_bar, Out w_bar, Out gamma_bar, Out beta_bar, long n, long h, long w,
                           long inputs, long outputs, int stride, long window)
    int block_gradient_double(In y_bar, In more, In y, Places place, In x, In weight, In gamma, In z, In mean, In scale,
                           Out z_bar, Out x_bar, Out w_bar, Out gamma_bar, Out beta_bar, long n, long h, long w,
                           long inputs, long outputs, int stride, long window)
    int block_gradient_back_float(In X, In W, In G, In B, In y_bar, In y, Places place, In x, In weight, In gamma, In z,
                                In mean, In scale, In gamma_bar, In beta_bar, In z_bar, Out Z, Out room, Out y_bar_out,
                                Out x_out, Out w_out, Out gamma_out, Out z_out, long n, long h, long w, long inputs,
                                long outputs, int stride, long window)
    int block_gradient_back_double(In X, In W, In G, In B, In y_bar, In y, Places place, In x, In weight, In gamma, In z,
                                In mean, In scale, In gamma_bar, In beta_bar, In z_bar, Out Z, Out room, Out y_bar_out,
                                Out x_out, Out w_out, Out gamma_out, Out z_out, long n, long h, long w, long inputs,
                                long outputs, int stride, long window)
    int moments_float(In x, double *mean, double *covariance, long n, long planes, long h, long w, long stride)
    int moments_double(In x, double *mean, double *covariance, long n, long planes, long h, long w, long stride)
    int first_float(In x, In weight, In gamma, In beta, const double *mean, const double *covariance, double eps, Out y,
                    uint8_t *place, long n, long planes, long h, long w, long stride, long window, long channels)
    int first_double(In x, In weight, In gamma, In beta, const double *mean, const double *covariance, double eps, Out y,
                     uint8_t *place, long n, long planes, long h, long w, long stride, long window, long channels)
    int first_backward_float(In y_bar, In y, Places place, In x, In weight, In gamma, const double *mean,
                             const double *covariance, double eps, double *sums, Out w_bar, Out gamma_bar, Out beta_bar,
                             long n, long planes, long h, long w, long stride, long window, long channels)
    int first_backward_double(In y_bar, In y, Places place, In x, In weight, In gamma, const double *mean,
                              const double *covariance, double eps, double *sums, Out w_bar, Out gamma_bar, Out beta_bar,
                              long n, long planes, long h, long w, long stride, long window, long channels)
    int first_backward_back_float(In W, In G, In B, const double *sums, In y, Places place, In x, In weight, In gamma,
                                  const double *mean, const double *covariance, double eps, Out y_bar_out,
                                  Out weight_out, Out gamma_out, long n, long planes, long h, long w, long stride,
                                  long window, long channels)
    int first_backward_back_double(In W, In G, In B, const double *sums, In y, Places place, In x, In weight, In gamma,
                                   const double *mean, const double *covariance, double eps, Out y_bar_out,
                                   Out weight_out, Out gamma_out, long n, long planes, long h, long w, long stride,
                                   long window, long channels)
    int correlate_float(In y_bar, In y, Places place, In x, double *sums, long n, long planes, long h, long w, long stride,
                        long window, long channels)
    int correlate_double(In y_bar, In y, Places place, In x, double *sums, long n, long planes, long h, long w, long stride,
                         long window, long channels)
    int spread_float(In sums, In y, Places place, In x, Out out, long n, long planes, long h, long w, long stride,
                     long window, long channels)
    int spread_double(In sums, In y, Places place, In x, Out out, long n, long planes, long h, long w, long stride,
                      long window, long channels)


cdef extern from "kernels.h":
    ctypedef struct NeoMatrix:
        pass
    NeoMatrix matrix_kernels "matrix"
    const char *NEO_MATRIX
    bint is_amd()


matrix = PyCapsule_New(&matrix_kernels, NEO_MATRIX, NULL)    # for _direct.cpp
AMD = is_amd()
BYTES = VECTOR_BYTES    # of a vector: channels must be a multiple of BYTES / itemsize


cdef inline void *at(object tensor):
    """Where a tensor's numbers are; NULL for None."""
    return NULL if tensor is None else <void *> <uintptr_t> tensor.data_ptr()


cdef extern from "Python.h" nogil:
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *thread)


cdef long SHORT_NS = 25000


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


def convolution(x, weight, bias, y, int stride):
    cdef bint wide = x.itemsize == 8
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pb = at(bias)
    cdef void *py = at(y)
    cdef long n, inputs, h, w, outputs = weight.shape[0]
    cdef int status
    n, inputs, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * inputs, 3)
    status = (convolution_double if wide else convolution_float)(px, pw, pb, py, n, h, w, inputs, outputs, stride)
    take_back(thread)
    done(status)


def convolution_input(g, weight, x, int stride):
    cdef bint wide = x.itemsize == 8
    cdef void *pg = at(g)
    cdef void *pw = at(weight)
    cdef void *px = at(x)
    cdef long n, inputs, h, w, outputs = weight.shape[0]
    cdef int status
    n, inputs, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * inputs, 3)
    status = (convolution_input_double if wide else convolution_input_float)(
        pg, pw, px, n, h, w, inputs, outputs, stride)
    take_back(thread)
    done(status)


def convolution_weight(x, g, weight, int stride):
    cdef bint wide = x.itemsize == 8
    cdef void *pg = at(g)
    cdef void *pw = at(weight)
    cdef void *px = at(x)
    cdef long n, inputs, h, w, outputs = weight.shape[0]
    cdef int status
    n, inputs, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * inputs, 3)
    status = (convolution_weight_double if wide else convolution_weight_float)(
        px, pg, pw, n, h, w, inputs, outputs, stride)
    take_back(thread)
    done(status)


def channel_sums(x, sums):
    cdef bint wide = x.itemsize == 8
    cdef void *px = at(x)
    cdef void *ps = at(sums)
    cdef long channels = sums.shape[0]
    cdef long pixels = x.numel() // channels
    cdef PyThreadState *thread = let_go(pixels * channels, 1)
    if wide:
        channel_sums_double(px, ps, pixels, channels)
    else:
        channel_sums_float(px, ps, pixels, channels)
    take_back(thread)


def pixel_means(x, means):
    cdef bint wide = x.itemsize == 8
    cdef void *px = at(x)
    cdef void *pm = at(means)
    cdef long n, channels, h, w
    n, channels, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * channels, 1)
    (pixel_means_double if wide else pixel_means_float)(px, pm, n, h * w, channels)
    take_back(thread)


def spread_means(means, x):
    cdef bint wide = x.itemsize == 8
    cdef void *px = at(x)
    cdef void *pm = at(means)
    cdef long n, channels, h, w
    n, channels, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * channels, 1)
    (spread_means_double if wide else spread_means_float)(pm, px, n, h * w, channels)
    take_back(thread)


def norm(x, weight, bias, y, place, mean, scale, double eps, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pb = at(bias)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *pm = at(mean)
    cdef void *ps = at(scale)
    cdef long n, channels, h, w
    cdef int status
    n, channels, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * channels, 1)
    status = (norm_double if wide else norm_float)(px, pw, pb, py, pp, pm, ps, eps, n, h, w, channels, window)
    take_back(thread)
    done(status)


def norm_gradient(y_bar, y, place, x, weight, mean, scale, x_bar, sum_gx, sum_g, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *pg = at(y_bar)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pm = at(mean)
    cdef void *ps = at(scale)
    cdef void *out = at(x_bar)
    cdef void *pgx = at(sum_gx)
    cdef void *psg = at(sum_g)
    cdef long n, channels, h, w
    cdef int status
    n, channels, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * channels, 1)
    status = (norm_gradient_double if wide else norm_gradient_float)(
        pg, py, pp, px, pw, pm, ps, out, pgx, psg, n, h, w, channels, window)
    take_back(thread)
    done(status)


def norm_gradient_back(X, W, B, y_bar, y, place, x, weight, mean, scale, sum_gx, sum_g, y_bar_out, x_out, w_out,
                       long window):
    cdef bint wide = x.itemsize == 8
    cdef void *pX = at(X)
    cdef void *pW = at(W)
    cdef void *pB = at(B)
    cdef void *pg = at(y_bar)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pm = at(mean)
    cdef void *ps = at(scale)
    cdef void *pgx = at(sum_gx)
    cdef void *psg = at(sum_g)
    cdef void *og = at(y_bar_out)
    cdef void *ox = at(x_out)
    cdef void *ow = at(w_out)
    cdef long n, channels, h, w
    cdef int status
    n, channels, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * channels, 1)
    status = (norm_gradient_back_double if wide else norm_gradient_back_float)(
        pX, pW, pB, pg, py, pp, px, pw, pm, ps, pgx, psg, og, ox, ow, n, h, w, channels, window)
    take_back(thread)
    done(status)


def block(x, weight, bias, gamma, beta, double eps, z, y, place, mean, scale, int stride, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pb = at(bias)
    cdef void *pgamma = at(gamma)
    cdef void *pbeta = at(beta)
    cdef void *pz = at(z)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *pm = at(mean)
    cdef void *ps = at(scale)
    cdef long n, inputs, h, w, outputs = weight.shape[0]
    cdef int status
    n, inputs, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * inputs, 3)
    status = (block_double if wide else block_float)(
        px, pw, pb, pgamma, pbeta, eps, pz, py, pp, pm, ps, n, h, w, inputs, outputs, stride, window)
    take_back(thread)
    done(status)


def block_gradient(y_bar, more, y, place, x, weight, gamma, z, mean, scale, z_bar, x_bar, w_bar, gamma_bar, beta_bar,
                   int stride, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *pg = at(y_bar)
    cdef void *pmore = at(more)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pgamma = at(gamma)
    cdef void *pz = at(z)
    cdef void *pm = at(mean)
    cdef void *ps = at(scale)
    cdef void *oz = at(z_bar)
    cdef void *ox = at(x_bar)
    cdef void *ow = at(w_bar)
    cdef void *ogamma = at(gamma_bar)
    cdef void *obeta = at(beta_bar)
    cdef long n, inputs, h, w, outputs = weight.shape[0]
    cdef int status
    n, inputs, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * inputs, 3)
    status = (block_gradient_double if wide else block_gradient_float)(
        pg, pmore, py, pp, px, pw, pgamma, pz, pm, ps, oz, ox, ow, ogamma, obeta, n, h, w, inputs, outputs, stride, window)
    take_back(thread)
    done(status)


def block_gradient_back(X, W, G, B, y_bar, y, place, x, weight, gamma, z, mean, scale, gamma_bar, beta_bar, z_bar, Z, room,
                        y_bar_out, x_out, w_out, gamma_out, z_out, int stride, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *pX = at(X)
    cdef void *pW = at(W)
    cdef void *pG = at(G)
    cdef void *pB = at(B)
    cdef void *pg = at(y_bar)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pgamma = at(gamma)
    cdef void *pz = at(z)
    cdef void *pm = at(mean)
    cdef void *ps = at(scale)
    cdef void *pgb = at(gamma_bar)
    cdef void *pbb = at(beta_bar)
    cdef void *pzb = at(z_bar)
    cdef void *pZ = at(Z)
    cdef void *pr = at(room)
    cdef void *og = at(y_bar_out)
    cdef void *ox = at(x_out)
    cdef void *ow = at(w_out)
    cdef void *ogamma = at(gamma_out)
    cdef void *oz = at(z_out)
    cdef long n, inputs, h, w, outputs = weight.shape[0]
    cdef int status
    n, inputs, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * inputs, 3)
    status = (block_gradient_back_double if wide else block_gradient_back_float)(
        pX, pW, pG, pB, pg, py, pp, px, pw, pgamma, pz, pm, ps, pgb, pbb, pzb, pZ, pr, og, ox, ow, ogamma, oz, n, h, w,
        inputs, outputs, stride, window)
    take_back(thread)
    done(status)


def moments(x, mean, covariance, long stride):
    cdef bint wide = x.itemsize == 8
    cdef void *px = at(x)
    cdef double *pm = <double *> at(mean)
    cdef double *pc = <double *> at(covariance)
    cdef long n, planes, h, w
    cdef int status
    n, planes, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * planes, 20)
    status = (moments_double if wide else moments_float)(px, pm, pc, n, planes, h, w, stride)
    take_back(thread)
    done(status)


def first(x, weight, gamma, beta, mean, covariance, double eps, y, place, long stride, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pg = at(gamma)
    cdef void *pb = at(beta)
    cdef double *pm = <double *> at(mean)
    cdef double *pc = <double *> at(covariance)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef long n, planes, h, w, channels = y.shape[1]
    cdef int status
    n, planes, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * planes, 20)
    status = (first_double if wide else first_float)(
        px, pw, pg, pb, pm, pc, eps, py, pp, n, planes, h, w, stride, window, channels)
    take_back(thread)
    done(status)


def first_backward(y_bar, y, place, x, weight, gamma, mean, covariance, double eps, sums, w_bar, gamma_bar, beta_bar,
                   long stride, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *pg = at(y_bar)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pgamma = at(gamma)
    cdef double *pm = <double *> at(mean)
    cdef double *pc = <double *> at(covariance)
    cdef double *ps = <double *> at(sums)
    cdef void *ow = at(w_bar)
    cdef void *og = at(gamma_bar)
    cdef void *ob = at(beta_bar)
    cdef long n, planes, h, w, channels = y.shape[1]
    cdef int status
    n, planes, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * planes, 20)
    status = (first_backward_double if wide else first_backward_float)(
        pg, py, pp, px, pw, pgamma, pm, pc, eps, ps, ow, og, ob, n, planes, h, w, stride, window, channels)
    take_back(thread)
    done(status)


def first_backward_back(W, G, B, sums, y, place, x, weight, gamma, mean, covariance, double eps, y_bar_out, weight_out,
                        gamma_out, long stride, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *pW = at(W)
    cdef void *pG = at(G)
    cdef void *pB = at(B)
    cdef double *ps = <double *> at(sums)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *px = at(x)
    cdef void *pw = at(weight)
    cdef void *pgamma = at(gamma)
    cdef double *pm = <double *> at(mean)
    cdef double *pc = <double *> at(covariance)
    cdef void *oy = at(y_bar_out)
    cdef void *ow = at(weight_out)
    cdef void *og = at(gamma_out)
    cdef long n, planes, h, w, channels = y.shape[1]
    cdef int status
    n, planes, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * planes, 20)
    status = (first_backward_back_double if wide else first_backward_back_float)(
        pW, pG, pB, ps, py, pp, px, pw, pgamma, pm, pc, eps, oy, ow, og, n, planes, h, w, stride, window, channels)
    take_back(thread)
    done(status)


def correlate(y_bar, y, place, x, sums, long stride, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *pg = at(y_bar)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *px = at(x)
    cdef double *ps = <double *> at(sums)
    cdef long n, planes, h, w, channels = y.shape[1]
    cdef int status
    n, planes, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * planes, 20)
    status = (correlate_double if wide else correlate_float)(
        pg, py, pp, px, ps, n, planes, h, w, stride, window, channels)
    take_back(thread)
    done(status)


def spread(sums, y, place, x, out, long stride, long window):
    cdef bint wide = x.itemsize == 8
    cdef void *ps = at(sums)
    cdef void *py = at(y)
    cdef uint8_t *pp = <uint8_t *> at(place)
    cdef void *px = at(x)
    cdef void *po = at(out)
    cdef long n, planes, h, w, channels = y.shape[1]
    cdef int status
    n, planes, h, w = x.shape
    cdef PyThreadState *thread = let_go(n * h * w * planes, 20)
    status = (spread_double if wide else spread_float)(
        ps, py, pp, px, po, n, planes, h, w, stride, window, channels)
    take_back(thread)
    done(status)
