// Where the larger tensors that Neo's kernels fill lie: in blocks that are kept when a tensor goes, for the next one of
// that size.
//
// A net's step makes tensors of the same few sizes again and again, and the C library cuts and joins its blocks for them
// until 9 MB of tensors lie scattered over 25 MB of memory. Here the block that was freed last is taken first. At most
// KEPT bytes lie idle (or what limit() said); beyond that, the blocks longest unused go back.
#pragma once
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

namespace {

class Blocks final : public c10::Allocator {
 public:
  static constexpr size_t SMALLEST = 1 << 16;  // bytes of a tensor; below, the C library does as well
  static constexpr size_t KEPT = 32 << 20;     // bytes: two tasks of a conv-4 at once

  // At most so many bytes lie idle from now on; gives the number before. 0 where memory is being counted.
  size_t limit(size_t bytes) {
    std::vector<std::unique_ptr<Block>> old;
    const std::lock_guard<std::mutex> alone(mutex_);
    const size_t before = kept_;
    kept_ = bytes;
    old = surplus();
    return before;
  }

  c10::DataPtr allocate(size_t bytes) override {
    std::unique_ptr<Block> block = take(bytes);
    if (block == nullptr) block.reset(new Block{c10::GetCPUAllocator()->allocate(bytes), bytes});
    void* start = block->memory.get();
    return {start, block.release(), &freed, c10::Device(c10::DeviceType::CPU)};
  }

  size_t idle() {
    const std::lock_guard<std::mutex> alone(mutex_);
    return idle_bytes_;
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  struct Block {
    c10::DataPtr memory;
    size_t bytes;
  };

  std::unique_ptr<Block> take(size_t bytes) {
    const std::lock_guard<std::mutex> alone(mutex_);
    const auto found =
        std::find_if(idle_.rbegin(), idle_.rend(), [&](const auto& block) { return block->bytes == bytes; });
    if (found == idle_.rend()) return nullptr;
    std::unique_ptr<Block> block = std::move(*found);
    idle_.erase(std::next(found).base());
    idle_bytes_ -= bytes;
    return block;
  }

  void keep(std::unique_ptr<Block> block) {
    std::vector<std::unique_ptr<Block>> old;  // goes back to the C library when the lock is open again
    const std::lock_guard<std::mutex> alone(mutex_);
    if (block->bytes > kept_) {  // alone it would turn out all others
      old.push_back(std::move(block));
      return;
    }
    idle_bytes_ += block->bytes;
    idle_.push_back(std::move(block));
    old = surplus();
  }

  // Takes out what is longest unused beyond the limit; the lock is held.
  std::vector<std::unique_ptr<Block>> surplus() {
    auto end = idle_.begin();
    for (; idle_bytes_ > kept_; ++end) idle_bytes_ -= (*end)->bytes;
    std::vector<std::unique_ptr<Block>> old(std::make_move_iterator(idle_.begin()), std::make_move_iterator(end));
    idle_.erase(idle_.begin(), end);
    return old;
  }

  static void freed(void* block);

  std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> idle_;  // in the order in which they were freed
  size_t idle_bytes_ = 0;
  size_t kept_ = KEPT;
};

Blocks* const blocks = new Blocks;  // for good: tensors may outlive every static object

void Blocks::freed(void* block) { blocks->keep(std::unique_ptr<Block>(static_cast<Block*>(block))); }

// A tensor whose entries may be anything.
at::Tensor fresh(at::IntArrayRef shape, at::ScalarType dtype, at::MemoryFormat layout = at::MemoryFormat::Contiguous) {
  const size_t bytes = at::detail::computeStorageNbytesContiguous(shape, c10::elementSize(dtype));
  if (bytes < Blocks::SMALLEST) return at::detail::empty_cpu(shape, dtype, false, layout);
  const c10::DispatchKeySet cpu(c10::DispatchKey::CPU);
  return at::detail::empty_generic(shape, blocks, cpu, dtype, layout);
}

}  // namespace
