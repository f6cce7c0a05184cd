/* Convolutions in groups of few channels, depthwise ones above all (groups of one), by their definition: vectors of
 * channels, sums in registers, the taps that fall on the border's zeros left out. What a convolution, its gradients and
 * theirs consist of are three products of this kind (groups.h).
 *
 * The taps of a block of channels are first laid out so that they can be loaded as vectors; in groups wider than one a
 * vector of channels holds whole groups, and the channel that a product takes from each group is spread over it. A panel's
 * rows are the same pixel of several images, or pixels side by side, that have the same taps. A sum over taps has the order
 * of the taps, one over pixels an order that the sizes say: bits do not depend on how the pieces were shared between threads.
 */
#define BLOCK_VECTORS 2 /* of channels at a time */
#define CHAIN 128       /* of float32 one after the other; as in matrix_product.h */
#define NEAR (24 << 10) /* bytes of x and of g that stay in the first cache while all taps are gone through */

/* The widths of a group for which there are bodies: those that fill a vector. */
#if VL >= 16
#define FOR_WIDTHS(F) F(1) F(2) F(4) F(8) F(16)
#elif VL >= 8
#define FOR_WIDTHS(F) F(1) F(2) F(4) F(8)
#elif VL >= 4
#define FOR_WIDTHS(F) F(1) F(2) F(4)
#else
#define FOR_WIDTHS(F) F(1) F(2)
#endif

/* x[g * width + d] in the place of every x[g * width + ...] */
INLINE vec NAME(spread_in_groups)(vec x, const int width, const int d) {
    if (width == 1) return x;
    ivec from;
    UNROLL for (int l = 0; l < VL; l++) from[l] = l / width * width + d;
    return __builtin_shuffle(x, from);
}

/* Blocks of channels: of BLOCK_VECTORS vectors as far as that goes, and a last one that overlaps the one before, which
 * belongs to the same piece. */
INLINE int NAME(block_width)(const NeoGroups *p) { return p->channels >= BLOCK_VECTORS * VL ? BLOCK_VECTORS : 1; }
static long NAME(block_pieces)(const NeoGroups *p) { return p->channels / (NAME(block_width)(p) * VL); }
INLINE long NAME(blocks_of_piece)(const NeoGroups *p, long piece) {
    const long channels = NAME(block_width)(p) * VL;
    return piece == NAME(block_pieces)(p) - 1 && p->channels % channels ? 2 : 1;
}
INLINE long NAME(start_of_block)(const NeoGroups *p, long piece, long block) {
    return block == 0 ? piece * NAME(block_width)(p) * VL : p->channels - NAME(block_width)(p) * VL;
}

/* --- images: y from x, x's gradient from y's ------------------------------------------------------------------- */

/* The taps of a pixel, rows and columns, and how far one is from the next: in the image and in the block's taps. */
typedef struct {
    long rows, columns, row_step, column_step, row_taps, column_taps;
} NAME(GroupTaps);

