/* Batch normalisation by the statistics of the batch, a rectifier (leaky by `slope`; 0: ReLU, 1: none) and max pooling, in
 * two passes over the image each way. Images are channels-last: `pixels` rows of `channels`, a multiple of VL.
 *
 * z = a x + b, a = w r, b = beta - a mu, r = 1 / sqrt(var + eps);  y = the largest max(z, 0) + slope min(z, 0) of each
 * window, which is that of the largest z.
 * `place` says which of a window's pixels it was, row by row from 0; the first of equals. NaN stays NaN throughout.
 * Sums over pixels are taken in short pieces and combined in double (Chan, Golub and LeVeque 1983).
 */

#define PIECE 128 /* pixels a partial sum runs over */

typedef struct {
    long n, h, w, channels, window; /* window 1: no pooling */
    REAL slope;
} NAME(Images);

/* mean and 1/sqrt(var + eps) of each channel of x (pixels, channels) */
static void NAME(statistics)(const REAL *x, long pixels, long channels, double eps, REAL *mean, REAL *scale) {
    for (long c = 0; c < channels; c += VL) {
        double centre[VL], spread[VL]; /* running mean, and sum of squares about it */
        memset(centre, 0, sizeof centre);
        memset(spread, 0, sizeof spread);
        for (long first = 0; first < pixels; first += PIECE) {
            long count = pixels - first < PIECE ? pixels - first : PIECE;
            const REAL *p = x + first * channels + c;
            const vec shift = NAME(load)(p); /* near the mean, so that squares do not cancel */
            vec sums[2] = {{0}, {0}}, squares[2] = {{0}, {0}};
            long i = 0;
            for (; i + 2 <= count; i += 2)
                UNROLL for (int u = 0; u < 2; u++) {
                    vec d = NAME(load)(p + (i + u) * channels) - shift;
                    sums[u] += d;
                    squares[u] += d * d;
                }
            for (; i < count; i++) {
                vec d = NAME(load)(p + i * channels) - shift;
                sums[0] += d;
                squares[0] += d * d;
            }
            vec sum = sums[0] + sums[1], square = squares[0] + squares[1];
            for (int l = 0; l < VL; l++) {
                double of_piece = (double)sum[l] / count, delta = shift[l] + of_piece - centre[l];
                double share = (double)count / (first + count);
                spread[l] += square[l] - of_piece * sum[l] + delta * delta * first * share;
                centre[l] += delta * share;
            }
        }
        for (int l = 0; l < VL; l++) {
            mean[c + l] = (REAL)centre[l];
            scale[c + l] = (REAL)(1 / sqrt(spread[l] / pixels + eps));
        }
    }
}

/* y and place from x and the line a x + b of each channel */
static void NAME(rectified_maxima)(const REAL *x, NAME(Images) s, const REAL *a, const REAL *b, REAL *y,
                                   uint8_t *place) {
    long down = s.h / s.window, across = s.w / s.window;
    for (long row = 0; row < s.n * down; row++) {
        long n = row / down, top = row % down * s.window;
        for (long q = 0; q < across; q++) {
            const REAL *corner = x + ((n * s.h + top) * s.w + q * s.window) * s.channels;
            long at = (row * across + q) * s.channels;
            for (long c = 0; c < s.channels; c += VL) {
                vec slope = NAME(load)(a + c), rest = NAME(load)(b + c);
                vec best = slope * NAME(load)(corner + c) + rest;
                if (s.window > 1) {
                    ivec where = {0};
                    for (int i = 0; i < s.window; i++)
                        for (int j = i == 0; j < s.window; j++) {
                            vec z = slope * NAME(load)(corner + (i * s.w + j) * s.channels + c) + rest;
                            ivec more = z > best;
                            best = NAME(where)(more, z, best);
                            where = (more & (INT)(i * s.window + j)) | (~more & where);
                        }
                    NAME(store_bytes)(place + at + c, where);
                }
                NAME(store)(y + at + c, NAME(rectify)(best, s.slope));
            }
        }
    }
}

/* The cotangent of z at pixel (i, j) of a window, which is that of y through the rectifier where y came from there. */
INLINE vec NAME(cotangent_at)(const REAL *y_bar, const REAL *y, const uint8_t *place, long at, int pixel,
                              const NAME(Images) *s) {
    vec g = NAME(rectified_cotangent)(NAME(load)(y + at), NAME(load)(y_bar + at), s->slope);
    if (s->window == 1) return g;
    return NAME(where)(NAME(load_bytes)(place + at) == (INT)pixel, g, NAME(zero)());
}

