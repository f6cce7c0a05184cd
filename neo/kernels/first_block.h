/* A first block: 3x3 convolution (padding 1) of constant images with few channels, batch norm, rectifier, max pooling.
 *
 * Nothing of the size of the convolution's output is stored. It is linear in the patches p of the images, so that its
 * mean and variance follow from theirs: mu = w m + b, var = w C w', m and C the patches' mean and covariance; and the
 * pixels themselves are computed again where they are needed, which for patches of 9 or 27 numbers is less work than
 * to fetch them. Images are (n, planes, h, w), contiguous; y is channels-last; channels are a multiple of VL.
 */

#define MOST_TAPS 36 /* 4 planes */
#define TOGETHER 4   /* pixels at a time: a 2x2 window, or neighbours */

typedef struct {
    long n, planes, h, w, stride, window, channels;
    long rows, columns; /* of the convolution's output */
    REAL slope;         /* of the rectifier below 0 */
} NAME(First);

INLINE int NAME(taps_of)(const NAME(First) *s) { return (int)(9 * s->planes); }
INLINE long NAME(padded_size)(const NAME(First) *s) { return s->planes * (s->h + 2) * (s->w + 2); }

/* Image `n` with its border of zeros; padded must be zeros to begin with. */
static void NAME(pad_image)(const REAL *x, const NAME(First) *s, long n, REAL *padded) {
    for (long p = 0; p < s->planes; p++)
        for (long h = 0; h < s->h; h++)
            memcpy(padded + (p * (s->h + 2) + h + 1) * (s->w + 2) + 1, x + ((n * s->planes + p) * s->h + h) * s->w,
                   s->w * sizeof(REAL));
}

/* Where the entries of a patch lie, counted from its first. */
static void NAME(tap_offsets)(const NAME(First) *s, long *offsets) {
    for (int t = 0; t < NAME(taps_of)(s); t++)
        offsets[t] = (t / 9 * (s->h + 2) + t % 9 / 3) * (s->w + 2) + t % 3;
}

/* mean (taps) and covariance (taps, taps) of the patches.
 * Scratch: padded_size + taps (columns + VL) + (taps + 2) taps VL REALs. */
static void NAME(patch_moments)(const REAL *x, NAME(First) s, double *mean, double *covariance, REAL *scratch) {
    int taps = NAME(taps_of)(&s);
    long wide = (s.columns + VL - 1) / VL * VL, offsets[MOST_TAPS];
    REAL *padded = scratch, *rows = padded + NAME(padded_size)(&s), *sums = rows + taps * wide;
    memset(padded, 0, NAME(padded_size)(&s) * sizeof(REAL));
    memset(rows, 0, taps * wide * sizeof(REAL));
    memset(mean, 0, taps * sizeof(double));
    memset(covariance, 0, taps * taps * sizeof(double));
    NAME(tap_offsets)(&s, offsets);
    for (long n = 0; n < s.n; n++) {
        NAME(pad_image)(x, &s, n, padded);
        memset(sums, 0, (taps + 1) * taps * VL * sizeof(REAL));
        for (long p = 0; p < s.rows; p++) {
            for (int t = 0; t < taps; t++) {
                const REAL *from = padded + p * s.stride * (s.w + 2) + offsets[t];
                for (long q = 0; q < s.columns; q++) rows[t * wide + q] = from[q * s.stride];
            }
            for (int t = 0; t < taps; t++) {
                const REAL *left = rows + t * wide;
                REAL *of_t = sums + taps * taps * VL + t * VL;
                for (long q = 0; q < wide; q += VL) NAME(store)(of_t, NAME(load)(of_t) + NAME(load)(left + q));
                for (int u = t; u < taps; u++) {
                    REAL *of_pair = sums + (t * taps + u) * VL;
                    vec product = NAME(load)(of_pair);
                    for (long q = 0; q < wide; q += VL)
                        product += NAME(load)(left + q) * NAME(load)(rows + u * wide + q);
                    NAME(store)(of_pair, product);
                }
            }
        }
        for (int t = 0; t < taps; t++)
            for (int l = 0; l < VL; l++) {
                mean[t] += sums[(taps * taps + t) * VL + l];
                for (int u = t; u < taps; u++) covariance[t * taps + u] += sums[(t * taps + u) * VL + l];
            }
    }
    double pixels = (double)(s.n * s.rows * s.columns);
    for (int t = 0; t < taps; t++) mean[t] /= pixels;
    for (int t = 0; t < taps; t++)
        for (int u = t; u < taps; u++)
            covariance[t * taps + u] = covariance[u * taps + t] =
                covariance[t * taps + u] / pixels - mean[t] * mean[u];
}