/* out[r * out_step + ...] = start + sum over taps of from[r * from_step + tap ...] taps[tap ...], in groups. */
INLINE void NAME(group_panel)(const int rows, const int vectors, const int width, const NAME(GroupTaps) *t,
                              const REAL *from, long from_step, const REAL *taps, const REAL *start, REAL *out,
                              long out_step) {
    vec sum[ROWS][BLOCK_VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = start ? NAME(load)(start + v * VL) : NAME(zero)();
    for (long i = 0; i < t->rows; i++) {
        const REAL *x = from + i * t->row_step, *w = taps + i * t->row_taps;
        for (long j = 0; j < t->columns; j++, x += t->column_step, w += t->column_taps)
            UNROLL for (int d = 0; d < width; d++)
                UNROLL for (int v = 0; v < vectors; v++) {
                    const vec tap = NAME(load)(w + (d * vectors + v) * VL);
                    UNROLL for (int r = 0; r < rows; r++)
                        sum[r][v] += NAME(spread_in_groups)(NAME(load)(x + r * from_step + v * VL), width, d) * tap;
                }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) NAME(store)(out + r * out_step + v * VL, sum[r][v]);
}

#define PANEL(R, V, W) NAME(group_panel)(R, V, W, t, from, from_step, taps, start, out, out_step)
#define FOR_WIDTH(W)                                                                                                  \
    ALONE void NAME(group_panel_##W)(int rows, int vectors, const NAME(GroupTaps) *t, const REAL *from,               \
                                     long from_step, const REAL *taps, const REAL *start, REAL *out, long out_step) { \
        if (vectors == 2) FOR_ROWS(2, PANEL_##W)                                                                      \
        else FOR_ROWS(1, PANEL_##W)                                                                                   \
    }
#define PANEL_1(R, V) PANEL(R, V, 1)
#define PANEL_2(R, V) PANEL(R, V, 2)
#define PANEL_4(R, V) PANEL(R, V, 4)
#define PANEL_8(R, V) PANEL(R, V, 8)
#define PANEL_16(R, V) PANEL(R, V, 16)
FOR_WIDTHS(FOR_WIDTH)
#undef FOR_WIDTH

static void NAME(group_panels)(int width, int rows, int vectors, const NAME(GroupTaps) *t, const REAL *from,
                               long from_step, const REAL *taps, const REAL *start, REAL *out, long out_step) {
#define FOR_WIDTH(W)                                                                              \
    if (width == W) {                                                                             \
        NAME(group_panel_##W)(rows, vectors, t, from, from_step, taps, start, out, out_step);     \
        return;                                                                                   \
    }
    FOR_WIDTHS(FOR_WIDTH)
#undef FOR_WIDTH
}

/* taps[tap][d][channel of the block]: what the d-th channel of its group in the other image is multiplied with. Of those
 * that no pixel meets nothing is read or written. */
static void NAME(taps_of_block)(const NeoGroups *p, int back, long start, long channels, const GroupAxis *rows,
                                const GroupAxis *columns, REAL *taps) {
    const long *step = p->weight_strides;
    for (long l = 0; l < channels; l++)
        for (long d = 0; d < p->width; d++) {
            const long c = start + l, other = c / p->width * p->width + d;
            const REAL *w = (const REAL *)p->weight + (back ? other * step[0] + c % p->width * step[1] : c * step[0] + d * step[1]);
            for (long i = rows->first_tap; i < rows->last_tap; i++)
                for (long j = columns->first_tap; j < columns->last_tap; j++)
                    taps[((i * p->columns.taps + j) * p->width + d) * channels + l] = w[i * step[2] + j * step[3]];
        }
}

/* Parts of the images that a piece takes: those whose pixels make the rows of its panels, or one. */
INLINE int NAME(by_images)(const NeoGroups *p) { return p->n >= ROWS - 2; }
INLINE long NAME(image_parts)(const NeoGroups *p) { return NAME(by_images)(p) ? (p->n + ROWS - 1) / ROWS : p->n; }
static long NAME(group_image_pieces)(const NeoGroups *p) { return NAME(block_pieces)(p) * NAME(image_parts)(p); }

static int NAME(group_images)(const NeoGroups *p, int back, long first_piece, long last_piece) {
    const int vectors = NAME(block_width)(p), by_images = NAME(by_images)(p);
    const long parts = NAME(image_parts)(p), channels = vectors * VL, all = p->channels;
    const long size = p->rows.taps * p->columns.taps * p->width * channels;
    const long pixels = back ? p->rows.in + p->columns.in : p->rows.out + p->columns.out;
    REAL *taps = scratch_take(size * sizeof(REAL) + pixels * sizeof(GroupPixel));
    if (taps == NULL) return -1;
    GroupPixel *room = (GroupPixel *)(taps + size);
    const GroupAxis rows = group_axis(&p->rows, back, room), columns = group_axis(&p->columns, back, room + rows.pixels);
    const long from_image = rows.sources * columns.sources * all, out_image = rows.pixels * columns.pixels * all;
    const REAL *from = back ? p->g : p->x;
    long in_taps = -1; /* the block whose taps they are */
    for (long piece = first_piece; piece < last_piece; piece++)
        for (long block = 0; block < NAME(blocks_of_piece)(p, piece / parts); block++) {
            const long c = NAME(start_of_block)(p, piece / parts, block), image = p->n * (piece % parts) / parts;
            const int images = (int)(p->n * (piece % parts + 1) / parts - image);
            const REAL *start = back || p->bias == NULL ? NULL : (const REAL *)p->bias + c;
            if (c != in_taps) NAME(taps_of_block)(p, back, c, channels, &rows, &columns, taps);
            in_taps = c;
            for (long a = 0; a < rows.pixels; a++)
                for (long phase = 0; phase < (by_images ? 1 : columns.same_step); phase++)
                    for (long b = phase, count = 1; b < columns.pixels; b += count * (by_images ? 1 : columns.same_step)) {
                        const GroupPixel i = rows.at[a], j = columns.at[b];
                        const NAME(GroupTaps) t = {
                            i.count, j.count, rows.source_step * columns.sources * all, columns.source_step * all,
                            rows.tap_step * p->columns.taps * p->width * channels, columns.tap_step * p->width * channels};
                        if (!by_images) count = group_run(&columns, b, ROWS);
                        NAME(group_panels)((int)p->width, by_images ? images : (int)count, vectors, &t,
                                           from + image * from_image + (i.source * columns.sources + j.source) * all + c,
                                           by_images ? from_image : columns.shift * all,
                                           taps + (i.tap * p->columns.taps + j.tap) * p->width * channels, start,
                                           (REAL *)p->out + image * out_image + (a * columns.pixels + b) * all + c,
                                           by_images ? out_image : columns.same_step * all);
                    }
        }
    return 0;
}

static int NAME(group_convolve)(const NeoGroups *p, long first, long last) { return NAME(group_images)(p, 0, first, last); }
static int NAME(group_input_gradient)(const NeoGroups *p, long first, long last) {
    return NAME(group_images)(p, 1, first, last);
}

/* --- the weight's gradient -------------------------------------------------------------------------------------- */

/* Pixels of g, and of x what some rows of taps take at each: how far they are from one another. */
typedef struct {
    long images, pixels, g_image, g_step, x_image, x_step, x_row;
} NAME(GroupPixels);

/* sums[r * sums_step + ...] += sum over pixels of g times what the row r of taps takes of x, in groups */
INLINE void NAME(group_correlation)(const int rows, const int vectors, const int width, const NAME(GroupPixels) *s,
                                    const REAL *g, const REAL *x, REAL *sums, long sums_step, long sums_width) {
    vec sum[ROWS * WIDE];
#define SUM(r, d, v) sum[((r) * width + (d)) * vectors + (v)]
    UNROLL for (int i = 0; i < rows * width * vectors; i++) sum[i] = NAME(zero)();
    for (long n = 0; n < s->images; n++, g += s->g_image, x += s->x_image) {
        const REAL *gq = g, *xq = x;
        for (long q = 0; q < s->pixels; q++, gq += s->g_step, xq += s->x_step) {
            vec of_g[BLOCK_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) of_g[v] = NAME(load)(gq + v * VL);
            UNROLL for (int r = 0; r < rows; r++)
                UNROLL for (int v = 0; v < vectors; v++) {
                    const vec of_x = NAME(load)(xq + r * s->x_row + v * VL);
                    UNROLL for (int d = 0; d < width; d++)
                        SUM(r, d, v) += of_g[v] * NAME(spread_in_groups)(of_x, width, d);
                }
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int d = 0; d < width; d++)
            UNROLL for (int v = 0; v < vectors; v++) {
                REAL *at = sums + r * sums_step + d * sums_width + v * VL;
                NAME(store)(at, NAME(load)(at) + SUM(r, d, v));
            }
#undef SUM
}

/* As many rows of taps and vectors as leave the sums in registers: of depthwise ones several rows, of wider ones one row. */
#define CORRELATION(R, V, W) NAME(group_correlation)(R, V, W, s, g, x, sums, sums_step, sums_width)
#define CORRELATION_1(R, V) CORRELATION(R, V, 1)
static void NAME(group_correlations)(int width, int rows, int vectors, const NAME(GroupPixels) *s, const REAL *g,
                                     const REAL *x, REAL *sums, long sums_step) {
    const long sums_width = vectors * VL;
    if (width == 1) {
        if (vectors == 2) FOR_ROWS(2, CORRELATION_1)
        else FOR_ROWS(1, CORRELATION_1)
        return;
    }
    for (int r = 0; r < rows; r++, x += s->x_row, sums += sums_step) {
#define FOR_WIDTH(W)                                                                  \
    if (width == W) {                                                                 \
        if (vectors == 2 && 2 * W <= ROWS * WIDE - 8) {                               \
            CORRELATION(1, 2, W);                                                     \
        } else {                                                                      \
            CORRELATION(1, 1, W);                                                     \
            if (vectors == 2) {                                                       \
                g += VL, x += VL, sums += VL;                                         \
                CORRELATION(1, 1, W);                                                 \
                g -= VL, x -= VL, sums -= VL;                                         \
            }                                                                         \
        }                                                                             \
    }
        FOR_WIDTHS(FOR_WIDTH)
#undef FOR_WIDTH
    }
}

static long NAME(group_weight_pieces)(const NeoGroups *p) { return NAME(block_pieces)(p); }

/* sums[tap][d][channel of the block], over all pixels */
static void NAME(sums_of_block)(const NeoGroups *p, long start, int vectors, const GroupAxis *rows, REAL *sums) {
    const long all = p->channels, channels = vectors * VL, down = p->rows.out, across = p->columns.out;
    const long stride = p->columns.stride, x_row = p->columns.in * all, x_image = p->rows.in * x_row;
    const long bytes = (p->rows.in * p->columns.in + down * across) * channels * (long)sizeof(REAL);
    const long step = p->width * channels, few = across < 16 ? 16 / across : 1, most = across < CHAIN ? CHAIN / across : 1;
    long images = NEAR / bytes > few ? NEAR / bytes : few;
    if (images > most) images = most;
    memset(sums, 0, p->rows.taps * p->columns.taps * step * sizeof(REAL));
    for (long image = 0; image < p->n; image += images)
        for (long a = 0; a < down; a++)
            for (long j = 0; j < p->columns.taps; j++) {
                const long offset = j * p->columns.dilation - p->columns.padding; /* q * stride + offset must be inside */
                const long begin = offset < 0 ? (stride - 1 - offset) / stride : 0;
                const long inside = p->columns.in - 1 < offset ? 0 : (p->columns.in - 1 - offset) / stride + 1;
                const long end = inside < across ? inside : across;
                for (long q = begin; q < end; q += CHAIN) {
                    const GroupPixel i = rows->at[a];
                    const int parts = (i.count + ROWS - 1) / ROWS;
                    const NAME(GroupPixels) s = {image + images < p->n ? images : p->n - image, q + CHAIN < end ? CHAIN : end - q,
                                                 down * across * all, all, x_image, stride * all, p->rows.dilation * x_row};
                    const REAL *g = (const REAL *)p->g + ((image * down + a) * across + q) * all + start;
                    const REAL *x = (const REAL *)p->x + image * x_image + i.source * x_row + (q * stride + offset) * all + start;
                    for (int part = 0; part < parts; part++) {
                        const int first = i.count * part / parts, last = i.count * (part + 1) / parts;
                        NAME(group_correlations)((int)p->width, last - first, vectors, &s, g, x + first * s.x_row,
                                                 sums + ((i.tap + first) * p->columns.taps + j) * step, p->columns.taps * step);
                    }
                }
            }
}

static int NAME(group_weight_gradient)(const NeoGroups *p, long first_piece, long last_piece) {
    const int vectors = NAME(block_width)(p);
    const long channels = vectors * VL, taps = p->rows.taps * p->columns.taps, size = taps * p->width * channels;
    REAL *sums = scratch_take(size * sizeof(REAL) + p->rows.out * sizeof(GroupPixel));
    if (sums == NULL) return -1;
    const GroupAxis rows = group_axis(&p->rows, 0, (GroupPixel *)(sums + size));
    for (long piece = first_piece; piece < last_piece; piece++)
        for (long block = 0; block < NAME(blocks_of_piece)(p, piece); block++) {
            const long start = NAME(start_of_block)(p, piece, block);
            REAL *out = (REAL *)p->out + start * p->width * taps;
            NAME(sums_of_block)(p, start, vectors, &rows, sums);
            for (long l = 0; l < channels; l++)
                for (long d = 0; d < p->width; d++)
                    for (long tap = 0; tap < taps; tap++) *out++ = sums[(tap * p->width + d) * channels + l];
        }
    return 0;
}
#undef CORRELATION
#undef CORRELATION_1
#undef PANEL
#undef PANEL_1
#undef PANEL_2
#undef PANEL_4
#undef PANEL_8
#undef PANEL_16
#undef FOR_WIDTHS
#undef NEAR
#undef CHAIN
#undef BLOCK_VECTORS