INLINE void NAME(add_lanes)(double *sums, vec v) {
    UNROLL for (int l = 0; l < VL; l++) sums[l] += v[l];
}

/* sum_g = sum of g, sum_gx = sum of g (x - mean) scale, over the pixels of each channel, g the cotangent of z */
static void NAME(sums_of_cotangent)(const REAL *y_bar, const REAL *y, const uint8_t *place, const REAL *x,
                                    NAME(Images) s, const REAL *mean, const REAL *scale, double *sum_g,
                                    double *sum_gx) {
    long down = s.h / s.window, across = s.w / s.window;
    memset(sum_g, 0, s.channels * sizeof(double));
    memset(sum_gx, 0, s.channels * sizeof(double));
    for (long row = 0; row < s.n * down; row++) {
        long n = row / down, top = row % down * s.window;
        for (long c = 0; c < s.channels; c += VL) {
            vec m = NAME(load)(mean + c), of_g = {0}, of_gx = {0};
            for (long q = 0; q < across; q++) {
                const REAL *corner = x + ((n * s.h + top) * s.w + q * s.window) * s.channels + c;
                long at = (row * across + q) * s.channels + c;
                vec g = NAME(rectified_cotangent)(NAME(load)(y + at), NAME(load)(y_bar + at), s.slope);
                vec there = NAME(load)(corner);
                if (s.window > 1) {
                    ivec where = NAME(load_bytes)(place + at);
                    for (int i = 0; i < s.window; i++)
                        for (int j = i == 0; j < s.window; j++)
                            there = NAME(where)(where == (INT)(i * s.window + j),
                                                NAME(load)(corner + (i * s.w + j) * s.channels), there);
                }
                of_g += g;
                of_gx += g * (there - m);
            }
            NAME(add_lanes)(sum_g + c, of_g);
            NAME(add_lanes)(sum_gx + c, of_gx);
        }
    }
    for (long c = 0; c < s.channels; c++) sum_gx[c] *= scale[c];
}

/* out = of_g g + of_v v + of_x x + rest at every pixel, g the cotangent of z, coefficients by channel; v may be NULL */
static void NAME(combine)(const REAL *y_bar, const REAL *y, const uint8_t *place, const REAL *v, const REAL *x,
                          NAME(Images) s, const REAL *of_g, const REAL *of_v, const REAL *of_x, const REAL *rest,
                          REAL *out) {
    long down = s.h / s.window, across = s.w / s.window;
    for (long row = 0; row < s.n * s.h; row++) {
        long n = row / s.h, top = row % s.h, p = top / s.window;
        int i = (int)(top % s.window);
        for (long w = 0; w < s.w; w++) {
            long q = w / s.window, pixel = (row * s.w + w) * s.channels;
            int j = (int)(w % s.window), inside = p < down && q < across;
            long at = ((n * down + p) * across + q) * s.channels;
            for (long c = 0; c < s.channels; c += VL) {
                vec z = NAME(load)(of_x + c) * NAME(load)(x + pixel + c) + NAME(load)(rest + c);
                if (v) z += NAME(load)(of_v + c) * NAME(load)(v + pixel + c);
                if (inside)
                    z += NAME(load)(of_g + c) *
                         NAME(cotangent_at)(y_bar, y, place, at + c, (int)(i * s.window + j), &s);
                NAME(store)(out + pixel + c, z);
            }
        }
    }
}

/* Forward: mean, scale, y and place. weight may be NULL for 1. scratch: 2 channels REALs. */
static void NAME(normalize)(const REAL *x, NAME(Images) s, const REAL *weight, const REAL *bias, double eps,
                            REAL *mean, REAL *scale, REAL *y, uint8_t *place, REAL *scratch) {
    REAL *a = scratch, *b = scratch + s.channels;
    NAME(statistics)(x, s.n * s.h * s.w, s.channels, eps, mean, scale);
    for (long c = 0; c < s.channels; c++) {
        a[c] = weight ? weight[c] * scale[c] : scale[c];
        b[c] = bias[c] - a[c] * mean[c];
    }
    NAME(rectified_maxima)(x, s, a, b, y, place);
}

/* Backward: x_bar = w r (g - <g> - xhat <g xhat>), sum_gx = sum g xhat (the gradient of w), sum_g (of beta).
 * scratch: 2 channels doubles and 3 channels REALs. */
