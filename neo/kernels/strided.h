/* 3x3 convolution of stride 2, padding 1, by its definition: pixels times weights, tap by tap, sums in registers.
 *
 * y[p, q] = sum over i, j of w[i, j] x[2p + i - 1, 2q + j - 1]. The rows of a panel are the same pixel of ROWS images,
 * which share the taps that fall inside; nothing is copied into patches, and nothing multiplied with the border's
 * zeros, which on images of 7x7 are a third. Images are channels-last, channels a multiple of VL. Many images take
 * fewer products by points.h.
 */


/* y (n, (h+1)/2, (w+1)/2, outputs), from x (n, h, w, inputs) and taps[tap][input][output]. */
static void NAME(strided_convolution)(const REAL *x, long n, long h, long w, long inputs, const REAL *taps,
                                      long outputs, const REAL *bias, REAL *y) {
    long down = (h + 1) / 2, across = (w + 1) / 2;
    for (long first = 0; first < n; first += ROWS) {
        int rows = n - first < ROWS ? (int)(n - first) : ROWS;
        for (long p = 0; p < down; p++)
            for (long q = 0; q < across; q++) {
                const REAL *left[9 * ROWS], *right[9];
                REAL *out[ROWS];
                int count = 0;
                for (int tap = 0; tap < 9; tap++) {
                    long a = 2 * p + tap / 3 - 1, b = 2 * q + tap % 3 - 1;
                    if (a < 0 || a >= h || b < 0 || b >= w) continue;
                    for (int r = 0; r < rows; r++)
                        left[count * rows + r] = x + (((first + r) * h + a) * w + b) * inputs;
                    right[count++] = taps + tap * inputs * outputs;
                }
                for (int r = 0; r < rows; r++) out[r] = y + (((first + r) * down + p) * across + q) * outputs;
                NAME(rows_times)(rows, count, left, right, outputs, (int)inputs, bias, out, outputs);
            }
    }
}

/* x (n, h, w, inputs) = the gradient of the input, from g (n, (h+1)/2, (w+1)/2, outputs) and weight (outputs, 3, 3,
 * inputs): x[a, b] = sum of w[i, j] g[p, q] over a = 2p + i - 1, b = 2q + j - 1. */
static void NAME(strided_input_gradient)(const REAL *g, long n, long h, long w, long inputs, const REAL *weight,
                                         long outputs, REAL *x) {
    long down = (h + 1) / 2, across = (w + 1) / 2;
    for (long first = 0; first < n; first += ROWS) {
        int rows = n - first < ROWS ? (int)(n - first) : ROWS;
        for (long a = 0; a < h; a++)
            for (long b = 0; b < w; b++) {
                const REAL *left[4 * ROWS], *right[4];
                REAL *out[ROWS];
                int count = 0;
                for (int tap = 0; tap < 9; tap++) {
                    long p = a + 1 - tap / 3, q = b + 1 - tap % 3; /* twice p and q */
                    if (p % 2 || q % 2 || p / 2 >= down || q / 2 >= across) continue;
                    for (int r = 0; r < rows; r++)
                        left[count * rows + r] = g + (((first + r) * down + p / 2) * across + q / 2) * outputs;
                    right[count++] = weight + tap * inputs;
                }
                for (int r = 0; r < rows; r++) out[r] = x + (((first + r) * h + a) * w + b) * inputs;
                NAME(rows_times)(rows, count, left, right, 9 * inputs, (int)outputs, NULL, out, inputs);
            }
    }
}

#define PIXELS 64 /* of x and of g at a time: both stay in the first cache for all panels of the weights */

/* out (outputs, 3, 3, inputs) = the gradient of the weights, from x (n, h, w, inputs) and
 * g (n, (h+1)/2, (w+1)/2, outputs). */
static void NAME(strided_weight_gradient)(const REAL *x, const REAL *g, long n, long h, long w, long inputs,
                                          long outputs, REAL *out) {
    long down = (h + 1) / 2, across = (w + 1) / 2, pixels = n * down * across;
    memset(out, 0, 9 * inputs * outputs * sizeof(REAL));
    for (long first = 0; first < pixels; first += PIXELS) {
        long end = first + PIXELS < pixels ? first + PIXELS : pixels;
        for (int tap = 0; tap < 9; tap++) {
            const REAL *left[PIXELS], *right[PIXELS];
            int count = 0;
            for (long pixel = first; pixel < end; pixel++) {
                long a = 2 * (pixel / across % down) + tap / 3 - 1, b = 2 * (pixel % across) + tap % 3 - 1;
                if (a < 0 || a >= h || b < 0 || b >= w) continue;
                left[count] = g + pixel * outputs;
                right[count++] = x + ((pixel / (down * across) * h + a) * w + b) * inputs;
            }
            NAME(add_outer)(count, left, right, (int)outputs, inputs, out + tap * inputs, 9 * inputs);
        }
    }
}
#undef PIXELS
