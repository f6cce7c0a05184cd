/* What Cython calls: for each kernel a function of untyped pointers, which finds scratch and hands over to the kernel
 * of its REAL. Each returns 0, or -1 where there is no memory. */

/* taps[tap][input][output] from weight (outputs, 3, 3, inputs) */
static void NAME(taps_of_weight)(const REAL *weight, long outputs, long inputs, REAL *taps) {
    for (int tap = 0; tap < 9; tap++)
        for (long c = 0; c < inputs; c += VL)
            for (long k = 0; k < outputs; k += VL) {
                vec rows[VL];
                UNROLL for (int i = 0; i < VL; i++) rows[i] = NAME(load)(weight + ((k + i) * 9 + tap) * inputs + c);
                NAME(transpose)(rows);
                UNROLL for (int i = 0; i < VL; i++) NAME(store)(taps + (tap * inputs + c + i) * outputs + k, rows[i]);
            }
}

/* taps[tap][output][input] of the kernel turned round: the convolution that pulls gradients back */
static void NAME(taps_turned)(const REAL *weight, long outputs, long inputs, REAL *taps) {
    for (int tap = 0; tap < 9; tap++)
        for (long k = 0; k < outputs; k++)
            memcpy(taps + (tap * outputs + k) * inputs, weight + (k * 9 + 8 - tap) * inputs, inputs * sizeof(REAL));
}

INLINE REAL *NAME(wino_scratch)(long inputs, long outputs) {
    return scratch_take((9 * inputs * outputs + WINO_SCRATCH(inputs, outputs)) * sizeof(REAL));
}

/* taps[tap][output][input], as they are in weight */
static void NAME(taps_in_order)(const REAL *weight, long outputs, long inputs, REAL *taps) {
    for (int tap = 0; tap < 9; tap++)
        for (long k = 0; k < outputs; k++)
            memcpy(taps + (tap * outputs + k) * inputs, weight + (k * 9 + tap) * inputs, inputs * sizeof(REAL));
}

/* The two sides of a convolution of stride 2, for points.h. */
INLINE void NAME(sides)(long h, long w, long inputs, long outputs, const NAME(Axis) *rows, const NAME(Axis) *columns,
                        NAME(Side) *in, NAME(Side) *out) {
    *in = (NAME(Side)){h, w, inputs, rows->in, columns->in};
    *out = (NAME(Side)){(h + 1) / 2, (w + 1) / 2, outputs, rows->out, columns->out};
}

static int NAME(strided_by_points)(const void *given, const void *weight, const void *bias, void *result, long n, long h,
                                   long w, long inputs, long outputs, int back, const NAME(Axis) *rows,
                                   const NAME(Axis) *columns) {
    NAME(Side) in, out;
    NAME(sides)(h, w, inputs, outputs, rows, columns, &in, &out);
    const long size = inputs * outputs;
    REAL *taps = scratch_take((9 * size + NAME(points_scratch)(n, &in, &out, columns->points)) * sizeof(REAL));
    if (taps == NULL) return -1;
    (back ? NAME(taps_in_order) : NAME(taps_of_weight))(weight, outputs, inputs, taps);
    NAME(convolve_at_points)(given, back ? &out : &in, taps, bias, result, back ? &in : &out, n, rows, columns,
                             taps + 9 * size);
    return 0;
}

static int NAME(strided_weights_by_points)(const REAL *x, const REAL *g, REAL *weight, long n, long h, long w, long inputs,
                                           long outputs, const NAME(Axis) *rows, const NAME(Axis) *columns) {
    NAME(Side) in, out;
    NAME(sides)(h, w, inputs, outputs, rows, columns, &in, &out);
    const long size = inputs * outputs;
    REAL *taps = scratch_take((9 * size + NAME(points_scratch)(n, &in, &out, columns->points)) * sizeof(REAL));
    if (taps == NULL) return -1;
    NAME(weights_at_points)(x, &in, g, &out, n, rows, columns, taps + 9 * size, taps);
    for (int tap = 0; tap < 9; tap++)
        for (long k = 0; k < outputs; k++)
            memcpy(weight + (k * 9 + tap) * inputs, taps + (tap * outputs + k) * inputs, inputs * sizeof(REAL));
    return 0;
}

