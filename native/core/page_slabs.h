// Memory for blocks of some hundred kilobytes to some megabytes, cut from large mappings: a block
// of its own mapping can't hold a huge page, and reading it once per token then costs a table walk
// every 4 KiB and stops the processor's prefetching there.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

namespace lowrank {

class PageSlabs {
 public:
  static constexpr size_t kSlabBytes = size_t{64} << 20;

  PageSlabs() = default;
  ~PageSlabs();
  PageSlabs(const PageSlabs&) = delete;
  PageSlabs& operator=(const PageSlabs&) = delete;

  // Zero-filled and page-aligned; at most kSlabBytes. Throws as os::allocate_pages.
  void* allocate(size_t bytes);
  // `bytes` as given to allocate. The pages go back to the system.
  void release(void* pointer, size_t bytes) noexcept;

  size_t slab_count() const { return slabs_.size(); }

 private:
  using Ranges = std::map<char*, size_t>;  // begin, bytes

  void add_slab();

  std::mutex mutex_;
  Ranges slabs_;
  Ranges free_;  // of all slabs, never adjacent within one
};

}  // namespace lowrank
