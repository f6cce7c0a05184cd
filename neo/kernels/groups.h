/* What _direct.cpp asks of the kernels for convolutions in groups (group_convolution.h), on the calling thread. */
#pragma once

#define NEO_GROUPS "neo.kernels.groups"

/* Of rows or of columns: x has `in`, y has `out`, and y[o] sums w[t] x[o * stride + t * dilation - padding] over the taps t
 * that fall inside. */
typedef struct {
  long in, out, taps, stride, padding, dilation;
} NeoGroupAxis;

/* A convolution of images in groups of `width` channels, as many out as in, and its two gradients. Images are channels-last,
 * (n, rows, columns, channels); a weight is (channels, width, rows of taps, columns of taps), of any strides where it is
 * read and contiguous where it is written; the bias has a number for each channel, or is NULL. */
typedef struct {
  long n, channels, width;
  NeoGroupAxis rows, columns;
  const void *x, *g, *weight, *bias;
  long weight_strides[4]; /* in entries */
  void *out;
} NeoGroups;

/* Pieces `first` to `last` of the output; -1 where there is no memory to work in, 0 otherwise. */
typedef int (*NeoGroupPieces)(const NeoGroups *groups, long first, long last);

typedef struct {
  long lanes;                                         /* of a vector; groups fill one, and so do all channels */
  long (*image_pieces)(const NeoGroups *);            /* how many there are of an image, */
  long (*weight_pieces)(const NeoGroups *);           /* and of the weight's gradient */
  NeoGroupPieces convolve, input_gradient, weight_gradient; /* from (x, weight, bias), (g, weight), (x, g) */
} NeoGroupKernels;

typedef struct {
  NeoGroupKernels of_float, of_double;
} NeoGroupConvolution;
