/* 3x3 convolution, stride 1, padding 1, by F(4x4, 3x3): 36 products for 16 pixels, where the definition takes 144.
 *
 * Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308. y = A'[(G w G') * (B' x B)]A for each 6x6 tile x, 4x4 tile y.
 * The points are 0, +-3/4, +-3/2 and infinity instead of Lavin's 0, +-1, +-2: exact in binary as they are, and half
 * the rounding error (0.7e-6 of the result for 64 channels, where the definition, summed in order, has 0.3e-6).
 *
 * The gradient of x is the convolution of the gradient of y with w turned round. The gradient of w is the same
 * algorithm transposed: G'[sum over tiles of (A y A') * (B' x B)]G.
 *
 * Images are channels-last, (n, h, w, channels); channels are a multiple of VL.
 */

#define P1 ((REAL)0.75)
#define P2 ((REAL)1.5)

/* B': 6 -> 6 */
INLINE void NAME(wino_data)(const vec *d, long s, vec *o, long t) {
    const vec a2 = NAME(splat)(P1 * P1), b2 = NAME(splat)(P2 * P2);
    vec even1 = d[4 * s] - b2 * d[2 * s], odd1 = P1 * (d[3 * s] - b2 * d[1 * s]);
    vec even2 = d[4 * s] - a2 * d[2 * s], odd2 = P2 * (d[3 * s] - a2 * d[1 * s]);
    o[0 * t] = a2 * b2 * d[0] + (d[4 * s] - (a2 + b2) * d[2 * s]);
    o[1 * t] = even1 + odd1;
    o[2 * t] = even1 - odd1;
    o[3 * t] = even2 + odd2;
    o[4 * t] = even2 - odd2;
    o[5 * t] = a2 * b2 * d[1 * s] + (d[5 * s] - (a2 + b2) * d[3 * s]);
}

/* A': 6 -> 4 */
INLINE void NAME(wino_output)(const vec *m, long s, vec *o, long t) {
    vec s1 = m[1 * s] + m[2 * s], d1 = m[1 * s] - m[2 * s], s2 = m[3 * s] + m[4 * s], d2 = m[3 * s] - m[4 * s];
    o[0 * t] = m[0] + s1 + s2;
    o[1 * t] = P1 * d1 + P2 * d2;
    o[2 * t] = P1 * P1 * s1 + P2 * P2 * s2;
    o[3 * t] = P1 * P1 * P1 * d1 + P2 * P2 * P2 * d2 + m[5 * s];
}

/* A: 4 -> 6 */
INLINE void NAME(wino_cotangent)(const vec *g, long s, vec *o, long t) {
    vec even1 = g[0] + P1 * P1 * g[2 * s], odd1 = P1 * g[1 * s] + P1 * P1 * P1 * g[3 * s];
    vec even2 = g[0] + P2 * P2 * g[2 * s], odd2 = P2 * g[1 * s] + P2 * P2 * P2 * g[3 * s];
    o[0 * t] = g[0];
    o[1 * t] = even1 + odd1;
    o[2 * t] = even1 - odd1;
    o[3 * t] = even2 + odd2;
    o[4 * t] = even2 - odd2;
    o[5 * t] = g[3 * s];
}

/* G: 3 -> 6; a row is (1, p, p^2) over the derivative at p of x (x^2 - P1^2)(x^2 - P2^2) */
#define N0 (1 / (P1 * P1 * P2 * P2))
#define N1 (1 / (2 * P1 * P1 * (P1 * P1 - P2 * P2)))
#define N2 (1 / (2 * P2 * P2 * (P2 * P2 - P1 * P1)))
INLINE void NAME(wino_weight)(const vec *w, long s, vec *o, long t) {
    vec even1 = N1 * (w[0] + P1 * P1 * w[2 * s]), odd1 = N1 * P1 * w[1 * s];
    vec even2 = N2 * (w[0] + P2 * P2 * w[2 * s]), odd2 = N2 * P2 * w[1 * s];
    o[0 * t] = N0 * w[0];
    o[1 * t] = even1 + odd1;
    o[2 * t] = even1 - odd1;
    o[3 * t] = even2 + odd2;
    o[4 * t] = even2 - odd2;
    o[5 * t] = w[2 * s];
}

/* G': 6 -> 3 */
INLINE void NAME(wino_weight_back)(const vec *m, long s, vec *o, long t) {
    vec s1 = m[1 * s] + m[2 * s], d1 = m[1 * s] - m[2 * s], s2 = m[3 * s] + m[4 * s], d2 = m[3 * s] - m[4 * s];
    o[0 * t] = N0 * m[0] + N1 * s1 + N2 * s2;
    o[1 * t] = N1 * P1 * d1 + N2 * P2 * d2;
    o[2 * t] = N1 * P1 * P1 * s1 + N2 * P2 * P2 * s2 + m[5 * s];
}

