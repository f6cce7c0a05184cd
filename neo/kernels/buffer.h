/* What a kernel asks of a tensor before it touches the memory behind it: answered by torch's C++ (_direct.cpp) where
 * that was built, and by the tensor's attributes elsewhere (buffers.pxi). */
#pragma once
#include <Python.h>
#include <stdint.h>

#define NEO_DESCRIBE "neo.kernels._direct.describe"

enum { NEO_FLOAT, NEO_DOUBLE, NEO_BYTE, NEO_OTHER };

typedef struct {
  char *data;
  int64_t bytes; /* of its storage, from data on */
  int dtype;
  int dims;
  int64_t size[4], stride[4]; /* of at most 4 dims; strides in entries */
} NeoBuffer;

/* 1: described. 0: no dense CPU tensor whose memory holds its numbers as they are (no view with a negative or conjugate
 * bit, no wrapper of a transform, no fake tensor, no storage that was let go). -1: a Python error is set. */
typedef int (*NeoDescribe)(PyObject *tensor, NeoBuffer *buffer);

/* dims from the fastest to the slowest */
static const int NEO_PLAIN_4[] = {3, 2, 1, 0}, NEO_PLAIN_2[] = {1, 0}, NEO_PLAIN_1[] = {0};
static const int NEO_CHANNELS_LAST[] = {1, 3, 2, 0};

static inline int64_t neo_itemsize(int dtype) { return dtype == NEO_DOUBLE ? 8 : dtype == NEO_FLOAT ? 4 : 1; }

/* Whether the entries lie one after the other, dims from the fastest to the slowest in this order, all within the
 * storage and at a multiple of their size; a dim of one entry may have any stride. *bytes: what they take. */
static inline int neo_dense(const NeoBuffer *b, const int *order, int64_t *bytes) {
  int64_t next = 1;
  for (int i = 0; i < b->dims; i++) {
    const int dim = order[i];
    if (b->size[dim] < 1 || (b->size[dim] > 1 && b->stride[dim] != next)) return 0;
    if (__builtin_mul_overflow(next, b->size[dim], &next)) return 0;
  }
  if (__builtin_mul_overflow(next, neo_itemsize(b->dtype), bytes)) return 0;
  return b->data != NULL && *bytes <= b->bytes && (uintptr_t)b->data % (uintptr_t)neo_itemsize(b->dtype) == 0;
}
