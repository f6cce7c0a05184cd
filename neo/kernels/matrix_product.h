/* Products of matrices of any layout (matrix.h): panels of the right side, copied where a core finds them at once,
 * times ROWS rows of the left side at a time, sums in registers.
 *
 * The order of each sum is that of its terms and of their number, whatever part of the output is asked for: its bits do
 * not depend on how the output was shared between threads. */
#define TERMS 512 /* of each sum at a time: a panel of float32 takes 128 KiB, an eighth to a half of a second cache */
#define CHAIN 128 /* one after the other onto one number; then a new one begins, or float32 would lose a digit */

/* panel[d][c] = right[d, at + c] for d from first on; zeros from `columns` on. */
static void NAME(copy_panel)(const NeoProduct *p, long at, long columns, long first, long terms, REAL *panel) {
    const long width = (columns + VL - 1) / VL * VL;
    const REAL *right = (const REAL *)p->right + at * p->right_column + first * p->right_term;
    if (p->right_column == 1) {
        for (long d = 0; d < terms; d++) {
            const REAL *from = right + d * p->right_term;
            REAL *to = panel + d * width;
            for (long c = 0; c < columns; c++) to[c] = from[c];
            for (long c = columns; c < width; c++) to[c] = 0;
        }
        return;
    }
    long whole = p->right_term == 1 ? terms / VL * VL : 0;
    for (long c = 0; c < columns; c += VL)
        for (long d = 0; d < whole; d += VL) {
            vec block[VL];
            UNROLL for (int l = 0; l < VL; l++)
                block[l] = c + l < columns ? NAME(load)(right + (c + l) * p->right_column + d) : NAME(zero)();
            NAME(transpose)(block);
            UNROLL for (int l = 0; l < VL; l++) NAME(store)(panel + (d + l) * width + c, block[l]);
        }
    for (long d = whole; d < terms; d++)
        for (long c = 0; c < width; c++)
            panel[d * width + c] = c < columns ? right[c * p->right_column + d * p->right_term] : 0;
}

/* sums[r][...] = sum over d of left[r * row + d * term] panel[d][...] */
INLINE void NAME(rows_times_panel)(const int rows, const int wide, const REAL *left, long row, long term,
                                   const REAL *panel, long terms, REAL *sums) {
    for (long first = 0; first < terms; first += CHAIN) {
        const long last = first + CHAIN < terms ? first + CHAIN : terms;
        vec sum[ROWS][WIDE];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int v = 0; v < wide; v++) sum[r][v] = NAME(zero)();
        for (long d = first; d < last; d++, left += term, panel += wide * VL) {
            vec w[WIDE];
            UNROLL for (int v = 0; v < wide; v++) w[v] = NAME(load)(panel + v * VL);
            UNROLL for (int r = 0; r < rows; r++) {
                vec x = NAME(splat)(left[r * row]);
                UNROLL for (int v = 0; v < wide; v++) sum[r][v] += x * w[v];
            }
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int v = 0; v < wide; v++) {
                REAL *p = sums + (r * wide + v) * VL;
                NAME(store)(p, first == 0 ? sum[r][v] : NAME(load)(p) + sum[r][v]);
            }
    }
}

/* The sums of a panel to their places in the output: onto the bias at first, later onto the sums before. */
static void NAME(place_sums)(const NeoProduct *p, long row, int rows, long at, long columns, const REAL *sums, int later) {
    const long width = (columns + VL - 1) / VL * VL;
    REAL *out = (REAL *)p->out + row * p->out_row + at * p->out_column;
    const REAL *onto = out;
    long onto_row = p->out_row, onto_column = p->out_column;
    if (!later) {
        onto = p->bias == NULL ? NULL : (const REAL *)p->bias + row * p->bias_row + at * p->bias_column;
        onto_row = p->bias_row, onto_column = p->bias_column;
    }
    if (p->out_column == 1) {
        for (int r = 0; r < rows; r++, out += p->out_row, sums += width) {
            const REAL *from = onto + r * onto_row;
            if (onto == NULL)
                for (long c = 0; c < columns; c++) out[c] = sums[c];
            else if (onto_column == 1)
                for (long c = 0; c < columns; c++) out[c] = from[c] + sums[c];
            else
                for (long c = 0; c < columns; c++) out[c] = *from + sums[c];
        }
        return;
    }
    for (long c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++)
            out[c * p->out_column + r * p->out_row] =
                (onto == NULL ? 0 : onto[c * onto_column + r * onto_row]) + sums[r * width + c];
}

static int NAME(product_rows)(const NeoProduct *p, long first_row, long last_row) {
    REAL *panel = scratch_take((TERMS * WIDE * VL + ROWS * WIDE * VL) * sizeof(REAL));
    if (panel == NULL) return -1;
    REAL *sums = panel + TERMS * WIDE * VL;
    const long parts = (p->terms + TERMS - 1) / TERMS;
    for (long at = 0; at < p->columns; at += WIDE * VL) {
        const long columns = p->columns - at < WIDE * VL ? p->columns - at : WIDE * VL;
        const int wide = (int)((columns + VL - 1) / VL);
        for (long part = 0; part < parts; part++) {
            const long first = p->terms * part / parts, terms = p->terms * (part + 1) / parts - first;
            NAME(copy_panel)(p, at, columns, first, terms, panel);
            for (long row = first_row; row < last_row; row += ROWS) {
                const int rows = last_row - row < ROWS ? (int)(last_row - row) : ROWS;
                const REAL *left = (const REAL *)p->left + row * p->left_row + first * p->left_term;
#define CALL(R, V) NAME(rows_times_panel)(R, V, left, p->left_row, p->left_term, panel, terms, sums)
                FOR_PANELS(CALL)
#undef CALL
                NAME(place_sums)(p, row, rows, at, columns, sums, part > 0);
            }
        }
    }
    return 0;
}
#undef CHAIN
#undef TERMS
