#include "io/safetensors.h"

#include <cstring>

#include "core/error.h"
#include "io/files.h"
#include "support/temporary_folder.h"
#include "support/test.h"

namespace lowrank {
namespace {

std::string file_bytes(const std::string& header, size_t data_bytes) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i)
    bytes[static_cast<size_t>(i)] = static_cast<char>(uint64_t{header.size()} >> (8 * i));
  return bytes + header + std::string(data_bytes, '\x01');
}

SafetensorsHeader parse(const std::string& bytes) {
  return parse_safetensors_header(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(),
                                  "x.safetensors");
}

// A header of one tensor "t".
std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

void check_refused(const std::string& header, size_t data_bytes, const std::string& text) {
  CHECK_ERROR(parse(file_bytes(header, data_bytes)), ErrorCode::kInvalidFile, text);
}

TEST(safetensors_reads_a_header) {
  const auto header = parse(file_bytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},)"
      R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
      R"("e":{"dtype":"F16","shape":[0,5],"data_offsets":[14,14]},)"
      R"("s":{"dtype":"U8","shape":[],"data_offsets":[14,15]}})",
      15));
  CHECK_EQ(header.entries.size(), size_t{4});
  CHECK_EQ(header.entries[0].name, "b");
  CHECK(header.entries[1].shape == (std::vector<int64_t>{1, 2}));
  CHECK_EQ(header.metadata.at("format"), "pt");
}

TEST(safetensors_refuses_every_truncation) {
  const std::string bytes = file_bytes(tensor("F32", "[2,3]", "[0,24]"), 24);
  parse(bytes);
  for (size_t size = 0; size < bytes.size(); ++size)
    CHECK_ERROR(parse(bytes.substr(0, size)), ErrorCode::kInvalidFile, "x.safetensors");
  CHECK_ERROR(parse(bytes + "x"), ErrorCode::kInvalidFile, "behind the last tensor");
}

TEST(safetensors_refuses_absurd_sizes) {
  std::string bytes = file_bytes("{}", 0);
  for (const char byte : {'\x7f', '\xff'}) {
    bytes[7] = byte;
    CHECK_ERROR(parse(bytes), ErrorCode::kInvalidFile, "absurdly large");
  }
  check_refused(tensor("F32", "[4294967296,4294967296]", "[0,8]"), 8, "absurdly large");
  check_refused(tensor("F32", "[9223372036854775807,9]", "[0,8]"), 8, "absurdly large");
  check_refused(tensor("F32", "[-1,-2]", "[0,8]"), 8, "negative");
  check_refused(tensor("F32", "[1e400]", "[0,8]"), 8, "out of range");
  check_refused(tensor("F32", "[2.5]", "[0,10]"), 10, "expected an integer");
  check_refused(tensor("F32", "[99999999999999999999]", "[0,8]"), 8, "expected an integer");
}

TEST(safetensors_refuses_bad_offsets) {
  check_refused(tensor("F32", "[2]", "[0,12]"), 12, "match the shape");
  check_refused(tensor("F32", "[2]", "[8,0]"), 8, "backwards");
  check_refused(tensor("F32", "[2]", "[-8,0]"), 8, "backwards");
  check_refused(tensor("F32", "[2]", "[0]"), 8, "two numbers");
  check_refused(tensor("F32", "[2]", "[8,16]"), 16, "hole");
  check_refused(tensor("F32", "[2]", "[0,8]"), 4, "truncated");
  const std::string two = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                          R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})";
  check_refused(two, 6, "overlaps");
  check_refused(two, 6, "x.safetensors: b");
}

TEST(safetensors_refuses_bad_entries) {
  check_refused("[]", 0, "expected an object");
  check_refused("{", 0, "not valid JSON");
  check_refused(R"({"t":1})", 0, "missing");
  check_refused(R"({"t":{"dtype":"F32","shape":[1]}})", 4, "missing");
  check_refused(tensor("F33", "[1]", "[0,4]"), 4, "F33");
  check_refused(R"({"__metadata__":{"a":1}})", 0, "__metadata__.a");
  check_refused(R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                R"("t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                0, "stands twice");
}

TEST(safetensors_writes_what_it_reads) {
  const test::TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const float a[6] = {1, 2, 3, 4, 5, 6};
  const uint8_t b[3] = {7, 8, 9};
  SafetensorsWriter writer(path);
  writer.declare("a", DType::kF32, {2, 3});
  writer.declare("b", DType::kU8, {3});
  writer.append(a, 8);
  CHECK(!file_exists(path));  // nothing is seen before it is complete
  writer.append(a + 2, 16);
  writer.append(b, 3);
  writer.finish();
  const SafetensorsFile file(path);
  CHECK_EQ(file.metadata().at("format"), "pt");
  CHECK_EQ(std::memcmp(file.at("a").data, a, sizeof a), 0);
  CHECK_EQ(reinterpret_cast<uintptr_t>(file.at("a").data) % 8, uintptr_t{0});
  CHECK_EQ(std::memcmp(file.at("b").data, b, sizeof b), 0);
  CHECK_ERROR(file.at("c"), ErrorCode::kInvalidFile, "the tensor c is missing");
}

TEST(safetensors_writer_leaves_nothing_when_it_isnt_finished) {
  const test::TemporaryFolder folder;
  {
    SafetensorsWriter writer(folder / "x.safetensors");
    writer.declare("a", DType::kF32, {2});
    const float a[2] = {1, 2};
    writer.append(a, 4);
    CHECK_ERROR(writer.finish(), ErrorCode::kInternal, "fewer bytes");
    CHECK_ERROR(writer.append(a, 8), ErrorCode::kInternal, "more bytes");
  }
  CHECK(list_files(folder.path()).empty());
}

TEST(safetensors_needs_a_regular_file) {
  const test::TemporaryFolder folder;
  CHECK_ERROR(SafetensorsFile(folder / "none"), ErrorCode::kIo, "none");
  CHECK_ERROR(SafetensorsFile(folder.path()), ErrorCode::kIo, folder.path());
  write_text_file(folder / "empty", "");
  CHECK_ERROR(SafetensorsFile(folder / "empty"), ErrorCode::kInvalidFile, "shorter than a header");
}

}  // namespace
}  // namespace lowrank
