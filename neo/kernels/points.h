/* 3x3 convolution of stride 2, padding 1, in fewer products than its definition takes (strided.h): for many images.
 *
 * Along one axis, y[p] = w[0] x[2p - 1] + w[1] x[2p] + w[2] x[2p + 1]. The middle tap meets the even pixels alone; the
 * outer two are a convolution of two taps with the odd ones, of which Winograd's F(3, 2) gives three outputs for four
 * products ("Arithmetic Complexity of Computations", 1980). Both are sums over points,
 *     y = sum over points r of out[r] (taps[r] w) (in[r] x),     in, out, taps: a few entries each,
 * 16 points in place of 20 products for 14 pixels, 8 for 10 for 7; and the square of that for images. At each pair of
 * points, one matrix product takes all images and channels. The gradients are the same sum, read from the other sides.
 *
 * Rows' points come one after the other, so that what belongs to one stays in the second cache: the columns' points of
 * some images, and of the weights. */
#define MOST_POINTS 96 /* of an axis */
#define CHUNK 36       /* images at a time, at most */

typedef struct {
    int count, at[3];
    REAL by[3];
} NAME(Terms);

typedef struct {
    int points, products; /* products: as many as the definition takes */
    NAME(Terms) in[MOST_POINTS], out[MOST_POINTS], taps[MOST_POINTS];
} NAME(Axis);

#define TERMS1(a, x) ((NAME(Terms)){1, {a}, {x}})
#define TERMS2(a, x, b, y) ((NAME(Terms)){2, {a, b}, {x, y}})
#define TERMS3(a, x, b, y, c, z) ((NAME(Terms)){3, {a, b, c}, {x, y, z}})

static void NAME(add_point)(NAME(Axis) *axis, NAME(Terms) in, NAME(Terms) taps, NAME(Terms) out) {
    axis->in[axis->points] = in;
    axis->taps[axis->points] = taps;
    axis->out[axis->points++] = out;
}

/* The points of an axis of `size` pixels; -1 for one of too many. */
static int NAME(axis_of)(NAME(Axis) *axis, int size) {
    const int down = (size + 1) / 2;
    axis->points = 0;
    axis->products = 3 * down - 1 - size % 2; /* without those of the border */
    if (7 * down / 3 + 4 > MOST_POINTS) return -1;
    for (int p = 0; p < down; p++) NAME(add_point)(axis, TERMS1(2 * p, 1), TERMS1(1, 1), TERMS1(p, 1));
    if (size == 7) { /* both ends meet the border: the product of two polynomials, at 0, 1, -1 and infinity */
        NAME(add_point)(axis, TERMS1(1, 1), TERMS1(2, 1), TERMS2(0, 1, 2, -1));
        NAME(add_point)(axis, TERMS3(1, 1, 3, 1, 5, 1), TERMS2(0, 1, 2, 1), TERMS2(1, .5, 2, .5));
        NAME(add_point)(axis, TERMS3(1, 1, 3, -1, 5, 1), TERMS2(0, -1, 2, 1), TERMS2(1, -.5, 2, .5));
        NAME(add_point)(axis, TERMS1(5, 1), TERMS1(0, 1), TERMS2(3, 1, 1, -1));
        return 0;
    }
    const int end = down - size % 2; /* the first output, and of odd sizes the last, meet the border: one product each */
    if (size > 1) NAME(add_point)(axis, TERMS1(1, 1), TERMS1(2, 1), TERMS1(0, 1));
    if (size > 1 && size % 2) NAME(add_point)(axis, TERMS1(2 * end - 1, 1), TERMS1(0, 1), TERMS1(end, 1));
    for (int p = 1; p < end; p += 3) {
        const int s = 2 * p - 1; /* the first odd pixel; then s + 2, ... */
        if (end - p >= 3) {
            NAME(add_point)(axis, TERMS2(s, 1, s + 4, -1), TERMS1(0, 1), TERMS1(p, 1));
            NAME(add_point)(axis, TERMS2(s + 2, .5, s + 4, .5), TERMS2(0, 1, 2, 1), TERMS3(p, 1, p + 1, 1, p + 2, 1));
            NAME(add_point)(axis, TERMS2(s + 4, .5, s + 2, -.5), TERMS2(0, 1, 2, -1), TERMS3(p, 1, p + 1, -1, p + 2, 1));
            NAME(add_point)(axis, TERMS2(s + 6, 1, s + 2, -1), TERMS1(2, 1), TERMS1(p + 2, 1));
        } else if (end - p == 2) {
            NAME(add_point)(axis, TERMS2(s, 1, s + 2, -1), TERMS1(0, 1), TERMS1(p, 1));
            NAME(add_point)(axis, TERMS1(s + 2, 1), TERMS2(0, 1, 2, 1), TERMS2(p, 1, p + 1, 1));
            NAME(add_point)(axis, TERMS2(s + 4, 1, s + 2, -1), TERMS1(2, 1), TERMS1(p + 1, 1));
        } else {
            NAME(add_point)(axis, TERMS1(s, 1), TERMS1(0, 1), TERMS1(p, 1));
            NAME(add_point)(axis, TERMS1(s + 2, 1), TERMS1(2, 1), TERMS1(p, 1));
        }
    }
    return 0;
}
#undef TERMS1
#undef TERMS2
#undef TERMS3