static int NAME(convolution)(const void *x, const void *weight, const void *bias, void *y, long n, long h, long w,
                             long inputs, long outputs, int stride) {
    NAME(Axis) rows, columns;
    if (stride != 1 && NAME(worth_points)(n, h, w, &rows, &columns))
        return NAME(strided_by_points)(x, weight, bias, y, n, h, w, inputs, outputs, 0, &rows, &columns);
    REAL *taps = NAME(wino_scratch)(inputs, outputs);
    if (taps == NULL) return -1;
    NAME(taps_of_weight)(weight, outputs, inputs, taps);
    if (stride == 1)
        NAME(wino_convolution)(x, n, h, w, inputs, taps, outputs, bias, y, taps + 9 * inputs * outputs);
    else
        NAME(strided_convolution)(x, n, h, w, inputs, taps, outputs, bias, y);
    return 0;
}

/* x (n, h, w, inputs) from g, whose height and width follow from the stride */
static int NAME(convolution_input)(const void *g, const void *weight, void *x, long n, long h, long w, long inputs,
                                   long outputs, int stride) {
    NAME(Axis) rows, columns;
    if (stride != 1 && NAME(worth_points)(n, h, w, &rows, &columns))
        return NAME(strided_by_points)(g, weight, NULL, x, n, h, w, inputs, outputs, 1, &rows, &columns);
    if (stride != 1) {
        NAME(strided_input_gradient)(g, n, h, w, inputs, weight, outputs, x);
        return 0;
    }
    REAL *taps = NAME(wino_scratch)(inputs, outputs);
    if (taps == NULL) return -1;
    NAME(taps_turned)(weight, outputs, inputs, taps);
    NAME(wino_convolution)(g, n, h, w, outputs, taps, inputs, NULL, x, taps + 9 * inputs * outputs);
    return 0;
}

static int NAME(convolution_weight)(const void *x, const void *g, void *weight, long n, long h, long w, long inputs,
                                    long outputs, int stride) {
    NAME(Axis) rows, columns;
    if (stride != 1 && NAME(worth_points)(n, h, w, &rows, &columns))
        return NAME(strided_weights_by_points)(x, g, weight, n, h, w, inputs, outputs, &rows, &columns);
    if (stride != 1) {
        NAME(strided_weight_gradient)(x, g, n, h, w, inputs, outputs, weight);
        return 0;
    }
    REAL *scratch = NAME(wino_scratch)(inputs, outputs);
    if (scratch == NULL) return -1;
    NAME(wino_weight_gradient)(x, g, n, h, w, inputs, outputs, weight, scratch);
    return 0;
}

/* total[VL] = the sums of VL channels over the pixels of x (pixels, channels), in short pieces combined in double */
INLINE void NAME(sum_of_pixels)(const REAL *x, long pixels, long channels, double *total) {
    memset(total, 0, VL * sizeof(double));
    for (long first = 0; first < pixels; first += 64) {
        vec sum = {0};
        for (long i = first; i < first + 64 && i < pixels; i++) sum += NAME(load)(x + i * channels);
        NAME(add_lanes)(total, sum);
    }
}

/* sums (channels) of x (pixels, channels) */
static void NAME(channel_sums)(const void *given, void *sums, long pixels, long channels) {
    double total[VL];
    for (long c = 0; c < channels; c += VL) {
        NAME(sum_of_pixels)((const REAL *)given + c, pixels, channels, total);
        for (int l = 0; l < VL; l++) ((REAL *)sums)[c + l] = (REAL)total[l];
    }
}

/* y (n, channels) = the mean over the pixels of each image of x (n, pixels, channels) */
static void NAME(pixel_means)(const void *given, void *means, long n, long pixels, long channels) {
    double total[VL];
    for (long i = 0; i < n; i++)
        for (long c = 0; c < channels; c += VL) {
            NAME(sum_of_pixels)((const REAL *)given + i * pixels * channels + c, pixels, channels, total);
            for (int l = 0; l < VL; l++) ((REAL *)means)[i * channels + c + l] = (REAL)(total[l] / pixels);
        }
}

