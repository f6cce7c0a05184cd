/* 3x3 convolution of stride 2, padding 1, in fewer products than its definition takes (strided.h).
 *
 * Along one axis, y[p] = w[0] x[2p - 1] + w[1] x[2p] + w[2] x[2p + 1]. The middle tap meets the even pixels alone; the
 * outer two are a convolution of two taps with the odd ones, of which Winograd's F(3, 2) gives three outputs for four
 * products ("Arithmetic Complexity of Computations", 1980). Both are sums over points,
 *     y = sum over points r of out[r] (kind[r] w) (in[r] x),     in, out: a few entries each,
 * 16 points in place of 20 products for 14 pixels, 8 for 10 for 7; and the square of that for images. At a pair of
 * points, a matrix product takes all images and channels. The gradients are the same sum, read from the other sides.
 *
 * The taps of a point are of one of five kinds (kernels.h). Weights are thus taken to 25 pairs of kinds, not to all pairs
 * of points, and a product has for its rows all points of one kind. Images come a few at a time, so that they and the
 * weights stay in the second cache. */
#define MOST_POINTS 96           /* of an axis */
#define CHUNK_BYTES (512 * 1024) /* of the images on both sides, at a time */

typedef struct {
    int count, at[3];
    REAL by[3];
} NAME(Terms);

#define TERMS1(a, x) ((NAME(Terms)){1, {a}, {x}})
#define TERMS2(a, x, b, y) ((NAME(Terms)){2, {a, b}, {x, y}})
#define TERMS3(a, x, b, y, c, z) ((NAME(Terms)){3, {a, b, c}, {x, y, z}})

/* Which of the three taps a kind consists of. */
INLINE NAME(Terms) NAME(taps_of_kind)(int kind) {
    switch (kind) {
    case SUM: return TERMS2(0, 1, 2, 1);
    case DIFFERENCE: return TERMS2(0, 1, 2, -1);
    default: return TERMS1(kind, 1);
    }
}

typedef struct {
    int points, products; /* products: as many as the definition takes */
    int start[KINDS + 1]; /* points of a kind lie from start[kind] to start[kind + 1] */
    NAME(Terms) in[MOST_POINTS], out[MOST_POINTS];
} NAME(Axis);

typedef struct {
    int kind;
    NAME(Terms) in, out;
} NAME(Point);

/* Points in the order of their kinds. */
static void NAME(sort_points)(NAME(Axis) *axis, const NAME(Point) *given, int count) {
    axis->points = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        axis->start[kind] = axis->points;
        for (int i = 0; i < count; i++)
            if (given[i].kind == kind) {
                axis->in[axis->points] = given[i].in;
                axis->out[axis->points++] = given[i].out;
            }
    }
    axis->start[KINDS] = axis->points;
}