/* Whether this way is faster than the definition for n images of (h, w), whose axes it then fills in. */
static int NAME(worth_points)(long n, long h, long w, NAME(Axis) *rows, NAME(Axis) *columns) {
    if (n < 16 || h > 2 * MOST_POINTS || w > 2 * MOST_POINTS) return 0; /* the weights' points are made once a call */
    if (NAME(axis_of)(rows, (int)h) || NAME(axis_of)(columns, (int)w)) return 0;
    return 5 * rows->points * columns->points <= 4 * rows->products * columns->products;
}

/* to = sum over terms of by * from[at], of `length` entries each */
INLINE void NAME(combine_terms)(const NAME(Terms) *t, const REAL *from, long length, REAL *to) {
    const REAL *a = from + t->at[0] * length, *b = from + t->at[1] * length, *c = from + t->at[2] * length;
    const vec x = NAME(splat)(t->by[0]), y = NAME(splat)(t->by[1]), z = NAME(splat)(t->by[2]);
    if (t->count == 1)
        for (long i = 0; i < length; i += VL) NAME(store)(to + i, x * NAME(load)(a + i));
    else if (t->count == 2)
        for (long i = 0; i < length; i += VL) NAME(store)(to + i, x * NAME(load)(a + i) + y * NAME(load)(b + i));
    else
        for (long i = 0; i < length; i += VL)
            NAME(store)(to + i, x * NAME(load)(a + i) + y * NAME(load)(b + i) + z * NAME(load)(c + i));
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
    for (long i = 0; i < n; i++) {
        if (!whole) NAME(combine_terms)(row, x + i * image, line, lines + i * line);
        for (int r = 0; r < points; r++)
            if (!NAME(is_one)(&side->columns[r]))
                NAME(combine_terms)(&side->columns[r], from + i * stride, channels, made + (r * n + i) * channels);
    }
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

/* x += what comes of one point of the rows: sums[column's point][image] (channels), of n images */
static void NAME(from_points)(const REAL *sums, const NAME(Side) *side, long n, const NAME(Terms) *row,
                              const NAME(Sources) *sources, REAL *line, REAL *x) {
    const long channels = side->channels, width = side->w * channels;
    for (long i = 0; i < n; i++, x += side->h * width) {
        for (long q = 0; q < side->w; q++) {
            const NAME(Sources) *source = &sources[q];
            for (long c = 0; c < channels; c += VL) {
                vec total = NAME(zero)();
                for (int k = 0; k < source->count; k++)
                    total += NAME(splat)(source->by[k]) * NAME(load)(sums + (source->at[k] * n + i) * channels + c);
                NAME(store)(line + q * channels + c, total);
            }
        }
        NAME(add_terms)(row, line, width, x);
    }
}

static long NAME(chunk_of)(long n) {
    const long parts = (n + CHUNK - 1) / CHUNK;
    return ((n + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
}

/* Entries of scratch that the two functions below need. */
static size_t NAME(points_scratch)(long n, const NAME(Side) *a, const NAME(Side) *b, int points) {
    const long pixels = points + (a->w > b->w ? a->w : b->w);
    return 3 * a->channels * b->channels + points * a->channels * b->channels +
           pixels * NAME(chunk_of)(n) * (a->channels + b->channels);
}

/* y = start + the convolution's sum, from x at its points (`from`) to y (`to`); taps[tap][channel of x][channel of y].
 * Swapped, and with the taps so turned, it is the gradient of the image. */
static void NAME(convolve_at_points)(const REAL *x, const NAME(Side) *from, const REAL *taps, const REAL *start, REAL *y,
                                     const NAME(Side) *to, long n, const NAME(Axis) *rows, const NAME(Axis) *columns,
                                     REAL *scratch) {
    const long size = from->channels * to->channels, chunk = NAME(chunk_of)(n), pixels = n * to->h * to->w;
    const int points = columns->points;
    REAL *some = scratch, *weights = some + 3 * size, *sums = weights + points * size;
    REAL *line = sums + points * chunk * to->channels, *made = line + to->w * to->channels;
    REAL *lines = made + points * chunk * from->channels;
    NAME(Sources) sources[2 * MOST_POINTS];
    NAME(sources_of)(to->columns, points, sources, to->w);
    for (long i = 0; i < pixels; i++)
        if (start)
            memcpy(y + i * to->channels, start, to->channels * sizeof(REAL));
        else
            memset(y + i * to->channels, 0, to->channels * sizeof(REAL));
    for (int p = 0; p < rows->points; p++) {
        NAME(combine_terms)(&rows->taps[p], taps, 3 * size, some);
        for (int r = 0; r < points; r++) NAME(combine_terms)(&columns->taps[r], some, size, weights + r * size);
        for (long first = 0; first < n; first += chunk) {
            const long count = n - first < chunk ? n - first : chunk;
            NAME(Images_at) at[MOST_POINTS];
            NAME(to_points)(x + first * from->h * from->w * from->channels, from, count, &from->rows[p], points, lines,
                            made, at);
            for (int r = 0; r < points; r++)
                for (long i = 0; i < count; i += ROWS) {
                    const int here = count - i < ROWS ? (int)(count - i) : ROWS;
                    const REAL *images[ROWS], *right = weights + r * size;
                    REAL *out[ROWS];
                    for (int k = 0; k < here; k++) {
                        images[k] = at[r].start + (i + k) * at[r].stride;
                        out[k] = sums + (r * count + i + k) * to->channels;
                    }
                    NAME(rows_times)(here, 1, images, &right, to->channels, (int)from->channels, NULL, out, to->channels);
                }
            NAME(from_points)(sums, to, count, &to->rows[p], sources, line, y + first * to->h * to->w * to->channels);
        }
    }
}

/* out[tap][channel of g][channel of x] = the gradient of the weights */
static void NAME(weights_at_points)(const REAL *x, const NAME(Side) *in, const REAL *g, const NAME(Side) *back, long n,
                                    const NAME(Axis) *rows, const NAME(Axis) *columns, REAL *scratch, REAL *out) {
    const long size = in->channels * back->channels, chunk = NAME(chunk_of)(n);
    const int points = columns->points;
    REAL *some = scratch, *sums = some + 3 * size, *of_x = sums + points * size;
    REAL *lines_of_x = of_x + points * chunk * in->channels, *of_g = lines_of_x + in->w * chunk * in->channels;
    REAL *lines_of_g = of_g + points * chunk * back->channels;
    memset(out, 0, 9 * size * sizeof(REAL));
    for (int p = 0; p < rows->points; p++) {
        memset(some, 0, (3 + points) * size * sizeof(REAL)); /* and the sums behind it */
        for (long first = 0; first < n; first += chunk) {
            const long count = n - first < chunk ? n - first : chunk;
            NAME(Images_at) x_at[MOST_POINTS], g_at[MOST_POINTS];
            NAME(to_points)(x + first * in->h * in->w * in->channels, in, count, &in->rows[p], points, lines_of_x, of_x,
                            x_at);
            NAME(to_points)(g + first * back->h * back->w * back->channels, back, count, &back->rows[p], points,
                            lines_of_g, of_g, g_at);
            for (int r = 0; r < points; r++) {
                const REAL *left[CHUNK + ROWS], *right[CHUNK + ROWS];
                for (long i = 0; i < count; i++) {
                    left[i] = g_at[r].start + i * g_at[r].stride;
                    right[i] = x_at[r].start + i * x_at[r].stride;
                }
                NAME(add_outer)((int)count, left, right, (int)back->channels, in->channels, sums + r * size, in->channels);
            }
        }
        for (int r = 0; r < points; r++) NAME(add_terms)(&columns->taps[r], sums + r * size, size, some);
        NAME(add_terms)(&rows->taps[p], some, 3 * size, out);
    }
}
#undef MOST_SOURCES
#undef MOST_POINTS
#undef CHUNK