typedef struct {
    long n, h, w, across, tiles;
} NAME(Tiling);

INLINE NAME(Tiling) NAME(tiling)(long n, long h, long w) {
    long across = (w + 3) / 4;
    return (NAME(Tiling)){n, h, w, across, n * ((h + 3) / 4) * across};
}

/* where tile `index` begins: image, row, column */
INLINE void NAME(tile_at)(const NAME(Tiling) *z, long index, long *n, long *row, long *column) {
    long each = ((z->h + 3) / 4) * z->across;
    *n = index / each;
    *row = (index % each) / z->across * 4;
    *column = index % z->across * 4;
}

/* B' x B of `count` tiles from `first` on: out[point][tile][channel] */
static void NAME(wino_data_of_tiles)(const REAL *x, const NAME(Tiling) *z, long channels, long first, long count,
                                     REAL *out) {
    for (long t = 0; t < count; t++) {
        long n, row, column;
        NAME(tile_at)(z, first + t, &n, &row, &column);
        const REAL *image = x + n * z->h * z->w * channels;
        for (long c = 0; c < channels; c += VL) {
            vec d[36], half[36], full[6];
            for (int i = 0; i < 6; i++) {
                long h = row + i - 1;
                int in = h >= 0 && h < z->h;
                for (int j = 0; j < 6; j++) {
                    long w = column + j - 1;
                    d[6 * i + j] = in && w >= 0 && w < z->w ? NAME(load)(image + (h * z->w + w) * channels + c)
                                                            : NAME(zero)();
                }
            }
            UNROLL for (int j = 0; j < 6; j++) NAME(wino_data)(d + j, 6, half + j, 6);
            UNROLL for (int i = 0; i < 6; i++) {
                NAME(wino_data)(half + 6 * i, 1, full, 1);
                UNROLL for (int j = 0; j < 6; j++)
                    NAME(store)(out + ((6 * i + j) * TILES + t) * channels + c, full[j]);
            }
        }
    }
}

/* A g A' of `count` tiles from `first` on: out[point][tile][channel] */
static void NAME(wino_cotangent_of_tiles)(const REAL *g, const NAME(Tiling) *z, long channels, long first, long count,
                                          REAL *out) {
    for (long t = 0; t < count; t++) {
        long n, row, column;
        NAME(tile_at)(z, first + t, &n, &row, &column);
        const REAL *image = g + n * z->h * z->w * channels;
        for (long c = 0; c < channels; c += VL) {
            vec d[16], half[24], full[6];
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    long h = row + i, w = column + j;
                    d[4 * i + j] = h < z->h && w < z->w ? NAME(load)(image + (h * z->w + w) * channels + c)
                                                        : NAME(zero)();
                }
            UNROLL for (int j = 0; j < 4; j++) NAME(wino_cotangent)(d + j, 4, half + j, 4);
            UNROLL for (int i = 0; i < 6; i++) {
                NAME(wino_cotangent)(half + 4 * i, 1, full, 1);
                UNROLL for (int j = 0; j < 6; j++)
                    NAME(store)(out + ((6 * i + j) * TILES + t) * channels + c, full[j]);
            }
        }
    }
}

/* A' m A of `count` tiles, plus bias, into the pixels of y that exist */
static void NAME(wino_output_of_tiles)(const REAL *m, const NAME(Tiling) *z, long channels, long first, long count,
                                       const REAL *bias, REAL *y) {
    for (long t = 0; t < count; t++) {
        long n, row, column;
        NAME(tile_at)(z, first + t, &n, &row, &column);
        REAL *image = y + n * z->h * z->w * channels;
        for (long c = 0; c < channels; c += VL) {
            vec d[36], half[24], full[4];
            vec b = bias ? NAME(load)(bias + c) : NAME(zero)();
            UNROLL for (int p = 0; p < 36; p++) d[p] = NAME(load)(m + (p * TILES + t) * channels + c);
            UNROLL for (int j = 0; j < 6; j++) NAME(wino_output)(d + j, 6, half + j, 6);
            UNROLL for (int i = 0; i < 4; i++) {
                NAME(wino_output)(half + 6 * i, 1, full, 1);
                if (row + i < z->h)
                    UNROLL for (int j = 0; j < 4; j++)
                        if (column + j < z->w)
                            NAME(store)(image + ((row + i) * z->w + column + j) * channels + c, full[j] + b);
            }
        }
    }
}

