/* The kernels as Cython calls them, of a block (block.h): each finds scratch and hands over to what computes. They return
 * 0, or -1 where there is no memory. */

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

/* z = x * weight + bias for images of the sizes of `b`, any of these pointers in place of its own */
static int NAME(convolve)(const NeoBlock *b, const void *x, const void *weight, const void *bias, void *z) {
    const long inputs = b->inputs, outputs = b->outputs;
    NAME(Axis) rows, columns;
    if (b->stride != 1 && NAME(worth_points)(b->n, b->h, b->w, &rows, &columns))
        return NAME(strided_by_points)(x, weight, bias, z, b->n, b->h, b->w, inputs, outputs, 0, &rows, &columns);
    REAL *taps = NAME(wino_scratch)(inputs, outputs);
    if (taps == NULL) return -1;
    NAME(taps_of_weight)(weight, outputs, inputs, taps);
    if (b->stride == 1)
        NAME(wino_convolution)(x, b->n, b->h, b->w, inputs, taps, outputs, bias, z, taps + 9 * inputs * outputs);
    else
        NAME(strided_convolution)(x, b->n, b->h, b->w, inputs, taps, outputs, bias, z);
    return 0;
}

static int NAME(input_gradient)(const NeoBlock *b, const void *z_bar, const void *weight, void *x_bar) {
    const long inputs = b->inputs, outputs = b->outputs;
    NAME(Axis) rows, columns;
    if (b->stride != 1 && NAME(worth_points)(b->n, b->h, b->w, &rows, &columns))
        return NAME(strided_by_points)(z_bar, weight, NULL, x_bar, b->n, b->h, b->w, inputs, outputs, 1, &rows, &columns);
    if (b->stride != 1) {
        NAME(strided_input_gradient)(z_bar, b->n, b->h, b->w, inputs, weight, outputs, x_bar);
        return 0;
    }
    REAL *taps = NAME(wino_scratch)(inputs, outputs);
    if (taps == NULL) return -1;
    NAME(taps_turned)(weight, outputs, inputs, taps);
    NAME(wino_convolution)(z_bar, b->n, b->h, b->w, outputs, taps, inputs, NULL, x_bar, taps + 9 * inputs * outputs);
    return 0;
}

static int NAME(weight_gradient)(const NeoBlock *b, const void *x, const void *z_bar, void *w_bar) {
    const long inputs = b->inputs, outputs = b->outputs;
    NAME(Axis) rows, columns;
    if (b->stride != 1 && NAME(worth_points)(b->n, b->h, b->w, &rows, &columns))
        return NAME(strided_weights_by_points)(x, z_bar, w_bar, b->n, b->h, b->w, inputs, outputs, &rows, &columns);
    if (b->stride != 1) {
        NAME(strided_weight_gradient)(x, z_bar, b->n, b->h, b->w, inputs, outputs, w_bar);
        return 0;
    }
    REAL *scratch = NAME(wino_scratch)(inputs, outputs);
    if (scratch == NULL) return -1;
    NAME(wino_weight_gradient)(x, z_bar, b->n, b->h, b->w, inputs, outputs, w_bar, scratch);
    return 0;
}

/* --- kernels: each takes and gives what its line in kernels.pxi names ------------------------------------------ */

static int NAME(convolution)(const NeoBlock *b) { return NAME(convolve)(b, b->x, b->weight, b->bias, b->z); }
static int NAME(convolution_input)(const NeoBlock *b) { return NAME(input_gradient)(b, b->z_bar, b->weight, b->x_bar); }
static int NAME(convolution_weight)(const NeoBlock *b) { return NAME(weight_gradient)(b, b->x, b->z_bar, b->w_bar); }

/* total[VL] = the sums of VL channels over the pixels of x (pixels, channels), in short pieces combined in double */
INLINE void NAME(sum_of_pixels)(const REAL *x, long pixels, long channels, double *total) {
    memset(total, 0, VL * sizeof(double));
    for (long first = 0; first < pixels; first += 64) {
        vec sum = {0};
        for (long i = first; i < first + 64 && i < pixels; i++) sum += NAME(load)(x + i * channels);
        NAME(add_lanes)(total, sum);
    }
}

/* b_bar = the sums of z_bar over its pixels */
static int NAME(convolution_bias)(const NeoBlock *b) {
    double total[VL];
    for (long c = 0; c < b->outputs; c += VL) {
        NAME(sum_of_pixels)((const REAL *)b->z_bar + c, b->n * b->down * b->across, b->outputs, total);
        for (int l = 0; l < VL; l++) ((REAL *)b->b_bar)[c + l] = (REAL)total[l];
    }
    return 0;
}