/* The adjoint: x (n, pixels, channels) = y / pixels at each of an image's pixels */
static void NAME(spread_means)(const void *means, void *made, long n, long pixels, long channels) {
    const REAL *y = means;
    REAL *x = made;
    const vec share = NAME(splat)((REAL)(1.0 / pixels));
    for (long i = 0; i < n; i++, x += pixels * channels, y += channels)
        for (long c = 0; c < channels; c += VL) {
            const vec each = NAME(load)(y + c) * share;
            for (long p = 0; p < pixels; p++) NAME(store)(x + p * channels + c, each);
        }
}

/* to += what */
static void NAME(add)(void *to, const void *what, long entries) {
    REAL *sum = to;
    for (long i = 0; i < entries; i += VL)
        NAME(store)(sum + i, NAME(load)(sum + i) + NAME(load)((const REAL *)what + i));
}

static int NAME(norm)(const void *x, const void *weight, const void *bias, void *y, uint8_t *place, void *mean,
                      void *scale, double eps, long n, long h, long w, long channels, long window) {
    NAME(Images) s = {n, h, w, channels, window};
    REAL *scratch = scratch_take(2 * channels * sizeof(REAL));
    if (scratch == NULL) return -1;
    NAME(normalize)(x, s, weight, bias, eps, mean, scale, y, place, scratch);
    return 0;
}

static int NAME(norm_gradient)(const void *y_bar, const void *y, const uint8_t *place, const void *x,
                               const void *weight, const void *mean, const void *scale, void *x_bar, void *sum_gx,
                               void *sum_g, long n, long h, long w, long channels, long window) {
    NAME(Images) s = {n, h, w, channels, window};
    double *scratch = scratch_take(channels * (2 * sizeof(double) + 3 * sizeof(REAL)));
    if (scratch == NULL) return -1;
    NAME(normalize_gradient)(y_bar, y, place, x, s, weight, mean, scale, x_bar, sum_gx, sum_g, scratch);
    return 0;
}

static int NAME(norm_gradient_back)(const void *X, const void *W, const void *B, const void *y_bar, const void *y,
                                    const uint8_t *place, const void *x, const void *weight, const void *mean,
                                    const void *scale, const void *sum_gx, const void *sum_g, void *y_bar_out,
                                    void *x_out, void *w_out, long n, long h, long w, long channels, long window) {
    NAME(Images) s = {n, h, w, channels, window};
    double *scratch = scratch_take(channels * (3 * sizeof(double) + 8 * sizeof(REAL)));
    if (scratch == NULL) return -1;
    NAME(normalize_gradient_back)(X, W, B, y_bar, y, place, x, s, weight, mean, scale, sum_gx, sum_g, y_bar_out, x_out,
                                  w_out, scratch);
    return 0;
}

/* A block: norm(convolution(x)), the convolution's output z (n, down, across, outputs) kept for the ways back. */
typedef struct {
    long n, h, w, inputs, outputs;
    int stride;
    long window, down, across;
} NAME(Block);

INLINE NAME(Block) NAME(block_shape)(long n, long h, long w, long inputs, long outputs, int stride, long window) {
    return (NAME(Block)){n, h, w, inputs, outputs, stride, window, (h - 1) / stride + 1, (w - 1) / stride + 1};
}

static int NAME(block)(const void *x, const void *weight, const void *bias, const void *gamma, const void *beta,
                       double eps, void *z, void *y, uint8_t *place, void *mean, void *scale, long n, long h, long w,
                       long inputs, long outputs, int stride, long window) {
    NAME(Block) s = NAME(block_shape)(n, h, w, inputs, outputs, stride, window);
    return NAME(convolution)(x, weight, bias, z, n, h, w, inputs, outputs, stride) ||
           NAME(norm)(z, gamma, beta, y, place, mean, scale, eps, n, s.down, s.across, outputs, window);
}

