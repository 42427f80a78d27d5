#include "io/sharded.h"

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "io/files.h"
#include "support/temporary_folder.h"
#include "support/test.h"

namespace lowrank {
namespace {

void write_shards(const std::string& folder, uint64_t max_bytes) {
  ShardedWriter writer(
      folder, {{"a", DType::kF32, {3}}, {"b", DType::kF32, {2, 2}}, {"c", DType::kU8, {1}}},
      max_bytes);
  const float values[7] = {1, 2, 3, 4, 5, 6, 7};
  const uint8_t c = 9;
  writer.append(values, 12);
  writer.append(values + 3, 8);
  writer.append(values + 5, 8);
  writer.append(&c, 1);
  writer.finish();
}

TEST(sharded_single_file) {
  const test::TemporaryFolder folder;
  write_shards(folder.path(), kMaxShardBytes);
  CHECK(list_files(folder.path()) == std::vector<std::string>{"model.safetensors"});
  const ShardedTensors tensors(folder.path());
  CHECK_EQ(tensors.entries().size(), size_t{3});
  CHECK(tensors.find("d") == nullptr);
}

TEST(sharded_round_trip) {
  const test::TemporaryFolder folder;
  write_shards(folder.path(), 16);  // a; b; c, since b fills its shard
  CHECK_EQ(list_files(folder.path()).size(), size_t{4});
  const ShardedTensors tensors(folder.path());
  CHECK_EQ(tensors.files().size(), size_t{3});
  float b[4];
  std::memcpy(b, tensors.find("b")->tensor->data, sizeof b);
  CHECK_EQ(b[0], 4.0f);
  CHECK_EQ(b[3], 7.0f);
  CHECK_EQ(tensors.find("c")->tensor->data[0], 9);
  CHECK_EQ(weight_files(folder.path()).size(), size_t{4});
}

TEST(sharded_missing_and_damaged_shards) {
  const test::TemporaryFolder folder;
  write_shards(folder.path(), 16);
  const std::string second = folder / "model-00002-of-00003.safetensors";
  const std::string bytes = read_text_file(second);
  std::filesystem::remove(second);
  CHECK_ERROR(ShardedTensors(folder.path()), ErrorCode::kInvalidFile,
              "model-00002-of-00003.safetensors is missing");
  write_text_file(second, bytes.substr(0, bytes.size() - 1));
  CHECK_ERROR(ShardedTensors(folder.path()), ErrorCode::kInvalidFile, "truncated");
  copy_file(folder / "model-00001-of-00003.safetensors", second);
  CHECK_ERROR(ShardedTensors(folder.path()), ErrorCode::kInvalidFile, "two shards");
}

TEST(sharded_index_must_name_the_right_shard) {
  const test::TemporaryFolder folder;
  write_shards(folder.path(), 16);
  write_text_file(folder / "model.safetensors.index.json",
                  R"({"weight_map":{"a":"model-00002-of-00003.safetensors",)"
                  R"("b":"model-00002-of-00003.safetensors"}})");
  CHECK_ERROR(ShardedTensors(folder.path()), ErrorCode::kInvalidFile, "a isn't in the shard");
}

TEST(sharded_index_refuses_paths) {
  for (const char* name : {"../x.safetensors", "/etc/x.safetensors", "a/x.safetensors",
                           "a\\\\x.safetensors", "C:x.safetensors", ".safetensors", "..",
                           ".x.safetensors", "", "x.bin", "x\\u0000/../y.safetensors"})
    CHECK_ERROR(
        parse_shard_index(std::string(R"({"weight_map":{"t":")") + name + R"("}})", "index"),
        ErrorCode::kInvalidFile, "own folder");
}

TEST(sharded_index_refuses_bad_json) {
  CHECK_ERROR(parse_shard_index("{}", "index"), ErrorCode::kInvalidFile, "weight_map is missing");
  CHECK_ERROR(parse_shard_index("[", "index"), ErrorCode::kInvalidFile, "index:1:2");
  CHECK_ERROR(parse_shard_index(R"({"weight_map":[]})", "index"), ErrorCode::kInvalidFile,
              "expected an object");
  CHECK_ERROR(parse_shard_index(R"({"weight_map":{"t":1}})", "index"), ErrorCode::kInvalidFile,
              "index: t");
}

TEST(sharded_needs_weights) {
  const test::TemporaryFolder folder;
  write_text_file(folder / "pytorch_model.bin", "x");
  CHECK_ERROR(ShardedTensors(folder.path()), ErrorCode::kInvalidFile, "pickles");
}

TEST(output_folder_appears_complete_or_not_at_all) {
  const test::TemporaryFolder folder;
  const std::string target = folder / "a/b";
  {
    OutputFolder output(target);
    write_text_file(join_path(output.path(), "x"), "1");
    CHECK(!folder_exists(target));
  }
  CHECK(!folder_exists(target));
  CHECK(std::filesystem::is_empty(folder / "a"));
  {
    OutputFolder output(target);
    write_text_file(join_path(output.path(), "x"), "1");
    write_text_file(join_path(output.path(), "old"), "2");
    output.commit();
  }
  CHECK_EQ(read_text_file(target + "/x"), "1");
}

TEST(output_folder_replaces_its_files_and_keeps_others) {
  const test::TemporaryFolder folder;
  const std::string target = folder / "out/";
  std::filesystem::create_directories(folder / "out/sub");
  write_text_file(folder / "out/x", "old");
  write_text_file(folder / "out/shard", "old");
  write_text_file(folder / "out/notes.md", "mine");
  write_text_file(folder / "out/sub/notes.md", "mine too");
  OutputFolder output(target);
  write_text_file(join_path(output.path(), "x"), "new");
  output.commit({"shard"});
  CHECK_EQ(read_text_file(folder / "out/x"), "new");
  CHECK_EQ(read_text_file(folder / "out/notes.md"), "mine");
  CHECK_EQ(read_text_file(folder / "out/sub/notes.md"), "mine too");
  CHECK(!file_exists(folder / "out/shard"));
  // Nothing temporary stays behind.
  CHECK_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  write_text_file(folder / "file", "");
  CHECK_ERROR(OutputFolder(folder / "file"), ErrorCode::kIo, "a file stands");
}

}  // namespace
}  // namespace lowrank
