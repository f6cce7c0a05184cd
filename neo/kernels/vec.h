/* Vectors of REAL, VL entries each: set by kernels.h, which includes this once for float and once for double. */

typedef REAL NAME(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL NAME(vec_anywhere) __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef INT NAME(ivec) __attribute__((vector_size(VECTOR_BYTES)));
typedef uint8_t NAME(bvec) __attribute__((vector_size(VL)));
typedef uint8_t NAME(bvec_anywhere) __attribute__((vector_size(VL), aligned(1), may_alias));

#define vec NAME(vec)
#define ivec NAME(ivec)

INLINE vec NAME(load)(const REAL *p) { return *(const NAME(vec_anywhere) *)p; }
INLINE void NAME(store)(REAL *p, vec v) { *(NAME(vec_anywhere) *)p = v; }
INLINE vec NAME(zero)(void) { return (vec){0}; }

/* Of less than a vector: zeros for the rest, which is not written. */
INLINE vec NAME(load_some)(const REAL *from, long count) {
    REAL some[VL] = {0};
    memcpy(some, from, count * sizeof(REAL));
    return NAME(load)(some);
}
INLINE void NAME(store_some)(REAL *to, vec v, long count) {
    REAL some[VL];
    NAME(store)(some, v);
    memcpy(to, some, count * sizeof(REAL));
}

INLINE vec NAME(splat)(REAL x) { return __builtin_shuffle((vec){x}, (ivec){0}); }

INLINE vec NAME(where)(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

INLINE REAL NAME(sum_of_vector)(vec v) {
    REAL sum = 0;
    for (int l = 0; l < VL; l++) sum += v[l];
    return sum;
}

/* What is negative is multiplied by the slope, 0 for a ReLU (and no -0, and no NaN of an infinity), 1 for no rectifier;
 * NaN stays NaN. */
INLINE vec NAME(below)(vec v, REAL slope) { return slope == 0 ? NAME(zero)() : NAME(splat)(slope) * v; }
INLINE vec NAME(rectify)(vec v, REAL slope) { return NAME(where)(v < NAME(zero)(), NAME(below)(v, slope), v); }

/* The cotangent g of what was rectified to y, whose sign is that of what it came from. */
INLINE vec NAME(rectified_cotangent)(vec y, vec g, REAL slope) {
    return NAME(where)(y > NAME(zero)(), g, NAME(below)(g, slope));
}

/* rows[i][j] <-> rows[j][i]: the halves of a pack of cards shuffled into each other, log2(VL) times */
INLINE void NAME(transpose)(vec *rows) {
    ivec low, high;
    UNROLL for (int l = 0; l < VL; l++) low[l] = l / 2 + l % 2 * VL, high[l] = low[l] + VL / 2;
    UNROLL for (int round = 1; round < VL; round *= 2) {
        vec next[VL];
        UNROLL for (int i = 0; i < VL / 2; i++) {
            next[2 * i] = __builtin_shuffle(rows[i], rows[i + VL / 2], low);
            next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + VL / 2], high);
        }
        UNROLL for (int i = 0; i < VL; i++) rows[i] = next[i];
    }
}

/* Small whole numbers, kept as bytes. */
INLINE ivec NAME(load_bytes)(const uint8_t *p) {
    return __builtin_convertvector(*(const NAME(bvec_anywhere) *)p, ivec);
}
INLINE void NAME(store_bytes)(uint8_t *p, ivec v) {
    *(NAME(bvec_anywhere) *)p = __builtin_convertvector(v, NAME(bvec));
}
