/* Products of small panels, kept in registers: ROWS x WIDE vectors of sums, each entry of the left side spread over a
 * vector and multiplied with WIDE vectors of the right side. All convolutions here end in one of these two. */

/* out[r][...] = start + sum over taps t and depth d of left[t * rows + r][d] * right[t][d * stride + ...]:
 * a convolution's pixels (rows) times its weights, tap by tap; or with one tap a plain matrix product. */
INLINE void NAME(rows_by_panel)(const int rows, const int wide, int taps, const REAL *const *left,
                                const REAL *const *right, long stride, int depth, const REAL *start,
                                REAL *const *out, long at) {
    vec sum[ROWS][WIDE];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < wide; v++) sum[r][v] = start ? NAME(load)(start + at + v * VL) : NAME(zero)();
    for (int t = 0; t < taps; t++) {
        const REAL *b = right[t] + at;
        const REAL *a[ROWS];
        UNROLL for (int r = 0; r < rows; r++) a[r] = left[t * rows + r];
        for (int d = 0; d < depth; d++, b += stride) {
            vec w[WIDE];
            UNROLL for (int v = 0; v < wide; v++) w[v] = NAME(load)(b + v * VL);
            UNROLL for (int r = 0; r < rows; r++) {
                vec x = NAME(splat)(a[r][d]);
                UNROLL for (int v = 0; v < wide; v++) sum[r][v] += x * w[v];
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < wide; v++) NAME(store)(out[r] + at + v * VL, sum[r][v]);
}

/* out[r * stride + ...] += sum over i of left[i][k + r] * right[i][c + ...]: a gradient of weights over pixels. */
INLINE void NAME(sum_of_outer)(const int rows, const int wide, int count, const REAL *const *left,
                               const REAL *const *right, long k, long c, REAL *out, long stride) {
    vec sum[ROWS][WIDE];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < wide; v++) sum[r][v] = NAME(zero)();
    for (int i = 0; i < count; i++) {
        const REAL *a = left[i] + k, *b = right[i] + c;
        vec w[WIDE];
        UNROLL for (int v = 0; v < wide; v++) w[v] = NAME(load)(b + v * VL);
        UNROLL for (int r = 0; r < rows; r++) {
            vec x = NAME(splat)(a[r]);
            UNROLL for (int v = 0; v < wide; v++) sum[r][v] += x * w[v];
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < wide; v++) {
            REAL *p = out + r * stride + v * VL;
            NAME(store)(p, NAME(load)(p) + sum[r][v]);
        }
}

/* The compiler makes one body for each size of panel. */
#define FOR_ROWS(wide, CALL)                                                                                          \
    switch (rows) {                                                                                                   \
    case 1: CALL(1, wide); break;                                                                                     \
    case 2: CALL(2, wide); break;                                                                                     \
    case 3: CALL(3, wide); break;                                                                                     \
    case 4: CALL(4, wide); break;                                                                                     \
    case 5: CALL(5, wide); break;                                                                                     \
    default: CALL(6, wide); break;                                                                                    \
    }
#if WIDE == 4
#define FOR_PANELS(CALL)                                                                                              \
    if (wide == 4) FOR_ROWS(4, CALL)                                                                                  \
    else if (wide == 3) FOR_ROWS(3, CALL)                                                                             \
    else if (wide == 2) FOR_ROWS(2, CALL)                                                                             \
    else FOR_ROWS(1, CALL)
#else
#define FOR_PANELS(CALL)                                                                                              \
    if (wide == 2) FOR_ROWS(2, CALL)                                                                                  \
    else FOR_ROWS(1, CALL)
#endif

/* rows_by_panel over all `columns` of the right side, a multiple of VL; rows is at most ROWS. */
static void NAME(rows_times)(int rows, int taps, const REAL *const *left, const REAL *const *right, long stride,
                             int depth, const REAL *start, REAL *const *out, long columns) {
    for (long at = 0; at < columns; at += WIDE * VL) {
        int wide = columns - at < WIDE * VL ? (int)(columns - at) / VL : WIDE;
#define CALL(R, V) NAME(rows_by_panel)(R, V, taps, left, right, stride, depth, start, out, at)
        FOR_PANELS(CALL)
#undef CALL
    }
}

/* out (heads, columns) += sum over i of left[i] (heads,) outer right[i] (columns,). */
static void NAME(add_outer)(int count, const REAL *const *left, const REAL *const *right, int heads, long columns,
                            REAL *out, long stride) {
    for (long c = 0; c < columns; c += WIDE * VL) {
        int wide = columns - c < WIDE * VL ? (int)(columns - c) / VL : WIDE;
        for (int k = 0; k < heads; k += ROWS) {
            int rows = heads - k < ROWS ? heads - k : ROWS;
#define CALL(R, V) NAME(sum_of_outer)(R, V, count, left, right, k, c, out + k * stride + c, stride)
            FOR_PANELS(CALL)
#undef CALL
        }
    }
}