/* The points of an axis of `size` pixels; -1 for one of too many. */
static int NAME(axis_of)(NAME(Axis) *axis, int size) {
    const int down = (size + 1) / 2;
    NAME(Point) points[MOST_POINTS];
    int count = 0;
#define POINT(kind, in, out) points[count++] = (NAME(Point)){kind, in, out}
    axis->products = 3 * down - 1 - size % 2; /* without those of the border */
    if (7 * down / 3 + 4 > MOST_POINTS) return -1;
    for (int p = 0; p < down; p++) POINT(MIDDLE, TERMS1(2 * p, 1), TERMS1(p, 1));
    if (size == 7) { /* both ends meet the border: the product of two polynomials, at 0, 1, -1 and infinity */
        POINT(LAST, TERMS1(1, 1), TERMS2(0, 1, 2, -1));
        POINT(SUM, TERMS3(1, 1, 3, 1, 5, 1), TERMS2(1, .5, 2, .5));
        POINT(DIFFERENCE, TERMS3(1, 1, 3, -1, 5, 1), TERMS2(1, .5, 2, -.5));
        POINT(FIRST, TERMS1(5, 1), TERMS2(3, 1, 1, -1));
        NAME(sort_points)(axis, points, count);
        return 0;
    }
    const int end = down - size % 2; /* the first output, and of odd sizes the last, meet the border: one product each */
    if (size > 1) POINT(LAST, TERMS1(1, 1), TERMS1(0, 1));
    if (size > 1 && size % 2) POINT(FIRST, TERMS1(2 * end - 1, 1), TERMS1(end, 1));
    for (int p = 1; p < end; p += 3) {
        const int s = 2 * p - 1; /* the first odd pixel; then s + 2, ... */
        if (end - p >= 3) {
            POINT(FIRST, TERMS2(s, 1, s + 4, -1), TERMS1(p, 1));
            POINT(SUM, TERMS2(s + 2, .5, s + 4, .5), TERMS3(p, 1, p + 1, 1, p + 2, 1));
            POINT(DIFFERENCE, TERMS2(s + 4, .5, s + 2, -.5), TERMS3(p, 1, p + 1, -1, p + 2, 1));
            POINT(LAST, TERMS2(s + 6, 1, s + 2, -1), TERMS1(p + 2, 1));
        } else if (end - p == 2) {
            POINT(FIRST, TERMS2(s, 1, s + 2, -1), TERMS1(p, 1));
            POINT(SUM, TERMS1(s + 2, 1), TERMS2(p, 1, p + 1, 1));
            POINT(LAST, TERMS2(s + 4, 1, s + 2, -1), TERMS1(p + 1, 1));
        } else {
            POINT(FIRST, TERMS1(s, 1), TERMS1(p, 1));
            POINT(LAST, TERMS1(s + 2, 1), TERMS1(p, 1));
        }
    }
#undef POINT
    NAME(sort_points)(axis, points, count);
    return 0;
}
#undef TERMS1
#undef TERMS2
#undef TERMS3

/* Whether this way is faster than the definition for n images of (h, w), whose axes it then fills in. */
static int NAME(worth_points)(long n, long h, long w, NAME(Axis) *rows, NAME(Axis) *columns) {
    if (h > 2 * MOST_POINTS || w > 2 * MOST_POINTS) return 0;
    if (NAME(axis_of)(rows, (int)h) || NAME(axis_of)(columns, (int)w)) return 0;
    const long products = rows->products * columns->products, saved = products - rows->points * columns->points;
    return 5 * saved >= products && n * saved >= 200; /* once a call the weights are taken to their kinds */
}

/* to = sum over terms of by * from[at], of `length` entries each; and so n times, at these distances from each other */
INLINE void NAME(combine_terms)(const NAME(Terms) *t, long length, long n, const REAL *from, long from_stride, REAL *to,
                                long to_stride) {
    const vec x = NAME(splat)(t->by[0]), y = NAME(splat)(t->by[1]), z = NAME(splat)(t->by[2]);
    const long second = (t->at[1] - t->at[0]) * length, third = (t->at[2] - t->at[0]) * length;
    from += t->at[0] * length;
#define EACH(SUM_OF_TERMS)                                                                                            \
    for (long i = 0; i < n; i++)                                                                                      \
        for (long c = 0; c < length; c += VL) {                                                                       \
            const REAL *p = from + i * from_stride + c;                                                               \
            NAME(store)(to + i * to_stride + c, SUM_OF_TERMS);                                                        \
        }
    switch (t->count) {
    case 1: EACH(x * NAME(load)(p)) break;
    case 2: EACH(x * NAME(load)(p) + y * NAME(load)(p + second)) break;
    default: EACH(x * NAME(load)(p) + y * NAME(load)(p + second) + z * NAME(load)(p + third))
    }
#undef EACH
}

/* to[at] += by * from for each term, of `length` entries each */
INLINE void NAME(add_terms)(const NAME(Terms) *t, const REAL *from, long length, REAL *to) {
    for (int k = 0; k < t->count; k++) {
        REAL *p = to + t->at[k] * length;
        const vec by = NAME(splat)(t->by[k]);
        for (long i = 0; i < length; i += VL) NAME(store)(p + i, NAME(load)(p + i) + by * NAME(load)(from + i));
    }
}

