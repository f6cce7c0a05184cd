/* The first two derivatives of GELU, of float32 alone: what the functions are made of fits float32's digits.
 *
 * With a = |x| and phi the normal density, Phi(-a) = phi(a) m(a): m is Mills' ratio, smooth and between 0 and 1.26, so
 * that one exponential serves both, and small values keep their digits where 1 + erf(x) would lose them. */

/* The ratio of Phi(-a) and phi(a), t times a polynomial in t = 1 / (1 + 0.3 a); its relative error is below 4e-9 for
 * a up to 14 (least squares at Chebyshev's points, reweighted until the largest error is least), where phi is 0. */
INLINE vec NAME(mills)(vec a) {
    const vec t = 1.0f / (a * 0.3f + 1.0f);
    vec p = NAME(splat)(-0.051668998f);
    p = p * t + 0.28168592f;
    p = p * t - 0.5716843f;
    p = p * t + 0.4802292f;
    p = p * t - 0.19864789f;
    p = p * t + 0.24078356f;
    p = p * t + 0.19658299f;
    p = p * t + 0.2762991f;
    p = p * t + 0.29972464f;
    p = p * t + 0.3000099f;
    return p * t;
}

INLINE vec NAME(density)(vec x) { return NAME(exp_of_negative)(x * x * -0.5f) * 0.398942280f; }

INLINE vec NAME(distribution)(vec x, vec density) {
    const vec below = density * NAME(mills)((vec)((ivec)x & 0x7fffffff));
    return NAME(where)(x < 0.0f, below, 1.0f - below);
}

INLINE vec NAME(slope_of)(vec x) {
    const vec density = NAME(density)(x);
    return x * density + NAME(distribution)(x, density);
}
INLINE vec NAME(bend_of)(vec x) { return NAME(density)(x) * (2.0f - x * x); }

/* A loop over vectors, and what is left through vectors in memory of their own. */
#define OVER_ENTRIES(EXPRESSION)                                                     \
    long i = 0;                                                                      \
    for (; i + VL <= count; i += VL) NAME(store)(out + i, EXPRESSION(NAME(load), i)); \
    if (i < count) {                                                                 \
        REAL last[VL];                                                               \
        const size_t bytes = (count - i) * sizeof(REAL);                             \
        NAME(store)(last, EXPRESSION(LEFT, i));                                      \
        memcpy(out + i, last, bytes);                                                \
    }
#define LEFT(from) NAME(load_some)(from, count - i)

static void NAME(gelu_gradient)(const REAL *g, const REAL *x, REAL *out, long count) {
#define GRADIENT(LOAD, i) LOAD(g + i) * NAME(slope_of)(LOAD(x + i))
    OVER_ENTRIES(GRADIENT)
#undef GRADIENT
}

static void NAME(gelu_bend)(const REAL *a, const REAL *g, const REAL *x, REAL *out, long count) {
#define BEND(LOAD, i) LOAD(a + i) * LOAD(g + i) * NAME(bend_of)(LOAD(x + i))
    OVER_ENTRIES(BEND)
#undef BEND
}
#undef LEFT
#undef OVER_ENTRIES