/* means = the mean over the pixels of each image of z */
static int NAME(pixel_means)(const NeoBlock *b) {
    const long pixels = b->down * b->across, channels = b->outputs;
    double total[VL];
    for (long i = 0; i < b->n; i++)
        for (long c = 0; c < channels; c += VL) {
            NAME(sum_of_pixels)((const REAL *)b->z + i * pixels * channels + c, pixels, channels, total);
            for (int l = 0; l < VL; l++) ((REAL *)b->means)[i * channels + c + l] = (REAL)(total[l] / pixels);
        }
    return 0;
}

/* The adjoint: z = means / pixels at each of an image's pixels */
static int NAME(spread_means)(const NeoBlock *b) {
    const long pixels = b->down * b->across, channels = b->outputs;
    const REAL *means = b->means;
    REAL *z = b->z;
    const vec share = NAME(splat)((REAL)(1.0 / pixels));
    for (long i = 0; i < b->n; i++, z += pixels * channels, means += channels)
        for (long c = 0; c < channels; c += VL) {
            const vec each = NAME(load)(means + c) * share;
            for (long p = 0; p < pixels; p++) NAME(store)(z + p * channels + c, each);
        }
    return 0;
}

/* to += what */
static void NAME(add)(void *to, const void *what, long entries) {
    REAL *sum = to;
    for (long i = 0; i < entries; i += VL)
        NAME(store)(sum + i, NAME(load)(sum + i) + NAME(load)((const REAL *)what + i));
}

static int NAME(block)(const NeoBlock *b) {
    return NAME(convolve)(b, b->x, b->weight, b->bias, b->z) || NAME(norm)(b);
}

static int NAME(block_backward)(const NeoBlock *b) {
    if (NAME(norm_backward)(b)) return -1;
    if (b->z_bar) NAME(add)(b->z_total, b->z_bar, b->n * b->down * b->across * b->outputs);
    return (b->x_bar && NAME(input_gradient)(b, b->z_total, b->weight, b->x_bar)) ||
           (b->w_bar && NAME(weight_gradient)(b, b->x, b->z_total, b->w_bar));
}

/* Z = X * weight + x * W, and norm's double backward of it. Outputs but Z may be NULL; with y_bar_out alone of them, these
 * are the tangents of z and y along (X, W, G, B) in place of (x, weight, gamma, beta), and cotangents are NULL. */
static int NAME(block_double_backward)(const NeoBlock *b) {
    const long entries = b->n * b->down * b->across * b->outputs;
    if (b->X && NAME(convolve)(b, b->X, b->weight, NULL, b->Z)) return -1;
    if (b->W && NAME(convolve)(b, b->x, b->W, NULL, b->X ? b->workspace : b->Z)) return -1;
    if (b->X && b->W) NAME(add)(b->Z, b->workspace, entries);
    if (!b->X && !b->W) memset(b->Z, 0, entries * sizeof(REAL));
    if (b->x_out && NAME(input_gradient)(b, b->z_total, b->W, b->x_out)) return -1;
    if (b->w_out && NAME(weight_gradient)(b, b->X, b->z_total, b->w_out)) return -1;
    return NAME(norm_double_backward)(b);
}

/* block_backward's tangent: in z_out that of z_total, z_bar's own among it; x_bar and w_bar, gamma_out and beta_out.
 * By the product rule x_bar has a second term with W, w_bar one with X: x_out and w_out are room for those, as workspace
 * and b_bar are for what norm_backward gives. */
static int NAME(block_backward_tangent)(const NeoBlock *b) {
    const long entries = b->n * b->down * b->across * b->outputs;
    NeoBlock second = *b, first = *b;
    second.B = second.y_bar_out = NULL;
    if (b->Z && NAME(norm_double_backward)(&second)) return -1;
    first.y_bar = b->y_bar_dot;
    first.z_total = b->Z ? b->workspace : b->z_out;
    first.gamma_bar = b->Z ? b->b_bar : b->gamma_out;
    first.beta_bar = b->beta_out;
    if (NAME(norm_backward)(&first)) return -1;
    if (b->Z) {
        NAME(add)(b->z_out, b->workspace, entries);
        NAME(add)(b->gamma_out, b->b_bar, b->outputs);
    }
    if (b->z_bar) NAME(add)(b->z_out, b->z_bar, entries);
    if (b->x_bar && NAME(input_gradient)(b, b->z_out, b->weight, b->x_bar)) return -1;
    if (b->w_bar && NAME(weight_gradient)(b, b->x, b->z_out, b->w_bar)) return -1;
    if (b->x_bar && b->x_out) {
        if (NAME(input_gradient)(b, b->z_total, b->W, b->x_out)) return -1;
        NAME(add)(b->x_bar, b->x_out, b->n * b->h * b->w * b->inputs);
    }
    if (b->w_bar && b->w_out) {
        if (NAME(weight_gradient)(b, b->X, b->z_total, b->w_out)) return -1;
        NAME(add)(b->w_bar, b->w_out, 9 * b->inputs * b->outputs);
    }
    return 0;
}

