/* Which taps of a kernel meet a pixel, along one axis: for groups.h, whatever the type of numbers. */

/* The taps of one pixel of an image, and the pixels of the other image that they take: `count` of each, each so far from the
 * one before as GroupAxis says. */
typedef struct {
    int tap, count, source;
} GroupPixel;

typedef struct {
    long pixels, sources;        /* of the image that is made, of the image that it is made of */
    int tap_step, source_step;
    int first_tap, last_tap;     /* those that any pixel has: from the first up to before the last */
    int same_step, shift;        /* the pixel so far on has, inside, the same taps, `shift` sources on */
    GroupPixel *at;
} GroupAxis;

static int greatest_divisor(long a, long b) {
    while (b) {
        const long rest = a % b;
        a = b;
        b = rest;
    }
    return (int)a;
}

/* Of y from x, or, `back`, of x's gradient from y's; with room for its pixels. */
static GroupAxis group_axis(const NeoGroupAxis *a, int back, GroupPixel *room) {
    const int shared = greatest_divisor(a->stride, a->dilation);
    GroupAxis axis = {back ? a->in : a->out, back ? a->out : a->in, 1, (int)a->dilation, (int)a->taps, 0, 1, (int)a->stride, room};
    if (back) {
        axis.tap_step = (int)a->stride / shared, axis.source_step = -(int)a->dilation / shared;
        axis.same_step = (int)a->stride, axis.shift = 1;
    }
    for (long i = 0; i < axis.pixels; i++) {
        GroupPixel *pixel = &room[i];
        *pixel = (GroupPixel){0, 0, 0};
        for (long tap = 0; tap < a->taps; tap++) {
            long source = back ? i + a->padding - tap * a->dilation : i * a->stride + tap * a->dilation - a->padding;
            if (back) {
                if (source < 0 || source % a->stride) continue;
                source /= a->stride;
            }
            if (source < 0 || source >= axis.sources) continue;
            if (pixel->count++ == 0) pixel->tap = (int)tap, pixel->source = (int)source;
            if (tap < axis.first_tap) axis.first_tap = (int)tap;
            if (tap >= axis.last_tap) axis.last_tap = (int)tap + 1;
        }
    }
    return axis;
}

/* How many pixels from `i` on, each same_step from the one before, have the same taps, and sources side by side; at most
 * `most`. */
static int group_run(const GroupAxis *axis, long i, int most) {
    const GroupPixel *first = &axis->at[i];
    int count = 1;
    while (count < most && i + (long)count * axis->same_step < axis->pixels) {
        const GroupPixel *next = &axis->at[i + (long)count * axis->same_step];
        if (next->tap != first->tap || next->count != first->count) break;
        if (first->count && next->source != first->source + count * axis->shift) break;
        count++;
    }
    return count;
}