static void NAME(normalize_backward)(const REAL *y_bar, const REAL *y, const uint8_t *place, const REAL *x,
                                     NAME(Images) s, const REAL *weight, const REAL *mean, const REAL *scale,
                                     REAL *x_bar, REAL *sum_gx, REAL *sum_g, double *scratch) {
    double *gx = scratch, *g = gx + s.channels, pixels = (double)(s.n * s.h * s.w);
    REAL *of_g = (REAL *)(g + s.channels), *of_x = of_g + s.channels, *rest = of_x + s.channels;
    NAME(sums_of_cotangent)(y_bar, y, place, x, s, mean, scale, g, gx);
    for (long c = 0; c < s.channels; c++) {
        double wr = weight ? (double)weight[c] * scale[c] : scale[c];
        double slope = -wr * gx[c] * scale[c] / pixels;
        of_g[c] = (REAL)wr;
        of_x[c] = (REAL)slope;
        rest[c] = (REAL)(-wr * g[c] / pixels - slope * mean[c]);
        sum_gx[c] = (REAL)gx[c];
        sum_g[c] = (REAL)g[c];
    }
    NAME(combine)(y_bar, y, place, NULL, x, s, of_g, NULL, of_x, rest, x_bar);
}

/* The gradient of normalize_backward, for cotangents X of x_bar (as x), W of sum_gx and B of sum_g (by channel;
 * NULL: zero). With P(h) = r (h - <h> - xhat <h xhat>):
 *   y_bar_bar = w P(X) + W xhat + B, where the cotangent of z came from
 *   x_out     = P(W g - w r (X <g xhat> + g <X xhat>)) - w r^2 a xhat / n,  w_out = r a,
 *   a         = sum X g - sum X sum g / n - sum X xhat sum g xhat / n
 * Each is a line in g, X and x with coefficients by channel. y_bar_bar is also y's tangent along (X, W, B) in place of
 * (x, w, b), and takes neither y_bar nor sums: NULL where nothing else is wanted.
 * scratch: 3 channels doubles and 8 channels REALs. */