/* z_bar = norm's gradient of z + `more` (NULL: zero), and what the convolution makes of it; x_bar, w_bar may be NULL */
static int NAME(block_gradient)(const void *y_bar, const void *more, const void *y, const uint8_t *place, const void *x,
                                const void *weight, const void *gamma, const void *z, const void *mean,
                                const void *scale, void *z_bar, void *x_bar, void *w_bar, void *gamma_bar,
                                void *beta_bar, long n, long h, long w, long inputs, long outputs, int stride,
                                long window) {
    NAME(Block) s = NAME(block_shape)(n, h, w, inputs, outputs, stride, window);
    if (NAME(norm_gradient)(y_bar, y, place, z, gamma, mean, scale, z_bar, gamma_bar, beta_bar, n, s.down, s.across,
                            outputs, window))
        return -1;
    if (more) NAME(add)(z_bar, more, n * s.down * s.across * outputs);
    return (x_bar && NAME(convolution_input)(z_bar, weight, x_bar, n, h, w, inputs, outputs, stride)) ||
           (w_bar && NAME(convolution_weight)(x, z_bar, w_bar, n, h, w, inputs, outputs, stride));
}

/* The way back through block_gradient, for cotangents X, W, G, B of x_bar, w_bar, gamma_bar, beta_bar (NULL: zero).
 * Z, the cotangent of z_bar, is X * weight + x * W; `room` is for one of the two. Outputs but Z and z_out may be NULL. */
static int NAME(block_gradient_back)(const void *X, const void *W, const void *G, const void *B, const void *y_bar,
                                     const void *y, const uint8_t *place, const void *x, const void *weight,
                                     const void *gamma, const void *z, const void *mean, const void *scale,
                                     const void *gamma_bar, const void *beta_bar, const void *z_bar, void *Z, void *room,
                                     void *y_bar_out, void *x_out, void *w_out, void *gamma_out, void *z_out, long n,
                                     long h, long w, long inputs, long outputs, int stride, long window) {
    NAME(Block) s = NAME(block_shape)(n, h, w, inputs, outputs, stride, window);
    const long entries = n * s.down * s.across * outputs;
    if (X && NAME(convolution)(X, weight, NULL, Z, n, h, w, inputs, outputs, stride)) return -1;
    if (W && NAME(convolution)(x, W, NULL, X ? room : Z, n, h, w, inputs, outputs, stride)) return -1;
    if (X && W) NAME(add)(Z, room, entries);
    if (!X && !W) memset(Z, 0, entries * sizeof(REAL));
    if (x_out && NAME(convolution_input)(z_bar, W, x_out, n, h, w, inputs, outputs, stride)) return -1;
    if (w_out && NAME(convolution_weight)(X, z_bar, w_out, n, h, w, inputs, outputs, stride)) return -1;
    return NAME(norm_gradient_back)(Z, G, B, y_bar, y, place, z, gamma, mean, scale, gamma_bar, beta_bar, y_bar_out,
                                    z_out, gamma_out, n, s.down, s.across, outputs, window);
}

INLINE NAME(First) NAME(first_shape)(long n, long planes, long h, long w, long stride, long window, long channels) {
    return (NAME(First)){n, planes, h, w, stride, window, channels, (h - 1) / stride + 1, (w - 1) / stride + 1};
}

/* mean (taps) and covariance (taps, taps) of the patches, in double */
static int NAME(moments)(const void *x, double *mean, double *covariance, long n, long planes, long h, long w,
                         long stride) {
    NAME(First) s = NAME(first_shape)(n, planes, h, w, stride, 1, VL);
    long taps = NAME(taps_of)(&s);
    REAL *scratch =
        scratch_take((NAME(padded_size)(&s) + taps * (s.columns + VL) + (taps + 2) * taps * VL) * sizeof(REAL));
    if (scratch == NULL) return -1;
    NAME(patch_moments)(x, s, mean, covariance, scratch);
    return 0;
}

