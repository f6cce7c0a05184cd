"""The first block of a net, on constant images of few planes (first_block.h), as functions of torch tensors.

x (n, planes, h, w) is contiguous, everything of y's shape channels-last; sums, means and covariances of patches float64.
"""


cdef void *images(Call *call, str kernel, object x, long stride) except? NULL:
    """The address of constant images, of as many planes as the kernels were compiled for."""
    cdef void *found = lead(call, kernel, "x", x, False, READ)
    stride_of(kernel, stride)
    if call.channels > MOST_PLANES:
        raise KernelArgumentError(f"neo.kernels {kernel}: x must have 1 to {MOST_PLANES} planes, got {call.channels}")
    return found


cdef void *first_output(Call *call, str kernel, str name, object y, long channels, long stride, long window,
                        int role) except? NULL:
    """The address of an image that comes out of a first block of these images."""
    cdef long h = (call.h - 1) // stride + 1, w = (call.w - 1) // stride + 1
    window_of(kernel, window, h, w, 2)
    return image(call, kernel, name, y, call.n, channels, h // window, w // window, role)


cdef uint8_t *first_places(Call *call, str kernel, object place, long channels, long stride, long window,
                           int role) except? NULL:
    return places(call, kernel, place, call.n, channels, ((call.h - 1) // stride + 1) // window,
                  ((call.w - 1) // stride + 1) // window, window, role)


cdef double *mean_of_patches(Call *call, str kernel, object mean, int role) except? NULL:
    return <double *> operand(call, kernel, "mean", mean, NEO_DOUBLE, PLAIN_1, 1, 9 * call.channels, 0, 0, 0, role)


cdef double *covariance_of_patches(Call *call, str kernel, object covariance, int role) except? NULL:
    return <double *> table(call, kernel, "covariance", covariance, NEO_DOUBLE, 9 * call.channels, 9 * call.channels, role)


def moments(x, mean, covariance, long stride):
    cdef str kernel = "moments"
    cdef Call call
    begin(&call)
    cdef void *px = images(&call, kernel, x, stride)
    cdef double *pm = mean_of_patches(&call, kernel, mean, WRITTEN)
    cdef double *pc = covariance_of_patches(&call, kernel, covariance, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 20)
    cdef int status = (moments_double if call.dtype == NEO_DOUBLE else moments_float)(
        px, pm, pc, call.n, call.channels, call.h, call.w, stride)
    take_back(thread)
    done(status)


def first(x, weight, gamma, beta, mean, covariance, double eps, y, place, long stride, long window):
    cdef str kernel = "first"
    cdef Call call
    begin(&call)
    cdef void *px = images(&call, kernel, x, stride)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, call.channels, False, READ)
    cdef long channels = call.last.size[0]
    cdef void *pg = row(&call, kernel, "gamma", gamma, channels, READ | OPTIONAL)
    cdef void *pb = row(&call, kernel, "beta", beta, channels, READ)
    cdef double *pm = mean_of_patches(&call, kernel, mean, READ)
    cdef double *pc = covariance_of_patches(&call, kernel, covariance, READ)
    cdef void *py = first_output(&call, kernel, "y", y, channels, stride, window, WRITTEN)
    cdef uint8_t *pp = first_places(&call, kernel, place, channels, stride, window, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 20)
    cdef int status = (first_double if call.dtype == NEO_DOUBLE else first_float)(
        px, pw, pg, pb, pm, pc, eps, py, pp, call.n, call.channels, call.h, call.w, stride, window, channels)
    take_back(thread)
    done(status)


def first_backward(y_bar, y, place, x, weight, gamma, mean, covariance, double eps, sums, w_bar, gamma_bar, beta_bar,
                   long stride, long window):
    cdef str kernel = "first_backward"
    cdef Call call
    begin(&call)
    cdef void *px = images(&call, kernel, x, stride)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, call.channels, False, READ)
    cdef long channels = call.last.size[0], taps = 9 * call.channels
    cdef void *pg = first_output(&call, kernel, "y_bar", y_bar, channels, stride, window, READ)
    cdef void *py = first_output(&call, kernel, "y", y, channels, stride, window, READ)
    cdef uint8_t *pp = first_places(&call, kernel, place, channels, stride, window, READ)
    cdef void *pgamma = row(&call, kernel, "gamma", gamma, channels, READ | OPTIONAL)
    cdef double *pm = mean_of_patches(&call, kernel, mean, READ)
    cdef double *pc = covariance_of_patches(&call, kernel, covariance, READ)
    cdef double *ps = <double *> table(&call, kernel, "sums", sums, NEO_DOUBLE, taps + 1, channels, WRITTEN)
    cdef void *ow = weights(&call, kernel, "w_bar", w_bar, channels, call.channels, False, WRITTEN)
    cdef void *og = row(&call, kernel, "gamma_bar", gamma_bar, channels, WRITTEN)
    cdef void *ob = row(&call, kernel, "beta_bar", beta_bar, channels, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 20)
    cdef int status = (first_backward_double if call.dtype == NEO_DOUBLE else first_backward_float)(
        pg, py, pp, px, pw, pgamma, pm, pc, eps, ps, ow, og, ob, call.n, call.channels, call.h, call.w, stride, window,
        channels)
    take_back(thread)
    done(status)


def first_backward_back(W, G, B, sums, y, place, x, weight, gamma, mean, covariance, double eps, y_bar_out, weight_out,
                        gamma_out, long stride, long window):
    cdef str kernel = "first_backward_back"
    cdef Call call
    begin(&call)
    cdef void *px = images(&call, kernel, x, stride)
    cdef void *pw = weights(&call, kernel, "weight", weight, ANY, call.channels, False, READ)
    cdef long channels = call.last.size[0], taps = 9 * call.channels
    cdef void *pW = weights(&call, kernel, "W", W, channels, call.channels, False, READ | OPTIONAL)
    cdef void *pG = row(&call, kernel, "G", G, channels, READ | OPTIONAL)
    cdef void *pB = row(&call, kernel, "B", B, channels, READ | OPTIONAL)
    cdef double *ps = <double *> table(&call, kernel, "sums", sums, NEO_DOUBLE, taps + 1, channels, READ)
    cdef void *py = first_output(&call, kernel, "y", y, channels, stride, window, READ)
    cdef uint8_t *pp = first_places(&call, kernel, place, channels, stride, window, READ)
    cdef void *pgamma = row(&call, kernel, "gamma", gamma, channels, READ | OPTIONAL)
    cdef double *pm = mean_of_patches(&call, kernel, mean, READ)
    cdef double *pc = covariance_of_patches(&call, kernel, covariance, READ)
    cdef void *oy = first_output(&call, kernel, "y_bar_out", y_bar_out, channels, stride, window, WRITTEN)
    cdef void *ow = weights(&call, kernel, "weight_out", weight_out, channels, call.channels, False, WRITTEN)
    cdef void *og = row(&call, kernel, "gamma_out", gamma_out, channels, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 20)
    cdef int status = (first_backward_back_double if call.dtype == NEO_DOUBLE else first_backward_back_float)(
        pW, pG, pB, ps, py, pp, px, pw, pgamma, pm, pc, eps, oy, ow, og, call.n, call.channels, call.h, call.w, stride,
        window, channels)
    take_back(thread)
    done(status)


def correlate(y_bar, y, place, x, sums, long stride, long window):
    cdef str kernel = "correlate"
    cdef Call call
    begin(&call)
    cdef void *px = images(&call, kernel, x, stride)
    cdef void *py = first_output(&call, kernel, "y", y, ANY, stride, window, READ)
    cdef long channels = call.last.size[1]
    cdef void *pg = first_output(&call, kernel, "y_bar", y_bar, channels, stride, window, READ)
    cdef uint8_t *pp = first_places(&call, kernel, place, channels, stride, window, READ)
    cdef double *ps = <double *> table(&call, kernel, "sums", sums, NEO_DOUBLE, 9 * call.channels + 1, channels, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 20)
    cdef int status = (correlate_double if call.dtype == NEO_DOUBLE else correlate_float)(
        pg, py, pp, px, ps, call.n, call.channels, call.h, call.w, stride, window, channels)
    take_back(thread)
    done(status)


def spread(sums, y, place, x, out, long stride, long window):
    cdef str kernel = "spread"
    cdef Call call
    begin(&call)
    cdef void *px = images(&call, kernel, x, stride)
    cdef void *py = first_output(&call, kernel, "y", y, ANY, stride, window, READ)
    cdef long channels = call.last.size[1]
    cdef uint8_t *pp = first_places(&call, kernel, place, channels, stride, window, READ)
    cdef void *ps = table(&call, kernel, "sums", sums, call.dtype, 9 * call.channels + 1, channels, READ)
    cdef void *po = first_output(&call, kernel, "out", out, channels, stride, window, WRITTEN)
    settle(&call, kernel)
    cdef PyThreadState *thread = let_go(entries_of(&call), 20)
    cdef int status = (spread_double if call.dtype == NEO_DOUBLE else spread_float)(
        ps, py, pp, px, po, call.n, call.channels, call.h, call.w, stride, window, channels)
    take_back(thread)
    done(status)