INLINE int NAME(is_one)(const NAME(Terms) *t) { return t->count == 1 && t->by[0] == 1; }

/* Images on one side of a convolution, and the terms that take them to points, or back. */
typedef struct {
    long h, w, channels;
    const NAME(Terms) *rows, *columns;
} NAME(Side);

/* The channels of each image at one pair of points: `stride` entries from image to image. */
typedef struct {
    const REAL *start;
    long stride;
} NAME(Images_at);

/* n images at one point of the rows and all of the columns. A point that is a pixel is read where it lies. */
static void NAME(to_points)(const REAL *x, const NAME(Side) *side, long n, const NAME(Terms) *row, int points, REAL *lines,
                            REAL *made, NAME(Images_at) *at) {
    const long channels = side->channels, line = side->w * channels, image = side->h * line;
    const int whole = NAME(is_one)(row);
    const REAL *from = whole ? x + row->at[0] * line : lines;
    const long stride = whole ? image : line;
    for (int r = 0; r < points; r++)
        at[r] = NAME(is_one)(&side->columns[r]) ? (NAME(Images_at)){from + side->columns[r].at[0] * channels, stride}
                                                : (NAME(Images_at)){made + r * n * channels, channels};
    if (!whole) NAME(combine_terms)(row, line, n, x, image, lines, line);
    for (int r = 0; r < points; r++)
        if (!NAME(is_one)(&side->columns[r]))
            NAME(combine_terms)(&side->columns[r], channels, n, from, stride, made + r * n * channels, channels);
}

#define MOST_SOURCES 6 /* points that a pixel takes from */

/* The same terms by pixel: which points it takes from. */
typedef struct {
    int count, at[MOST_SOURCES];
    REAL by[MOST_SOURCES];
} NAME(Sources);

static void NAME(sources_of)(const NAME(Terms) *columns, int points, NAME(Sources) *sources, long width) {
    for (long q = 0; q < width; q++) sources[q].count = 0;
    for (int r = 0; r < points; r++)
        for (int k = 0; k < columns[r].count; k++) {
            NAME(Sources) *source = &sources[columns[r].at[k]];
            source->at[source->count] = r;
            source->by[source->count++] = columns[r].by[k];
        }
}

/* The channels of a pixel: x[row's terms] += what it takes from `count` points */
INLINE void NAME(from_sources)(const int count, const NAME(Sources) *source, const REAL *sums, long stride, long channels,
                               const NAME(Terms) *row, long width, REAL *x) {
    for (long c = 0; c < channels; c += VL) {
        vec total = NAME(zero)();
        UNROLL for (int k = 0; k < count; k++)
            total += NAME(splat)(source->by[k]) * NAME(load)(sums + source->at[k] * stride + c);
        for (int k = 0; k < row->count; k++) {
            REAL *p = x + row->at[k] * width + c;
            NAME(store)(p, NAME(load)(p) + NAME(splat)(row->by[k]) * total);
        }
    }
}

/* x += what comes of one point of the rows: sums[column's point][image] (channels), of n images */
static void NAME(from_points)(const REAL *sums, const NAME(Side) *side, long n, const NAME(Terms) *row,
                              const NAME(Sources) *sources, REAL *x) {
    const long channels = side->channels, width = side->w * channels;
    for (long q = 0; q < side->w; q++)
        for (long i = 0; i < n; i++) {
#define CALL(COUNT)                                                                                                   \
    NAME(from_sources)(COUNT, &sources[q], sums + i * channels, n * channels, channels, row, width,                   \
                       x + i * side->h * width + q * channels)
            switch (sources[q].count) {
            case 1: CALL(1); break;
            case 2: CALL(2); break;
            case 3: CALL(3); break;
            case 4: CALL(4); break;
            default: CALL(sources[q].count);
            }
#undef CALL
        }
}

