// What buffer.h declares: a tensor as the kernels see it, described by torch's own fields.
#pragma once
#include "buffer.h"
#include "direct_tensors.h"

namespace {

int describe(PyObject* value, NeoBuffer* buffer) {
  if (!THPVariable_Check(value)) return 0;
  const Tensor& tensor = THPVariable_Unpack(value);
  if (!tensor.defined()) return 0;
  const auto keys = tensor.key_set();
  if ((keys | dense) != dense || !keys.has(c10::DispatchKey::CPU)) return 0;  // inference tensors have fewer keys
  if (tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides() || !tensor.has_storage()) return 0;
  const auto& storage = tensor.storage();
  if (storage.data() == nullptr) return 0;
  const auto dtype = tensor.scalar_type();
  buffer->dtype = dtype == at::kFloat ? NEO_FLOAT : dtype == at::kDouble ? NEO_DOUBLE : dtype == at::kByte ? NEO_BYTE : NEO_OTHER;
  buffer->dims = static_cast<int>(tensor.dim());
  buffer->bytes = static_cast<int64_t>(storage.nbytes()) - tensor.storage_offset() * static_cast<int64_t>(tensor.itemsize());
  for (int i = 0; i < std::min(buffer->dims, 4); ++i) {
    buffer->size[i] = tensor.size(i);
    buffer->stride[i] = tensor.stride(i);
  }
  try {
    buffer->data = static_cast<char*>(tensor.data_ptr());
  } catch (const std::exception&) {
    return 0;
  }
  return 1;
}

NeoDescribe describes = describe;

}  // namespace
