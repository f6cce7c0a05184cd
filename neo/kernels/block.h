/* What a kernel is called with: the sizes of a block of a convolutional net, and its tensors by their names. Each kernel
 * uses some of them. kernels.pxi fills a NeoBlock in, from tensors that it has checked; a tensor that was not given, or
 * is not wanted, is NULL. Numbers are float or double, as those of the call's first image, and images channels-last,
 * where a shape does not say otherwise. */
#pragma once
#include <stdint.h>

enum {
    NEO_INPUT,      /* (n, inputs, h, w); a first block's images are contiguous */
    NEO_CONVOLVED,  /* (n, outputs, down, across): the convolution's output */
    NEO_POOLED,     /* (n, outputs, down / window, across / window) */
    NEO_PLACES,     /* the same, a byte each; there is none for a window of 1 */
    NEO_WEIGHTS,    /* (outputs, inputs, 3, 3); a first block's are contiguous */
    NEO_CHANNELS,   /* (outputs) */
    NEO_MEANS,      /* (n, outputs) */
    NEO_TAPS,       /* (taps), double; taps = 9 inputs */
    NEO_COVARIANCE, /* (taps, taps), double */
    NEO_SUMS,       /* (taps + 1, outputs), double */
    NEO_SUMS_BAR    /* (taps + 1, outputs) */
};

/* F(type, name, shape) */
#define NEO_FIELDS(F)                                                                                              \
    /* forward: z = x * weight + bias, y = the largest gamma r (z - mean) + beta of each window, rectified */       \
    F(void, x, NEO_INPUT)                                                                                          \
    F(void, weight, NEO_WEIGHTS)                                                                                   \
    F(void, bias, NEO_CHANNELS)  /* NULL: 0 */                                                                     \
    F(void, gamma, NEO_CHANNELS) /* NULL: 1 */                                                                     \
    F(void, beta, NEO_CHANNELS)                                                                                    \
    F(void, z, NEO_CONVOLVED)                                                                                      \
    F(void, y, NEO_POOLED)                                                                                         \
    F(uint8_t, place, NEO_PLACES) /* which pixel of its window y was, row by row from 0 */                         \
    F(void, mean, NEO_CHANNELS)                                                                                    \
    F(void, scale, NEO_CHANNELS) /* r = 1 / sqrt(variance + eps) */                                                \
    /* backward: cotangents in, gradients out */                                                                   \
    F(void, y_bar, NEO_POOLED)                                                                                     \
    F(void, z_bar, NEO_CONVOLVED)   /* what came to z itself; NULL: 0 */                                           \
    F(void, z_total, NEO_CONVOLVED) /* z_bar, and what came to z from y */                                         \
    F(void, x_bar, NEO_INPUT)                                                                                      \
    F(void, w_bar, NEO_WEIGHTS)                                                                                    \
    F(void, b_bar, NEO_CHANNELS)                                                                                   \
    F(void, gamma_bar, NEO_CHANNELS)                                                                               \
    F(void, beta_bar, NEO_CHANNELS)                                                                                \
    /* double backward: cotangents of x_bar, w_bar, gamma_bar, beta_bar, z_total in (NULL: 0); gradients out */    \
    F(void, X, NEO_INPUT)                                                                                          \
    F(void, W, NEO_WEIGHTS)                                                                                        \
    F(void, G, NEO_CHANNELS)                                                                                       \
    F(void, B, NEO_CHANNELS)                                                                                       \
    F(void, Z, NEO_CONVOLVED)                                                                                      \
    F(void, workspace, NEO_CONVOLVED) /* for one of the two convolutions that make Z */                            \
    F(void, y_bar_out, NEO_POOLED)                                                                                 \
    F(void, x_out, NEO_INPUT)                                                                                      \
    F(void, w_out, NEO_WEIGHTS)                                                                                    \
    F(void, gamma_out, NEO_CHANNELS)                                                                               \
    F(void, z_out, NEO_CONVOLVED)                                                                                  \
    /* backward's tangent: those of its cotangents y_bar and z_bar in, with X, W, G and Z for those of x, weight,   */ \
    /* gamma and z (NULL: 0); those of z_total, x_bar, w_bar, gamma_bar and beta_bar out, the first in z_out */     \
    F(void, y_bar_dot, NEO_POOLED)                                                                                 \
    F(void, beta_out, NEO_CHANNELS)                                                                                \
    /* means over pixels, and the moments and sums of patches (first_block.h) */                                   \
    F(void, means, NEO_MEANS)                                                                                      \
    F(double, patch_mean, NEO_TAPS)                                                                                \
    F(double, patch_covariance, NEO_COVARIANCE)                                                                    \
    F(double, sums, NEO_SUMS)                                                                                      \
    F(void, sums_bar, NEO_SUMS_BAR)

#define NEO_FIELD(type, name, shape) type *name;
#define NEO_NAME(type, name, shape) {#name, shape},
#define NEO_ONE(type, name, shape) +1

enum { NEO_FIELD_COUNT = 0 NEO_FIELDS(NEO_ONE) };

typedef struct {
    long n, h, w, inputs, outputs, stride, window, down, across;
    double eps, slope; /* slope: of the rectifier below 0; 0: ReLU, 1: none */
    union {
        void *at[NEO_FIELD_COUNT]; /* in the order of NEO_FIELD_TABLE */
        struct {
            NEO_FIELDS(NEO_FIELD)
        };
    };
} NeoBlock;

typedef struct {
    const char *name;
    int shape;
} NeoField;

static const NeoField NEO_FIELD_TABLE[] = {NEO_FIELDS(NEO_NAME)};

#undef NEO_FIELD
#undef NEO_NAME
#undef NEO_ONE
