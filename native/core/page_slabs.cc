#include "core/page_slabs.h"

#include <iterator>
#include <utility>

#include "core/os.h"

namespace lowrank {
namespace {

// The largest page size in common use, so that a slab's blocks never share a page.
constexpr size_t kGrain = size_t{16} << 10;

size_t rounded(size_t bytes) { return (bytes + kGrain - 1) / kGrain * kGrain; }

}  // namespace

PageSlabs::~PageSlabs() {
  for (const auto& [begin, bytes] : slabs_) os::free_pages(begin, bytes);
}

void PageSlabs::add_slab() {
  char* begin = static_cast<char*>(os::allocate_pages(kSlabBytes));
  slabs_.emplace(begin, kSlabBytes);
  free_.emplace(begin, kSlabBytes);
}

void* PageSlabs::allocate(size_t bytes) {
  const size_t wanted = rounded(bytes);
  const std::lock_guard lock(mutex_);
  for (int attempt = 0; attempt < 2; ++attempt) {
    for (auto range = free_.begin(); range != free_.end(); ++range) {
      if (range->second < wanted) continue;
      // From the range's front, so that a model's weights lie in the order in which they are read.
      auto node = free_.extract(range);
      char* begin = node.key();
      node.key() += wanted;
      node.mapped() -= wanted;
      if (node.mapped() > 0) free_.insert(std::move(node));
      return begin;
    }
    add_slab();
  }
  return nullptr;
}

void PageSlabs::release(void* pointer, size_t bytes) noexcept {
  if (!pointer) return;
  char* begin = static_cast<char*>(pointer);
  size_t size = rounded(bytes);
  const std::lock_guard lock(mutex_);
  os::clear_pages(begin, size);
  const auto slab = std::prev(slabs_.upper_bound(begin));
  const char* slab_end = slab->first + slab->second;
  auto next = free_.lower_bound(begin);
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == begin && before->first >= slab->first) {
      begin = before->first;
      size += before->second;
      free_.erase(before);
    }
  }
  if (next != free_.end() && begin + size == next->first && next->first < slab_end) {
    size += next->second;
    free_.erase(next);
  }
  if (size == slab->second) {
    os::free_pages(slab->first, slab->second);
    slabs_.erase(slab);
    return;
  }
  try {
    free_.emplace(begin, size);
  } catch (...) {
    // Without memory for the note, the range stays unused until the device closes.
  }
}

}  // namespace lowrank
