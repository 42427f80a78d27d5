#include "core/page_slabs.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "support/test.h"

namespace lowrank {
namespace {

bool holds_only(const char* block, size_t bytes, char value) {
  for (size_t i = 0; i < bytes; ++i)
    if (block[i] != value) return false;
  return true;
}

TEST(blocks_are_zero_aligned_and_apart) {
  PageSlabs slabs;
  std::vector<char*> blocks;
  constexpr size_t kBytes = 300001;
  for (char fill = 1; fill <= 8; ++fill) {
    char* block = static_cast<char*>(slabs.allocate(kBytes));
    CHECK_EQ(reinterpret_cast<uintptr_t>(block) % 4096, uintptr_t{0});
    CHECK(holds_only(block, kBytes, 0));
    std::memset(block, fill, kBytes);
    blocks.push_back(block);
  }
  CHECK_EQ(slabs.slab_count(), size_t{1});
  for (size_t i = 0; i < blocks.size(); ++i)
    CHECK(holds_only(blocks[i], kBytes, static_cast<char>(i + 1)));
  for (char* block : blocks) slabs.release(block, kBytes);
  CHECK_EQ(slabs.slab_count(), size_t{0});
}

TEST(released_memory_is_used_again_and_reads_as_zero) {
  PageSlabs slabs;
  constexpr size_t kQuarter = PageSlabs::kSlabBytes / 4;
  char* quarters[4];
  for (char*& quarter : quarters) {
    quarter = static_cast<char*>(slabs.allocate(kQuarter));
    quarter[0] = quarter[kQuarter - 1] = 1;
  }
  CHECK_EQ(slabs.slab_count(), size_t{1});
  // Two neighbours, given back in either order, become one range.
  for (const bool upward : {true, false}) {
    slabs.release(quarters[upward ? 1 : 2], kQuarter);
    slabs.release(quarters[upward ? 2 : 1], kQuarter);
    char* half = static_cast<char*>(slabs.allocate(2 * kQuarter));
    CHECK(half == quarters[1]);
    CHECK_EQ(half[0] + half[kQuarter - 1] + half[kQuarter] + half[2 * kQuarter - 1], 0);
    slabs.release(half, 2 * kQuarter);
    for (int i = 1; i <= 2; ++i) CHECK(slabs.allocate(kQuarter) == quarters[i]);
    quarters[1][0] = quarters[2][kQuarter - 1] = 1;
  }
  CHECK_EQ(slabs.slab_count(), size_t{1});
  for (char* quarter : quarters) slabs.release(quarter, kQuarter);
  CHECK_EQ(slabs.slab_count(), size_t{0});
}

TEST(slabs_are_added_when_full_and_never_merge) {
  PageSlabs slabs;
  constexpr size_t kWhole = PageSlabs::kSlabBytes;
  void* first = slabs.allocate(kWhole);
  void* second = slabs.allocate(kWhole);
  CHECK_EQ(slabs.slab_count(), size_t{2});
  slabs.release(first, kWhole);
  CHECK_EQ(slabs.slab_count(), size_t{1});
  slabs.release(second, kWhole);
  CHECK_EQ(slabs.slab_count(), size_t{0});
}

}  // namespace
}  // namespace lowrank
