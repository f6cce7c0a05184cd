/* What _direct.cpp asks of the kernels where both are built: a part of a product of matrices, on the calling thread. */
#pragma once

#define NEO_MATRIX "neo.kernels.matrix"

/* out[m, n] = bias[m, n] + sum over d of left[m, d] right[d, n]: where each begins, and how far on the next row, column
 * and term of the sum are, in entries. One stride of `right` is 1, and one of `out`; a stride of 0 repeats. */
typedef struct {
  const void *left;
  long left_row, left_term;
  const void *right;
  long right_term, right_column;
  const void *bias; /* or NULL */
  long bias_row, bias_column;
  void *out;
  long out_row, out_column;
  long rows, columns, terms;
} NeoProduct;

/* Rows `first` to `last` of the output; -1 where there is no memory to work in, 0 otherwise. */
typedef int (*NeoProductRows)(const NeoProduct *product, long first, long last);

typedef struct {
  NeoProductRows of_float, of_double;
} NeoMatrix;