/* G w G' for every pair of channels, from taps[tap][input][output]: out[point][input][output] */
static void NAME(wino_weights)(const REAL *taps, long inputs, long outputs, REAL *out) {
    long pairs = inputs * outputs;
    for (long at = 0; at < pairs; at += VL) {
        vec w[9], half[18], full[6];
        UNROLL for (int tap = 0; tap < 9; tap++) w[tap] = NAME(load)(taps + tap * pairs + at);
        UNROLL for (int j = 0; j < 3; j++) NAME(wino_weight)(w + j, 3, half + j, 3);
        UNROLL for (int i = 0; i < 6; i++) {
            NAME(wino_weight)(half + 3 * i, 1, full, 1);
            UNROLL for (int j = 0; j < 6; j++) NAME(store)(out + (6 * i + j) * pairs + at, full[j]);
        }
    }
}

/* y (n, h, w, outputs) = x (n, h, w, inputs) convolved with taps[tap][input][output], plus bias (NULL: none).
 * Scratch: WINO_SCRATCH REALs. */
static void NAME(wino_convolution)(const REAL *x, long n, long h, long w, long inputs, const REAL *taps, long outputs,
                                   const REAL *bias, REAL *y, REAL *scratch) {
    NAME(Tiling) z = NAME(tiling)(n, h, w);
    REAL *weights = scratch, *data = weights + 36 * inputs * outputs, *sums = data + 36 * TILES * inputs;
    NAME(wino_weights)(taps, inputs, outputs, weights);
    for (long first = 0; first < z.tiles; first += TILES) {
        long count = z.tiles - first < TILES ? z.tiles - first : TILES;
        NAME(wino_data_of_tiles)(x, &z, inputs, first, count, data);
        for (int p = 0; p < 36; p++)
            for (long t = 0; t < count; t += ROWS) {
                int rows = count - t < ROWS ? (int)(count - t) : ROWS;
                const REAL *left[ROWS], *right = weights + p * inputs * outputs;
                REAL *out[ROWS];
                for (int r = 0; r < rows; r++) {
                    left[r] = data + (p * TILES + t + r) * inputs;
                    out[r] = sums + (p * TILES + t + r) * outputs;
                }
                NAME(rows_times)(rows, 1, left, &right, outputs, (int)inputs, NULL, out, outputs);
            }
        NAME(wino_output_of_tiles)(sums, &z, outputs, first, count, bias, y);
    }
}

/* out (outputs, 3, 3, inputs) = the gradient of the weights, from x (n, h, w, inputs) and g (n, h, w, outputs).
 * Scratch: WINO_SCRATCH REALs. */
ALONE void NAME(wino_weight_gradient)(const REAL *x, const REAL *g, long n, long h, long w, long inputs, long outputs,
                                      REAL *out, REAL *scratch) {
    NAME(Tiling) z = NAME(tiling)(n, h, w);
    REAL *sums = scratch, *data = sums + 36 * inputs * outputs, *bars = data + 36 * TILES * inputs;
    memset(sums, 0, 36 * inputs * outputs * sizeof(REAL));
    for (long first = 0; first < z.tiles; first += TILES) {
        long count = z.tiles - first < TILES ? z.tiles - first : TILES;
        NAME(wino_data_of_tiles)(x, &z, inputs, first, count, data);
        NAME(wino_cotangent_of_tiles)(g, &z, outputs, first, count, bars);
        for (int p = 0; p < 36; p++) {
            const REAL *left[TILES], *right[TILES];
            for (long t = 0; t < count; t++) {
                left[t] = bars + (p * TILES + t) * outputs;
                right[t] = data + (p * TILES + t) * inputs;
            }
            NAME(add_outer)((int)count, left, right, (int)outputs, inputs, sums + p * inputs * outputs, inputs);
        }
    }
    for (long k = 0; k < outputs; k++)
        for (long c = 0; c < inputs; c += VL) {
            vec m[36], half[18], full[3];
            UNROLL for (int p = 0; p < 36; p++) m[p] = NAME(load)(sums + (p * outputs + k) * inputs + c);
            UNROLL for (int j = 0; j < 6; j++) NAME(wino_weight_back)(m + j, 6, half + j, 6);
            UNROLL for (int i = 0; i < 3; i++) {
                NAME(wino_weight_back)(half + 6 * i, 1, full, 1);
                UNROLL for (int j = 0; j < 3; j++)
                    NAME(store)(out + ((k * 9) + 3 * i + j) * inputs + c, full[j]);
            }
        }
}
#undef N0
#undef N1
#undef N2
#undef P1
#undef P2