/* weight (channels, taps), gamma (NULL: 1) and beta -> y, place */
static int NAME(first)(const void *x, const void *weight, const void *gamma, const void *beta, const double *mean,
                       const double *covariance, double eps, void *y, uint8_t *place, long n, long planes, long h,
                       long w, long stride, long window, long channels) {
    NAME(First) s = NAME(first_shape)(n, planes, h, w, stride, window, channels);
    int taps = NAME(taps_of)(&s);
    REAL *panel = scratch_take(((taps + 1) * channels + NAME(padded_size)(&s)) * sizeof(REAL));
    if (panel == NULL) return -1;
    REAL *shift = panel + taps * channels, *padded = shift + channels;
    NAME(first_fold)(weight, gamma, beta, taps, channels, mean, covariance, eps, panel, shift);
    NAME(first_forward)(x, s, panel, shift, y, place, padded);
    return 0;
}

/* the gradients of weight, gamma and beta; sums (taps + 1, channels), double, are kept for the way back */
static int NAME(first_backward)(const void *y_bar, const void *y, const uint8_t *place, const void *x,
                                const void *weight, const void *gamma, const double *mean, const double *covariance,
                                double eps, double *sums, void *w_bar, void *gamma_bar, void *beta_bar, long n,
                                long planes, long h, long w, long stride, long window, long channels) {
    NAME(First) s = NAME(first_shape)(n, planes, h, w, stride, window, channels);
    int taps = NAME(taps_of)(&s);
    REAL *padded = scratch_take(NAME(padded_size)(&s) * sizeof(REAL));
    if (padded == NULL) return -1;
    NAME(first_correlate)(y_bar, y, place, x, s, sums, sums + taps * channels, padded);
    NAME(first_gradient)(sums, weight, gamma, taps, channels, mean, covariance, eps, w_bar, gamma_bar, beta_bar);
    return 0;
}

/* the way back through first_backward: the gradients of y_bar, weight and gamma */
static int NAME(first_backward_back)(const void *W, const void *G, const void *B, const double *sums, const void *y,
                                     const uint8_t *place, const void *x, const void *weight, const void *gamma,
                                     const double *mean, const double *covariance, double eps, void *y_bar_out,
                                     void *weight_out, void *gamma_out, long n, long planes, long h, long w,
                                     long stride, long window, long channels) {
    NAME(First) s = NAME(first_shape)(n, planes, h, w, stride, window, channels);
    int taps = NAME(taps_of)(&s);
    REAL *sums_out = scratch_take(((taps + 1) * channels + NAME(padded_size)(&s)) * sizeof(REAL));
    if (sums_out == NULL) return -1;
    REAL *padded = sums_out + (taps + 1) * channels;
    NAME(first_gradient_back)(W, G, B, sums, weight, gamma, taps, channels, mean, covariance, eps, sums_out,
                              weight_out, gamma_out);
    NAME(first_spread)(sums_out, sums_out + taps * channels, y, place, x, s, y_bar_out, padded);
    return 0;
}

/* sums (taps + 1, channels), double: of g times each entry of the patches, then of g */
static int NAME(correlate)(const void *y_bar, const void *y, const uint8_t *place, const void *x, double *sums, long n,
                           long planes, long h, long w, long stride, long window, long channels) {
    NAME(First) s = NAME(first_shape)(n, planes, h, w, stride, window, channels);
    REAL *padded = scratch_take(NAME(padded_size)(&s) * sizeof(REAL));
    if (padded == NULL) return -1;
    NAME(first_correlate)(y_bar, y, place, x, s, sums, sums + NAME(taps_of)(&s) * channels, padded);
    return 0;
}

/* the adjoint of correlate: sums (taps + 1, channels) -> out, as y */
static int NAME(spread)(const void *sums, const void *y, const uint8_t *place, const void *x, void *out, long n,
                        long planes, long h, long w, long stride, long window, long channels) {
    NAME(First) s = NAME(first_shape)(n, planes, h, w, stride, window, channels);
    REAL *padded = scratch_take(NAME(padded_size)(&s) * sizeof(REAL));
    if (padded == NULL) return -1;
    NAME(first_spread)(sums, (const REAL *)sums + NAME(taps_of)(&s) * channels, y, place, x, s, out, padded);
    return 0;
}
