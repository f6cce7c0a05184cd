/* What _direct.cpp asks of the kernels beside products (matrix.h), on the calling thread: passes over entries or rows,
 * attention. */
#pragma once
#include "heads.h"

#define NEO_ROWS "neo.kernels.rows"

/* The second order of layer norm (neo/functions/layer_normalization.py), for x of rows of so many columns, contiguous as
 * all else is. X, W, B and g may be NULL for zero, weight for one, and each output where it is not asked for; g is given
 * wherever x_out or w_out is. */
typedef struct {
  const void *X, *W, *B, *g, *x, *weight, *mean, *scale;
  void *g_out, *x_out;
  void *w_out; /* (pieces, columns), the sum of each NEO_PIECE rows */
  long rows, columns;
} NeoLayerNorm;

#define NEO_PIECE 64 /* rows: pieces are what threads share, and sums do not depend on how */

typedef void (*NeoLayerNormPieces)(const NeoLayerNorm *norm, long first, long last);

typedef struct {
  /* out = g times the derivative of GELU at x; a g times its second derivative; of float32 entries */
  void (*gelu_gradient)(const float *g, const float *x, float *out, long count);
  void (*gelu_bend)(const float *a, const float *g, const float *x, float *out, long count);
  NeoLayerNormPieces layer_norm_of_float, layer_norm_of_double;
  NeoAttentionKernels attention_of_float, attention_of_double;
} NeoRows;