static void NAME(normalize_double_backward)(const REAL *X, const REAL *W, const REAL *B, const REAL *y_bar,
                                          const REAL *y, const uint8_t *place, const REAL *x, NAME(Images) s,
                                          const REAL *weight, const REAL *mean, const REAL *scale, const REAL *sum_gx,
                                          const REAL *sum_g, REAL *y_bar_out, REAL *x_out, REAL *w_out,
                                          double *scratch) {
    long down = s.h / s.window, across = s.w / s.window, channels = s.channels;
    double *sum_X = scratch, *sum_Xx = sum_X + channels, *sum_Xg = sum_Xx + channels, n = (double)(s.n * s.h * s.w);
    REAL *of_X = (REAL *)(sum_Xg + channels), *of_x = of_X + channels, *rest = of_x + channels;
    REAL *then_g = rest + channels, *then_X = then_g + channels, *then_x = then_X + channels,
         *then_rest = then_x + channels;
    memset(sum_X, 0, 3 * channels * sizeof(double));
    for (long row = 0; row < s.n * s.h; row++)
        for (long c = 0; c < channels; c += VL) {
            vec m = NAME(load)(mean + c), of_sum = {0}, of_product = {0};
            for (long w = 0; w < s.w; w++) {
                long pixel = (row * s.w + w) * channels + c;
                vec v = NAME(load)(X + pixel);
                of_sum += v;
                of_product += v * (NAME(load)(x + pixel) - m);
            }
            NAME(add_lanes)(sum_X + c, of_sum);
            NAME(add_lanes)(sum_Xx + c, of_product);
        }
    for (long row = 0; y_bar && row < s.n * down; row++)
        for (long c = 0; c < channels; c += VL) {
            long top = row % down * s.window;
            vec of_product = {0};
            for (long q = 0; q < across; q++) {
                long corner = ((row / down * s.h + top) * s.w + q * s.window) * channels + c;
                long at = (row * across + q) * channels + c;
                vec there = NAME(load)(X + corner);
                if (s.window > 1) {
                    ivec where = NAME(load_bytes)(place + at);
                    for (int i = 0; i < s.window; i++)
                        for (int j = i == 0; j < s.window; j++)
                            there = NAME(where)(where == (INT)(i * s.window + j),
                                                NAME(load)(X + corner + (i * s.w + j) * channels), there);
                }
                of_product += NAME(rectified_cotangent)(NAME(load)(y + at), NAME(load)(y_bar + at), s.slope) * there;
            }
            NAME(add_lanes)(sum_Xg + c, of_product);
        }
    for (long c = 0; c < channels; c++) {
        double r = scale[c], wr = weight ? weight[c] * r : r, mu = mean[c];
        double g = sum_g ? sum_g[c] : 0, gx = sum_gx ? sum_gx[c] : 0;
        double Wc = W ? W[c] : 0, Bc = B ? B[c] : 0, Xx = sum_Xx[c] * r;
        double a = sum_Xg[c] - (sum_X[c] * g + Xx * gx) / n;
        double slope = (Wc - wr * Xx / n) * r;
        of_X[c] = (REAL)wr;
        of_x[c] = (REAL)slope;
        rest[c] = (REAL)(Bc - wr * sum_X[c] / n - slope * mu);
        double g_part = Wc - wr * Xx / n, X_part = -wr * gx / n;
        double x_part = -(g_part * gx + X_part * Xx + wr * a) * r * r / n;
        then_g[c] = (REAL)(g_part * r);
        then_X[c] = (REAL)(X_part * r);
        then_x[c] = (REAL)x_part;
        then_rest[c] = (REAL)(-(g_part * g + X_part * sum_X[c]) * r / n - x_part * mu);
        if (w_out) w_out[c] = (REAL)(r * a);
    }
    if (x_out) NAME(combine)(y_bar, y, place, X, x, s, then_g, then_X, then_x, then_rest, x_out);
    if (!y_bar_out) return;
    for (long row = 0; row < s.n * down; row++)
        for (long q = 0; q < across; q++) {
            long top = row % down * s.window;
            long corner = ((row / down * s.h + top) * s.w + q * s.window) * channels;
            long base = (row * across + q) * channels;
            for (long c = 0; c < channels; c += VL) {
                long at = base + c;
                vec X_there = NAME(load)(X + corner + c), x_there = NAME(load)(x + corner + c);
                if (s.window > 1) {
                    ivec where = NAME(load_bytes)(place + at);
                    for (int i = 0; i < s.window; i++)
                        for (int j = i == 0; j < s.window; j++) {
                            ivec here = where == (INT)(i * s.window + j);
                            long pixel = corner + (i * s.w + j) * channels + c;
                            X_there = NAME(where)(here, NAME(load)(X + pixel), X_there);
                            x_there = NAME(where)(here, NAME(load)(x + pixel), x_there);
                        }
                }
                vec out = NAME(load)(of_X + c) * X_there + NAME(load)(of_x + c) * x_there + NAME(load)(rest + c);
                NAME(store)(y_bar_out + at, NAME(rectified_cotangent)(NAME(load)(y + at), out, s.slope));
            }
        }
}

/* --- kernels ---------------------------------------------------------------------------------------------------- */

INLINE NAME(Images) NAME(images_of)(const NeoBlock *b) {
    return (NAME(Images)){b->n, b->down, b->across, b->outputs, b->window, (REAL)b->slope};
}

static int NAME(norm)(const NeoBlock *b) {
    REAL *scratch = scratch_take(2 * b->outputs * sizeof(REAL));
    if (scratch == NULL) return -1;
    NAME(normalize)(b->z, NAME(images_of)(b), b->gamma, b->beta, b->eps, b->mean, b->scale, b->y, b->place, scratch);
    return 0;
}

static int NAME(norm_backward)(const NeoBlock *b) {
    double *scratch = scratch_take(b->outputs * (2 * sizeof(double) + 3 * sizeof(REAL)));
    if (scratch == NULL) return -1;
    NAME(normalize_backward)(b->y_bar, b->y, b->place, b->z, NAME(images_of)(b), b->gamma, b->mean, b->scale, b->z_total,
                             b->gamma_bar, b->beta_bar, scratch);
    return 0;
}

static int NAME(norm_double_backward)(const NeoBlock *b) {
    double *scratch = scratch_take(b->outputs * (3 * sizeof(double) + 8 * sizeof(REAL)));
    if (scratch == NULL) return -1;
    NAME(normalize_double_backward)(b->Z, b->G, b->B, b->y_bar, b->y, b->place, b->z, NAME(images_of)(b), b->gamma, b->mean,
                                    b->scale, b->gamma_bar, b->beta_bar, b->y_bar_out, b->z_out, b->gamma_out, scratch);
    return 0;
}
#undef PIECE
