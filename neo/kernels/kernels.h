/* The kernels, each once for float and once for double: the same text, so that what finite differences say of the one
 * in float64 holds for the other. Compiled once for each instruction set (setup.py), which sets VECTOR_BYTES. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#ifndef VECTOR_BYTES
#define VECTOR_BYTES 16
#endif

#if VECTOR_BYTES == 64 /* 32 registers: 24 sums, 4 of the right side, the rest for what is spread */
#define WIDE 4
#else /* 16 registers: 12 sums */
#define WIDE 2
#endif
#define ROWS 6
#define TILES 36 /* of Winograd in flight: their transforms stay in the second cache; a multiple of ROWS */
#define WINO_SCRATCH(inputs, outputs) (36 * (TILES * ((inputs) + (outputs)) + (inputs) * (outputs)))
#define INLINE static inline __attribute__((always_inline))
/* Compiled by itself: which product of a sum is fused with it is the compiler's choice, which must not change with callers. */
#define ALONE static __attribute__((noinline, noclone))
#define UNROLL _Pragma("GCC unroll 36")

/* What a point of points.h takes of the taps 0, 1 and 2: one, 0 + 2 or 0 - 2. */
enum { FIRST, MIDDLE, LAST, SUM, DIFFERENCE, KINDS };

#include "block.h"
#include "groups.h"
#include "group_axes.h"
#include "matrix.h"
#include "rows.h"
#include "scratch.h"

#define REAL float
#define INT int32_t
#define VL (VECTOR_BYTES / 4)
#define NAME(x) x##_float
#include "instantiate.h"
#include "gelu.h"
#undef vec
#undef ivec
#undef REAL
#undef INT
#undef VL
#undef NAME

#define REAL double
#define INT int64_t
#define VL (VECTOR_BYTES / 8)
#define NAME(x) x##_double
#include "instantiate.h"

/* Every kernel by its name, and for which REAL: NEO_FLOAT, NEO_DOUBLE. */
typedef struct {
    const char *name;
    int (*of[2])(const NeoBlock *block);
} NeoKernel;

#define KERNEL(name) {#name, {name##_float, name##_double}}
static const NeoKernel NEO_KERNELS[] = {
    KERNEL(convolution),
    KERNEL(convolution_input),
    KERNEL(convolution_weight),
    KERNEL(convolution_bias),
    KERNEL(pixel_means),
    KERNEL(spread_means),
    KERNEL(norm),
    KERNEL(norm_backward),
    KERNEL(norm_double_backward),
    KERNEL(block),
    KERNEL(block_backward),
    KERNEL(block_double_backward),
    KERNEL(block_backward_tangent),
    KERNEL(moments),
    KERNEL(first),
    KERNEL(first_backward),
    KERNEL(first_double_backward),
    KERNEL(correlate),
    KERNEL(spread),
    {NULL, {NULL, NULL}},
};
#undef KERNEL

static NeoMatrix matrix = {product_rows_float, product_rows_double};
static NeoRows rows = {
    gelu_gradient_float,
    gelu_bend_float,
    layer_norm_pieces_float,
    layer_norm_pieces_double,
    {attention_float, attention_gradient_float, attention_second_order_float},
    {attention_double, attention_gradient_double, attention_second_order_double},
};
#define GROUPS(REAL, LANES)                                                                                        \
    {                                                                                                              \
        LANES, group_image_pieces_##REAL, group_weight_pieces_##REAL, group_convolve_##REAL,                       \
            group_input_gradient_##REAL, group_weight_gradient_##REAL                                              \
    }
static NeoGroupConvolution groups = {GROUPS(float, VECTOR_BYTES / 4), GROUPS(double, VECTOR_BYTES / 8)};
#undef GROUPS

static int is_amd(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    return __builtin_cpu_is("amd") != 0;
#else
    return 0;
#endif
}