INLINE NAME(First) NAME(first_of)(const NeoBlock *b) {
    return (NAME(First)){b->n,       b->inputs, b->h,    b->w,      b->stride,
                         b->window,  b->outputs, b->down, b->across, (REAL)b->slope};
}

/* patch_mean and patch_covariance of the patches of x */
static int NAME(moments)(const NeoBlock *b) {
    NAME(First) s = NAME(first_of)(b);
    long taps = NAME(taps_of)(&s);
    REAL *scratch =
        scratch_take((NAME(padded_size)(&s) + taps * (s.columns + VL) + (taps + 2) * taps * VL) * sizeof(REAL));
    if (scratch == NULL) return -1;
    NAME(patch_moments)(b->x, s, b->patch_mean, b->patch_covariance, scratch);
    return 0;
}

static int NAME(first)(const NeoBlock *b) {
    NAME(First) s = NAME(first_of)(b);
    int taps = NAME(taps_of)(&s);
    REAL *panel = scratch_take(((taps + 1) * s.channels + NAME(padded_size)(&s)) * sizeof(REAL));
    if (panel == NULL) return -1;
    REAL *shift = panel + taps * s.channels, *padded = shift + s.channels;
    NAME(first_fold)(b->weight, b->gamma, b->beta, taps, s.channels, b->patch_mean, b->patch_covariance, b->eps, panel,
                     shift);
    NAME(first_forward)(b->x, s, panel, shift, b->y, b->place, padded);
    return 0;
}

/* sums: of the cotangent before pooling times each entry of the patches, then of the cotangent alone */
static int NAME(correlate)(const NeoBlock *b) {
    NAME(First) s = NAME(first_of)(b);
    REAL *padded = scratch_take(NAME(padded_size)(&s) * sizeof(REAL));
    if (padded == NULL) return -1;
    NAME(first_correlate)(b->y_bar, b->y, b->place, b->x, s, b->sums, b->sums + NAME(taps_of)(&s) * s.channels, padded);
    return 0;
}

/* the adjoint of correlate: y_bar_out from sums_bar */
static int NAME(spread)(const NeoBlock *b) {
    NAME(First) s = NAME(first_of)(b);
    const REAL *sums_bar = b->sums_bar;
    REAL *padded = scratch_take(NAME(padded_size)(&s) * sizeof(REAL));
    if (padded == NULL) return -1;
    NAME(first_spread)(sums_bar, sums_bar + NAME(taps_of)(&s) * s.channels, b->y, b->place, b->x, s, b->y_bar_out, padded);
    return 0;
}

/* w_bar, gamma_bar and beta_bar; sums are kept for the double backward */
static int NAME(first_backward)(const NeoBlock *b) {
    NAME(First) s = NAME(first_of)(b);
    if (NAME(correlate)(b)) return -1;
    NAME(first_gradient)(b->sums, b->weight, b->gamma, NAME(taps_of)(&s), s.channels, b->patch_mean, b->patch_covariance,
                         b->eps, b->w_bar, b->gamma_bar, b->beta_bar);
    return 0;
}

/* y_bar_out, w_out and gamma_out, where they are wanted */
static int NAME(first_double_backward)(const NeoBlock *b) {
    NAME(First) s = NAME(first_of)(b);
    int taps = NAME(taps_of)(&s);
    REAL *sums_bar = scratch_take(((taps + 1) * s.channels + NAME(padded_size)(&s)) * sizeof(REAL));
    if (sums_bar == NULL) return -1;
    REAL *padded = sums_bar + (taps + 1) * s.channels;
    NAME(first_gradient_double_backward)(b->W, b->G, b->B, b->sums, b->weight, b->gamma, taps, s.channels, b->patch_mean,
                                         b->patch_covariance, b->eps, sums_bar, b->w_out, b->gamma_out);
    if (b->y_bar_out)
        NAME(first_spread)(sums_bar, sums_bar + taps * s.channels, b->y, b->place, b->x, s, b->y_bar_out, padded);
    return 0;
}