/* The patches of up to TOGETHER pixels: those of window (p, q), or the next ones of row p from q on. */
INLINE int NAME(patches_at)(const REAL *padded, const NAME(First) *s, long p, long q, const REAL **patch) {
    long line = s->w + 2;
    if (s->window == 2) {
        for (int i = 0; i < 4; i++)
            patch[i] = padded + (2 * p + i / 2) * s->stride * line + (2 * q + i % 2) * s->stride;
        return 1;
    }
    int count = s->columns - q < TOGETHER ? (int)(s->columns - q) : TOGETHER;
    for (int i = 0; i < TOGETHER; i++) patch[i] = padded + p * s->stride * line + (q + (i < count ? i : 0)) * s->stride;
    return count;
}

/* z = start + patch . weights of TOGETHER patches, for one vector of channels; weights[tap * channels] */
INLINE void NAME(patch_products)(const REAL *const *patch, const long *offsets, int taps, const REAL *weights,
                                 long channels, vec start, vec *z) {
    vec sum[TOGETHER];
    UNROLL for (int i = 0; i < TOGETHER; i++) sum[i] = start;
    for (int t = 0; t < taps; t++) {
        vec w = NAME(load)(weights + t * channels);
        UNROLL for (int i = 0; i < TOGETHER; i++) sum[i] += w * NAME(splat)(patch[i][offsets[t]]);
    }
    UNROLL for (int i = 0; i < TOGETHER; i++) z[i] = sum[i];
}

/* y and place, for weights[tap][channel] and shift[channel] with batch norm's line folded in. */
static void NAME(first_forward)(const REAL *x, NAME(First) s, const REAL *weights, const REAL *shift, REAL *y,
                                uint8_t *place, REAL *padded) {
    int taps = NAME(taps_of)(&s);
    long offsets[MOST_TAPS], down = s.rows / s.window, across = s.columns / s.window;
    NAME(tap_offsets)(&s, offsets);
    memset(padded, 0, NAME(padded_size)(&s) * sizeof(REAL));
    for (long n = 0; n < s.n; n++) {
        NAME(pad_image)(x, &s, n, padded);
        for (long p = 0; p < down; p++)
            for (long q = 0; q < across;) {
                const REAL *patch[TOGETHER];
                int count = NAME(patches_at)(padded, &s, p, q, patch);
                long at = ((n * down + p) * across + q) * s.channels;
                for (long c = 0; c < s.channels; c += VL) {
                    vec z[TOGETHER];
                    NAME(patch_products)(patch, offsets, taps, weights + c, s.channels, NAME(load)(shift + c), z);
                    if (s.window == 1) {
                        for (int i = 0; i < count; i++)
                            NAME(store)(y + at + i * s.channels + c, NAME(rectify)(z[i], s.slope));
                        continue;
                    }
                    ivec where = {0};
                    vec best = z[0];
                    UNROLL for (int i = 1; i < 4; i++) {
                        ivec more = z[i] > best;
                        best = NAME(where)(more, z[i], best);
                        where = (more & (INT)i) | (~more & where);
                    }
                    NAME(store)(y + at + c, NAME(rectify)(best, s.slope));
                    NAME(store_bytes)(place + at + c, where);
                }
                q += count;
            }
    }
}

/* A[tap][channel] = sum of g p and sum_g[channel] = sum of g over all pixels, g the cotangent before pooling.
 * taps is a compile-time constant to keep the sums in registers. */
INLINE void NAME(correlate_channels)(const int taps, const REAL *y_bar, const REAL *y, const uint8_t *place,
                                     const REAL *padded, const NAME(First) *s, long n, const long *offsets, long c,
                                     double *A, double *sum_g) {
    long down = s->rows / s->window, across = s->columns / s->window;
    vec sums[MOST_TAPS], total = {0};
    UNROLL for (int t = 0; t < taps; t++) sums[t] = NAME(zero)();
    for (long p = 0; p < down; p++)
        for (long q = 0; q < across;) {
            const REAL *patch[TOGETHER];
            int count = NAME(patches_at)(padded, s, p, q, patch);
            long at = ((n * down + p) * across + q) * s->channels + c;
            if (s->window == 2) {
                vec g = NAME(rectified_cotangent)(NAME(load)(y + at), NAME(load)(y_bar + at), s->slope);
                ivec where = NAME(load_bytes)(place + at);
                total += g;
                UNROLL for (int i = 0; i < 4; i++) {
                    vec here = NAME(where)(where == (INT)i, g, NAME(zero)());
                    UNROLL for (int t = 0; t < taps; t++) sums[t] += here * NAME(splat)(patch[i][offsets[t]]);
                }
            } else
                for (int i = 0; i < count; i++) {
                    long pixel = at + i * s->channels;
                    vec g = NAME(rectified_cotangent)(NAME(load)(y + pixel), NAME(load)(y_bar + pixel), s->slope);
                    total += g;
                    UNROLL for (int t = 0; t < taps; t++) sums[t] += g * NAME(splat)(patch[i][offsets[t]]);
                }
            q += count;
        }
    UNROLL for (int t = 0; t < taps; t++) NAME(add_lanes)(A + t * s->channels + c, sums[t]);
    NAME(add_lanes)(sum_g + c, total);
}

