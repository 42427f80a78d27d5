#include "model/device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>

namespace lowrank::cuda::model {
namespace {

constexpr size_t kStretch = size_t{16} << 30;  // addresses, not memory
constexpr size_t kPage = size_t{1} << 12;

struct Memory {
  std::mutex mutex;
  char* begin = nullptr;
  int open = 0;
  size_t used = 0;  // [0, used) has been handed out at some time
  size_t in_use = 0;
  std::map<size_t, size_t> sizes;      // offset of what is in use
  std::multimap<size_t, size_t> free;  // offsets by size

  void protect() { ::mprotect(begin, used, open > 0 ? PROT_READ | PROT_WRITE : PROT_NONE); }
};

Memory& memory() {
  static auto& only = *new Memory;
  return only;
}
bool chosen = false;

}  // namespace

void use_device_memory() { chosen = true; }
bool has_device_memory() { return chosen; }

void* allocate_device_memory(size_t bytes) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (!m.begin) {
    void* found =
        ::mmap(nullptr, kStretch, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    m.begin = static_cast<char*>(found);
  }
  // Each allocation has pages of its own.
  const size_t size = (bytes / kPage + 1) * kPage;
  if (m.in_use + size > device_memory_bytes()) throw std::bad_alloc();
  size_t offset = m.used;
  if (const auto same = m.free.find(size); same != m.free.end()) {
    offset = same->second;
    m.free.erase(same);
  } else {
    if (size > kStretch - m.used) throw std::bad_alloc();
    m.used += size;
    m.protect();
  }
  m.sizes[offset] = size;
  m.in_use += size;
  return m.begin + offset;
}

void release_device_memory(void* pointer) noexcept {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (!pointer) return;
  const auto found = m.sizes.find(static_cast<size_t>(static_cast<char*>(pointer) - m.begin));
  ::madvise(pointer, found->second, MADV_DONTNEED);
  m.free.emplace(found->second, found->first);
  m.in_use -= found->second;
  m.sizes.erase(found);
}

size_t device_memory_bytes() {
  const char* limit = std::getenv("LOWRANK_CUDA_MODEL_MEMORY");
  return limit ? std::strtoull(limit, nullptr, 10) : size_t{4} << 30;
}

size_t free_device_memory_bytes() {
  const std::lock_guard lock(memory().mutex);
  return device_memory_bytes() - std::min(device_memory_bytes(), memory().in_use);
}

DeviceAccess::DeviceAccess() {
  if (!chosen) return;
  const std::lock_guard lock(memory().mutex);
  if (memory().open++ == 0) memory().protect();
}

DeviceAccess::~DeviceAccess() {
  if (!chosen) return;
  const std::lock_guard lock(memory().mutex);
  if (--memory().open == 0) memory().protect();
}

}  // namespace lowrank::cuda::model
