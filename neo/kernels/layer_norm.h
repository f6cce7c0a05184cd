/* The second order of layer norm, row by row: sums over a row in one pass, what is made of them in another.
 *
 * neo/functions/layer_normalization.py has the formulas: with P(h) = r (h - <h> - n <h n>), n the normalised row, r its
 * scale, h = w g and a = <X h> - <X> <h> - <X n> <h n>,
 * g_out = w P(X) + W n + B,  x_out = P(W g - r (X <h n> + h <X n>)) - r^2 a n,  w_out = sum over rows of g P(X). */

/* One entry of each at a time; VL of them where the columns fill vectors. */
#define AT(p, c) ((p) == NULL ? (REAL)0 : (p)[c])
#define VECTOR_AT(p, c) ((p) == NULL ? NAME(zero)() : NAME(load)((p) + (c)))

static void NAME(layer_norm_pieces)(const NeoLayerNorm *norm, long first, long last) {
    enum { OF_X, OF_X_N, OF_H, OF_H_N, OF_X_H, OF_V, OF_V_N, ROW_SUMS }; /* v = W g */
    const long columns = norm->columns, whole = columns / VL * VL;
    const REAL *X = norm->X, *W = norm->W, *B = norm->B, *g = norm->g, *x = norm->x, *weight = norm->weight;
    REAL *g_out = norm->g_out, *x_out = norm->x_out;
    for (long piece = first; piece < last; piece++) {
        REAL *w_out = norm->w_out == NULL ? NULL : (REAL *)norm->w_out + piece * columns;
        const long end = (piece + 1) * NEO_PIECE < norm->rows ? (piece + 1) * NEO_PIECE : norm->rows;
        if (w_out != NULL) memset(w_out, 0, columns * sizeof(REAL));
        for (long row = piece * NEO_PIECE; row < end; row++) {
            const long start = row * columns;
            const REAL *Xr = X == NULL ? NULL : X + start, *gr = g == NULL ? NULL : g + start, *xr = x + start;
            const REAL mean = ((const REAL *)norm->mean)[row], r = ((const REAL *)norm->scale)[row];
            REAL sums[ROW_SUMS];
            vec sum[ROW_SUMS];
            UNROLL for (int s = 0; s < ROW_SUMS; s++) sum[s] = NAME(zero)();
            for (long c = 0; c < whole; c += VL) {
                const vec n = (NAME(load)(xr + c) - mean) * r, of_X = VECTOR_AT(Xr, c), of_g = VECTOR_AT(gr, c);
                const vec h = weight == NULL ? of_g : of_g * NAME(load)(weight + c), v = VECTOR_AT(W, c) * of_g;
                sum[OF_X] += of_X, sum[OF_X_N] += of_X * n, sum[OF_H] += h, sum[OF_H_N] += h * n;
                sum[OF_X_H] += of_X * h, sum[OF_V] += v, sum[OF_V_N] += v * n;
            }
            UNROLL for (int s = 0; s < ROW_SUMS; s++) sums[s] = NAME(sum_of_vector)(sum[s]);
            for (long c = whole; c < columns; c++) {
                const REAL n = (xr[c] - mean) * r, of_X = AT(Xr, c), of_g = AT(gr, c);
                const REAL h = weight == NULL ? of_g : of_g * weight[c], v = AT(W, c) * of_g;
                sums[OF_X] += of_X, sums[OF_X_N] += of_X * n, sums[OF_H] += h, sums[OF_H_N] += h * n;
                sums[OF_X_H] += of_X * h, sums[OF_V] += v, sums[OF_V_N] += v * n;
            }
            for (int s = 0; s < ROW_SUMS; s++) sums[s] /= columns;
            const REAL hn = sums[OF_H_N], Xn = sums[OF_X_N];
            const REAL bent = r * r * (sums[OF_X_H] - sums[OF_X] * sums[OF_H] - Xn * hn);
            /* of k = v - r (X <h n> + h <X n>) */
            const REAL k_mean = sums[OF_V] - r * (sums[OF_X] * hn + sums[OF_H] * Xn);
            const REAL k_n = sums[OF_V_N] - 2 * r * Xn * hn;
#define ENTRIES(TYPE, c, READ, READ_X, WRITE)                                                                   \
    {                                                                                                           \
        const TYPE n = (READ_X(xr, c) - mean) * r, of_X = READ(Xr, c), of_g = READ(gr, c), of_W = READ(W, c);   \
        const TYPE P_X = (of_X - sums[OF_X] - n * Xn) * r;                                                      \
        if (g_out != NULL)                                                                                      \
            WRITE(g_out + start, c, (weight == NULL ? P_X : P_X * READ_X(weight, c)) + of_W * n + READ(B, c));  \
        if (x_out != NULL) {                                                                                    \
            const TYPE h = weight == NULL ? of_g : of_g * READ_X(weight, c);                                    \
            const TYPE k = of_W * of_g - (of_X * hn + h * Xn) * r;                                              \
            WRITE(x_out + start, c, (k - k_mean - n * k_n) * r - n * bent);                                     \
        }                                                                                                       \
        if (w_out != NULL) WRITE(w_out, c, READ_X(w_out, c) + of_g * P_X);                                      \
    }
#define LOAD_VECTOR(p, c) NAME(load)((p) + (c))
#define STORE_VECTOR(p, c, v) NAME(store)((p) + (c), v)
#define LOAD_ONE(p, c) (p)[c]
#define STORE_ONE(p, c, v) (p)[c] = (v)
            for (long c = 0; c < whole; c += VL) ENTRIES(vec, c, VECTOR_AT, LOAD_VECTOR, STORE_VECTOR)
            for (long c = whole; c < columns; c++) ENTRIES(REAL, c, AT, LOAD_ONE, STORE_ONE)
#undef LOAD_VECTOR
#undef STORE_VECTOR
#undef LOAD_ONE
#undef STORE_ONE
#undef ENTRIES
        }
    }
}
#undef AT
#undef VECTOR_AT