static void NAME(first_correlate)(const REAL *y_bar, const REAL *y, const uint8_t *place, const REAL *x, NAME(First) s,
                                  double *A, double *sum_g, REAL *padded) {
    long offsets[MOST_TAPS];
    NAME(tap_offsets)(&s, offsets);
    memset(padded, 0, NAME(padded_size)(&s) * sizeof(REAL));
    memset(A, 0, NAME(taps_of)(&s) * s.channels * sizeof(double));
    memset(sum_g, 0, s.channels * sizeof(double));
    for (long n = 0; n < s.n; n++) {
        NAME(pad_image)(x, &s, n, padded);
        for (long c = 0; c < s.channels; c += VL) switch (s.planes) {
            case 1: NAME(correlate_channels)(9, y_bar, y, place, padded, &s, n, offsets, c, A, sum_g); break;
            case 2: NAME(correlate_channels)(18, y_bar, y, place, padded, &s, n, offsets, c, A, sum_g); break;
            case 3: NAME(correlate_channels)(27, y_bar, y, place, padded, &s, n, offsets, c, A, sum_g); break;
            default: NAME(correlate_channels)(36, y_bar, y, place, padded, &s, n, offsets, c, A, sum_g); break;
            }
    }
}

/* The adjoint of first_correlate: out = sum over taps of A p + sum_g at the pixel y came from, through the rectifier. */
static void NAME(first_spread)(const REAL *A, const REAL *sum_g, const REAL *y, const uint8_t *place, const REAL *x,
                               NAME(First) s, REAL *out, REAL *padded) {
    int taps = NAME(taps_of)(&s);
    long offsets[MOST_TAPS], down = s.rows / s.window, across = s.columns / s.window;
    NAME(tap_offsets)(&s, offsets);
    memset(padded, 0, NAME(padded_size)(&s) * sizeof(REAL));
    for (long n = 0; n < s.n; n++) {
        NAME(pad_image)(x, &s, n, padded);
        for (long p = 0; p < down; p++)
            for (long q = 0; q < across;) {
                const REAL *patch[TOGETHER];
                int count = NAME(patches_at)(padded, &s, p, q, patch);
                long at = ((n * down + p) * across + q) * s.channels;
                for (long c = 0; c < s.channels; c += VL) {
                    vec z[TOGETHER];
                    NAME(patch_products)(patch, offsets, taps, A + c, s.channels, NAME(load)(sum_g + c), z);
                    if (s.window == 2) {
                        ivec where = NAME(load_bytes)(place + at + c);
                        UNROLL for (int i = 1; i < 4; i++) z[0] = NAME(where)(where == (INT)i, z[i], z[0]);
                    }
                    int pixels = s.window == 2 ? 1 : count;
                    for (int i = 0; i < pixels; i++) {
                        long pixel = at + i * s.channels + c;
                        NAME(store)(out + pixel, NAME(rectified_cotangent)(NAME(load)(y + pixel), z[i], s.slope));
                    }
                }
                q += count;
            }
    }
}
/* The small algebra between the weights and the passes above, in double; arrays by channel, then tap.
 *
 * With v = C w, mu = w.m (+ bias), r = 1/sqrt(w.v + eps), and A, S of first_correlate:
 *   forward   z = gamma r (p.w - w.m) + beta
 *   backward  D = A - S m, t = w.D, w_bar = gamma r (D - r^2 t v), gamma_bar = r t, beta_bar = S
 */
typedef struct {
    double v[MOST_TAPS], r, product; /* C w, the scale, w.m */
} NAME(Channel);

static NAME(Channel) NAME(channel)(const REAL *w, int taps, const double *mean, const double *covariance, double eps) {
    NAME(Channel) k;
    double variance = 0;
    k.product = 0;
    for (int t = 0; t < taps; t++) {
        k.v[t] = 0;
        for (int u = 0; u < taps; u++) k.v[t] += covariance[t * taps + u] * w[u];
        variance += w[t] * k.v[t];
        k.product += w[t] * mean[t];
    }
    k.r = 1 / sqrt((variance > 0 ? variance : variance != variance ? variance : 0) + eps); /* rounding is no variance */
    return k;
}

