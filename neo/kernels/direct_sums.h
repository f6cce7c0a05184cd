// Sums of the rows of a matrix.
#pragma once
#include <algorithm>
#include <vector>

#include "direct_tensors.h"

namespace {

constexpr int64_t PIECE = 16;

// Whether the loop below is exact enough and as fast as torch's vectors.
bool sums_rows(int64_t rows, int64_t columns) {
  return rows * columns <= LONG && rows <= 4 * PIECE * PIECE && (columns >= VECTOR || rows * columns <= FEW / 2);
}

// total (columns,) = the sum of rows (rows, columns): in pieces, for one sum of many rows loses digits
template <class T>
void sum_rows(const T* row, int64_t rows, int64_t columns, T* __restrict total) {
  std::vector<T> piece(columns);
  T* __restrict sum = piece.data();
  std::fill(total, total + columns, T(0));
  for (int64_t first = 0; first < rows; first += PIECE) {
    std::fill(sum, sum + columns, T(0));
    for (int64_t i = first; i < std::min(first + PIECE, rows); ++i, row += columns)
      for (int64_t j = 0; j < columns; ++j) sum[j] += row[j];
    for (int64_t j = 0; j < columns; ++j) total[j] += sum[j];
  }
}

// sum_of_rows(x), x (.., columns) → (columns,)
PyObject* sum_of_rows(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 1 ? plain(arguments[0]) : nullptr;
  if (x == nullptr || x->dim() < 2 || x->numel() == 0 || !x->is_contiguous() ||
      (x->scalar_type() != at::kFloat && x->scalar_type() != at::kDouble) || !unwatched())
    return elsewhere(fallback, arguments, count);
  const int64_t columns = x->size(-1), rows = x->numel() / columns;
  if (!sums_rows(rows, columns)) return elsewhere(fallback, arguments, count);
  return filled({columns}, x->scalar_type(), [&]<class T>(T* __restrict total, int64_t) {
    sum_rows(entries<T>(*x), rows, columns, total);
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace
