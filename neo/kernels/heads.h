/* What direct_attention.h asks of the kernels: attention's core, head by head, and its first and second order. */
#pragma once

/* One of a stack of matrices for each head of each sequence, a row a place: where the first begins, and how far on the
 * next sequence, head and row are, in entries; columns lie side by side. start is NULL where there is none. */
typedef struct {
  void *start;
  long sequence, head, row;
} NeoHeads;

/* out = P v with P = softmax(scale q k^T), neo/functions/attention_core.py; g: the cotangent of out; of_q, of_k, of_v:
 * cotangents of those that g gives to q, k and v, or NULL for zero. The last four are written where they are given. */
typedef struct {
  NeoHeads q, k, v, g, of_q, of_k, of_v;
  NeoHeads out, q_out, k_out, v_out;
  void *weights; /* P (sequences, heads, places, others) */
  long heads, places, others, width, value_width; /* places of queries, of keys; width of a query, of a value */
  double scale;
  int causal; /* a place attends to none after it */
} NeoAttention;

/* The heads from `first` to `last`, of all sequences' in turn; work: NEO_WORK entries, for them alone. -1 where there is
 * no memory to work in, 0 otherwise. */
typedef int (*NeoAttentionHeads)(const NeoAttention *attention, void *work, long first, long last);
#define NEO_WORK(attention)                                                                                       \
  (3 * (attention).places * (attention).others > (attention).places * (attention).width                           \
       ? 3 * (attention).places * (attention).others                                                              \
       : (attention).places * (attention).width)

typedef struct {
  NeoAttentionHeads forward, gradient, second_order;
} NeoAttentionKernels;