/* panel[tap][channel] and shift[channel] for first_forward; gamma NULL: 1 */
static void NAME(first_fold)(const REAL *weight, const REAL *gamma, const REAL *beta, int taps, long channels,
                             const double *mean, const double *covariance, double eps, REAL *panel, REAL *shift) {
    for (long c = 0; c < channels; c++) {
        const REAL *w = weight + c * taps;
        NAME(Channel) k = NAME(channel)(w, taps, mean, covariance, eps);
        double slope = gamma ? gamma[c] * k.r : k.r;
        for (int t = 0; t < taps; t++) panel[t * channels + c] = (REAL)(slope * w[t]);
        shift[c] = (REAL)(beta[c] - slope * k.product);
    }
}

/* The gradients of weight, gamma and beta from sums (taps + 1, channels), those of first_correlate. */
static void NAME(first_gradient)(const double *sums, const REAL *weight, const REAL *gamma, int taps, long channels,
                                 const double *mean, const double *covariance, double eps, REAL *w_bar,
                                 REAL *gamma_bar, REAL *beta_bar) {
    for (long c = 0; c < channels; c++) {
        const REAL *w = weight + c * taps;
        NAME(Channel) k = NAME(channel)(w, taps, mean, covariance, eps);
        double S = sums[taps * channels + c], t = 0, D[MOST_TAPS], slope = gamma ? gamma[c] * k.r : k.r;
        for (int u = 0; u < taps; u++) {
            D[u] = sums[u * channels + c] - S * mean[u];
            t += w[u] * D[u];
        }
        for (int u = 0; u < taps; u++) w_bar[c * taps + u] = (REAL)(slope * (D[u] - k.r * k.r * t * k.v[u]));
        gamma_bar[c] = (REAL)(k.r * t);
        beta_bar[c] = (REAL)S;
    }
}

/* The gradient of first_gradient for cotangents W, G, B (NULL: zero) of its results: those of the sums
 * (taps + 1, channels), of weight and of gamma. L = W.w_bar + G gamma_bar + B beta_bar
 * = gamma r a - gamma r^3 t b + G r t + B S, with a = W.D, b = W.v; and dr = -r^3 v.dw.
 * Those of the sums are also the sums of which first_spread makes y's tangent along (W, G, B) in place of (w, gamma,
 * beta), and take no sums: NULL, like the other two results, where they are not wanted.
 */
static void NAME(first_gradient_double_backward)(const REAL *W, const REAL *G, const REAL *B, const double *sums,
                                      const REAL *weight, const REAL *gamma, int taps, long channels,
                                      const double *mean, const double *covariance, double eps, REAL *sums_out,
                                      REAL *weight_out, REAL *gamma_out) {
    for (long c = 0; c < channels; c++) {
        const REAL *w = weight + c * taps;
        NAME(Channel) k = NAME(channel)(w, taps, mean, covariance, eps);
        double S = sums ? sums[taps * channels + c] : 0, t = 0, a = 0, b = 0, D[MOST_TAPS], Wc[MOST_TAPS], CW[MOST_TAPS];
        double r = k.r, r3 = r * r * r, scale = gamma ? gamma[c] : 1, g = G ? G[c] : 0, of_S = B ? B[c] : 0;
        for (int u = 0; u < taps; u++) {
            D[u] = sums ? sums[u * channels + c] - S * mean[u] : 0;
            Wc[u] = W ? W[c * taps + u] : 0;
            t += w[u] * D[u];
            a += Wc[u] * D[u];
            b += Wc[u] * k.v[u];
        }
        for (int u = 0; u < taps; u++) {
            CW[u] = 0;
            for (int l = 0; l < taps; l++) CW[u] += covariance[u * taps + l] * Wc[l];
        }
        double of_r = scale * a - 3 * scale * r * r * t * b + g * t;
        double of_t = g * r - scale * r3 * b; /* t = w.D depends on both */
        for (int u = 0; u < taps; u++) {
            double of_D = scale * r * Wc[u] + of_t * w[u];
            sums_out[u * channels + c] = (REAL)of_D;
            of_S -= of_D * mean[u];
            if (weight_out)
                weight_out[c * taps + u] = (REAL)(of_t * D[u] - scale * r3 * t * CW[u] - of_r * r3 * k.v[u]);
        }
        sums_out[taps * channels + c] = (REAL)of_S;
        if (gamma_out) gamma_out[c] = (REAL)(r * a - r3 * t * b);
    }
}
#undef MOST_TAPS
#undef TOGETHER
