// Random numbers, number formats, errors and files.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "core/dtype.h"
#include "core/error.h"
#include "core/os.h"
#include "core/random.h"
#include "support/test.h"

namespace lowrank {
namespace {

// Known answers of Random123 (kat_vectors: philox4x32, 10 rounds).
TEST(philox_gives_the_published_numbers) {
  const auto check = [](uint64_t key, uint64_t low, uint64_t high, const uint32_t(&expected)[4]) {
    const Philox4 bits = philox4x32(key, low, high);
    for (int i = 0; i < 4; ++i) CHECK_EQ(bits.v[i], expected[i]);
  };
  check(0, 0, 0, {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  const uint64_t ones = ~uint64_t{0};
  check(ones, ones, ones, {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  check(0x299f31d0a4093822u, 0x85a308d3243f6a88u, 0x0370734413198a2eu,
        {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST(uniform_numbers_are_uniform) {
  const uint64_t key = random_key(1, RandomUse::kTest);
  double sum = 0, squares = 0, normal = 0, normal_squares = 0;
  const int count = 100000;
  for (int i = 0; i < count; ++i) {
    const double u = random_uniform(key, static_cast<uint64_t>(i));
    const double n = random_normal(key, static_cast<uint64_t>(i));
    CHECK(u >= 0 && u < 1);
    sum += u;
    squares += u * u;
    normal += n;
    normal_squares += n * n;
  }
  // Five standard deviations of each mean.
  CHECK_NEAR(sum / count, 0.5, 5 * std::sqrt(1.0 / 12 / count));
  CHECK_NEAR(squares / count, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / count));
  CHECK_NEAR(normal / count, 0, 5 * std::sqrt(1.0 / count));
  CHECK_NEAR(normal_squares / count, 1, 5 * std::sqrt(2.0 / count));
  CHECK(random_key(1, RandomUse::kTest) != random_key(2, RandomUse::kTest));
  CHECK(random_key(1, RandomUse::kTest, 1) != random_key(1, RandomUse::kTest, 0, 1));
}

TEST(dropout_drops_its_share) {
  const uint64_t key = random_key(1, RandomUse::kDropout);
  for (const float p : {0.0f, 0.1f, 0.5f}) {
    int kept = 0;
    for (uint64_t i = 0; i < 40000; ++i) kept += dropout_keeps(key, i, dropout_threshold(p));
    CHECK_NEAR(kept / 40000.0, 1 - p, 5 * std::sqrt(p * (1 - p) / 40000) + 1e-12);
  }
}

TEST(bf16_rounds_to_nearest_even) {
  CHECK_EQ(to_bf16(1.0f).bits, 0x3f80);
  CHECK_EQ(to_bf16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // a tie, down to even
  CHECK_EQ(to_bf16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // a tie, up to even
  CHECK_EQ(to_bf16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  CHECK_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7f80);  // overflows to infinity
  CHECK(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7f800001u)))));
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const BF16 value{static_cast<uint16_t>(bits)};
    if (!std::isnan(to_float(value))) CHECK_EQ(to_bf16(to_float(value)).bits, value.bits);
  }
}

TEST(f16_rounds_to_nearest_even) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const F16 value{static_cast<uint16_t>(bits)};
    if (!std::isnan(to_float(value)))
      CHECK_EQ(to_f16(to_float(value)).bits, value.bits);
    else
      CHECK(std::isnan(to_float(to_f16(to_float(value)))));
  }
  CHECK_EQ(to_float(F16{0x3c00}), 1.0f);
  CHECK_EQ(to_float(F16{0x0001}), 0x1p-24f);
  CHECK_EQ(to_f16(65504.0f).bits, 0x7bff);
  CHECK_EQ(to_f16(65519.0f).bits, 0x7bff);
  CHECK_EQ(to_f16(65520.0f).bits, 0x7c00);             // a tie that overflows
  CHECK_EQ(to_f16(1.0f + 0x1p-11f).bits, 0x3c00);      // a tie, down to even
  CHECK_EQ(to_f16(1.0f + 3 * 0x1p-11f).bits, 0x3c02);  // a tie, up to even
  CHECK_EQ(to_f16(0x1p-25f).bits, 0x0000);             // a tie among subnormals
  CHECK_EQ(to_f16(std::nextafter(0x1p-25f, 1.0f)).bits, 0x0001);
}

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(an_atomic_file_is_complete_or_absent) {
  char folder[] = "/tmp/lowrank-core-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr);
  const std::string path = std::string(folder) + "/file";
  {
    os::AtomicFile file(path);
    file.write("abc", 3);
    CHECK(!std::filesystem::exists(path));
  }
  CHECK(std::filesystem::is_empty(folder));
  {
    os::AtomicFile file(path);
    file.write("abc", 3);
    file.commit();
  }
  CHECK_EQ(content(path), "abc");
  {
    os::AtomicFile file(path);
    file.write("d", 1);
  }
  CHECK_EQ(content(path), "abc");
  const os::MappedFile mapped(path);
  CHECK_EQ(mapped.size(), 3u);
  CHECK(std::memcmp(mapped.data(), "abc", 3) == 0);
  CHECK_ERROR(os::MappedFile(path + "-absent"), ErrorCode::kIo, "-absent");
  CHECK_ERROR(os::AtomicFile(path + "/below/a/file"), ErrorCode::kIo, "below");
  std::filesystem::remove_all(folder);
}

TEST(pages_are_zero_and_aligned) {
  auto* pages = static_cast<unsigned char*>(os::allocate_pages(100001));
  CHECK_EQ(reinterpret_cast<uintptr_t>(pages) % 64, 0u);
  for (size_t i = 0; i < 100001; i += 1000) CHECK_EQ(int{pages[i]}, 0);
  pages[100000] = 1;
  os::free_pages(pages, 100001);
  CHECK_ERROR(os::allocate_pages(std::numeric_limits<size_t>::max() / 4), ErrorCode::kOutOfMemory,
              "");
}

}  // namespace
}  // namespace lowrank