static int NAME(kind_of)(const NAME(Axis) *axis, int point) {
    int kind = 0;
    while (axis->start[kind + 1] <= point) kind++;
    return kind;
}

/* Images at a time, of n. */
static long NAME(chunk_of)(long n, const NAME(Side) *a, const NAME(Side) *b) {
    const long image = (a->h * a->w * a->channels + b->h * b->w * b->channels) * sizeof(REAL);
    const long most = CHUNK_BYTES / image < ROWS ? ROWS : CHUNK_BYTES / image;
    const long parts = (n + most - 1) / most;
    return ((n + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
}

/* Weights, or sums of their gradients, of each pair of kinds; `size` entries each. Those of single taps are the taps. */
typedef REAL *NAME(Kinds)[KINDS][KINDS];
#define KINDS_SIZE (KINDS * KINDS - 9)

static void NAME(lay_out)(REAL *taps, REAL *scratch, long size, NAME(Kinds) kinds) {
    REAL *beside = scratch + 3 * (KINDS - SUM) * size;
    for (int a = 0; a < KINDS; a++) {
        REAL *row = a < SUM ? taps + 3 * a * size : scratch + 3 * (a - SUM) * size;
        for (int b = 0; b < KINDS; b++)
            if (b < SUM)
                kinds[a][b] = row + b * size;
            else
                kinds[a][b] = beside, beside += size;
    }
}

/* Entries of scratch that the two functions below need. */
static size_t NAME(points_scratch)(long n, const NAME(Side) *a, const NAME(Side) *b, int points) {
    const long pixels = points + (a->w > b->w ? a->w : b->w);
    return KINDS_SIZE * a->channels * b->channels +
           pixels * NAME(chunk_of)(n, a, b) * (a->channels + b->channels);
}

/* y = start + the convolution's sum, from x at its points (`from`) to y (`to`); taps[tap][channel of x][channel of y].
 * Swapped, and with the taps so turned, it is the gradient of the image. */
static void NAME(convolve_at_points)(const REAL *x, const NAME(Side) *from, REAL *taps, const REAL *start, REAL *y,
                                     const NAME(Side) *to, long n, const NAME(Axis) *rows, const NAME(Axis) *columns,
                                     REAL *scratch) {
    const long size = from->channels * to->channels, chunk = NAME(chunk_of)(n, from, to);
    const long image = from->h * from->w * from->channels, pixels = to->h * to->w;
    const int points = columns->points;
    REAL *sums = scratch + KINDS_SIZE * size, *made = sums + points * chunk * to->channels;
    REAL *lines = made + points * chunk * from->channels;
    NAME(Sources) sources[2 * MOST_POINTS];
    NAME(sources_of)(to->columns, points, sources, to->w);
    NAME(Kinds) weights;
    NAME(lay_out)(taps, scratch, size, weights);
    for (int a = SUM; a < KINDS; a++) {
        const NAME(Terms) row = NAME(taps_of_kind)(a);
        NAME(combine_terms)(&row, 3 * size, 1, taps, 0, weights[a][0], 0);
    }
    for (int a = 0; a < KINDS; a++)
        for (int b = SUM; b < KINDS; b++) {
            const NAME(Terms) column = NAME(taps_of_kind)(b);
            NAME(combine_terms)(&column, size, 1, weights[a][0], 0, weights[a][b], 0);
        }
    for (long first = 0; first < n; first += chunk, x += chunk * image, y += chunk * pixels * to->channels) {
        const long count = n - first < chunk ? n - first : chunk;
        if (start)
            for (long i = 0; i < count * pixels; i++)
                memcpy(y + i * to->channels, start, to->channels * sizeof(REAL));
        else
            memset(y, 0, count * pixels * to->channels * sizeof(REAL));
        for (int p = 0; p < rows->points; p++) {
            const int a = NAME(kind_of)(rows, p);
            NAME(Images_at) at[MOST_POINTS];
            NAME(to_points)(x, from, count, &from->rows[p], points, lines, made, at);
            for (int b = 0; b < KINDS; b++) {
                const REAL *images[ROWS], *right = weights[a][b];
                REAL *out[ROWS];
                int ready = 0;
                for (int r = columns->start[b]; r < columns->start[b + 1]; r++)
                    for (long i = 0; i < count; i++) {
                        images[ready] = at[r].start + i * at[r].stride;
                        out[ready++] = sums + (r * count + i) * to->channels;
                        if (ready < ROWS && (i + 1 < count || r + 1 < columns->start[b + 1])) continue;
                        NAME(rows_times)(ready, 1, images, &right, to->channels, (int)from->channels, NULL, out,
                                         to->channels);
                        ready = 0;
                    }
            }
            NAME(from_points)(sums, to, count, &to->rows[p], sources, y);
        }
    }
}

#define TERMS 48 /* of a sum at a time: both sides stay in the first cache for all panels of the weights */

/* out[tap][channel of g][channel of x] = the gradient of the weights */
static void NAME(weights_at_points)(const REAL *x, const NAME(Side) *in, const REAL *g, const NAME(Side) *back, long n,
                                    const NAME(Axis) *rows, const NAME(Axis) *columns, REAL *scratch, REAL *out) {
    const long size = in->channels * back->channels, chunk = NAME(chunk_of)(n, in, back);
    const int points = columns->points;
    REAL *of_x = scratch + KINDS_SIZE * size, *lines_of_x = of_x + points * chunk * in->channels, *of_g = lines_of_x + in->w * chunk * in->channels;
    REAL *lines_of_g = of_g + points * chunk * back->channels;
    NAME(Kinds) sums;
    NAME(lay_out)(out, scratch, size, sums);
    memset(out, 0, 9 * size * sizeof(REAL));
    memset(scratch, 0, KINDS_SIZE * size * sizeof(REAL));
    for (long first = 0; first < n; first += chunk) {
        const long count = n - first < chunk ? n - first : chunk;
        for (int p = 0; p < rows->points; p++) {
            NAME(Images_at) x_at[MOST_POINTS], g_at[MOST_POINTS];
            NAME(to_points)(x + first * in->h * in->w * in->channels, in, count, &in->rows[p], points, lines_of_x, of_x,
                            x_at);
            NAME(to_points)(g + first * back->h * back->w * back->channels, back, count, &back->rows[p], points,
                            lines_of_g, of_g, g_at);
            const int a = NAME(kind_of)(rows, p);
            for (int b = 0; b < KINDS; b++) {
                const REAL *left[TERMS], *right[TERMS];
                int ready = 0;
                for (int r = columns->start[b]; r < columns->start[b + 1]; r++)
                    for (long i = 0; i < count; i++) {
                        left[ready] = g_at[r].start + i * g_at[r].stride;
                        right[ready++] = x_at[r].start + i * x_at[r].stride;
                        if (ready < TERMS && (i + 1 < count || r + 1 < columns->start[b + 1])) continue;
                        NAME(add_outer)(ready, left, right, (int)back->channels, in->channels, sums[a][b], in->channels);
                        ready = 0;
                    }
            }
        }
    }
    for (int a = 0; a < KINDS; a++)
        for (int b = SUM; b < KINDS; b++) {
            const NAME(Terms) column = NAME(taps_of_kind)(b);
            NAME(add_terms)(&column, sums[a][b], size, sums[a][0]);
        }
    for (int a = SUM; a < KINDS; a++) {
        const NAME(Terms) row = NAME(taps_of_kind)(a);
        NAME(add_terms)(&row, sums[a][0], 3 * size, out);
    }
}
#undef TERMS
#undef MOST_SOURCES
#undef MOST_POINTS
#undef KINDS_SIZE
#undef CHUNK_BYTES
