// The tensors of a model folder: model.safetensors, or the shards of model.safetensors.index.json.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/safetensors.h"

namespace lowrank {

// An index file's weight_map: tensor name to file name, in the file's order. Throws
// Error{kInvalidFile} for bad JSON, a missing map, and a name that isn't a plain file name
// ending in ".safetensors".
std::vector<std::pair<std::string, std::string>> parse_shard_index(std::string_view text,
                                                                   const std::string& where);

class ShardedTensors {
 public:
  // Throws Error{kIo} or Error{kInvalidFile}: no weights, a missing shard, a tensor that isn't in
  // the shard that the index names, a tensor that stands twice.
  explicit ShardedTensors(const std::string& folder);

  struct Entry {
    const TensorView* tensor = nullptr;
    const SafetensorsFile* file = nullptr;
  };
  const std::string& folder() const { return folder_; }
  // Every tensor, file by file, in the order of each file's header.
  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  // Null when there is none.
  const Entry* find(std::string_view name) const;

 private:
  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Entry> entries_;
  std::map<std::string_view, size_t> by_name_;
};

// Names of the weight files in a folder (none when there is no folder), for a writer that replaces
// them.
std::vector<std::string> weight_files(const std::string& folder);

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

// transformers 4's max_shard_size.
inline constexpr uint64_t kMaxShardBytes = 5'000'000'000;

// Writes tensors in the given order as model.safetensors, or as shards of at most `max_shard_bytes`
// (one larger tensor gets a shard of its own) with their index.
class ShardedWriter {
 public:
  ShardedWriter(std::string folder, std::vector<TensorSpec> tensors,
                uint64_t max_shard_bytes = kMaxShardBytes);
  ~ShardedWriter();

  // The next bytes of the tensors, one after the other; a piece must not cross two tensors.
  void append(const void* data, uint64_t bytes);
  void finish();

 private:
  void open_shard();
  std::string shard_name(size_t shard) const;

  std::string folder_;
  std::vector<TensorSpec> tensors_;
  std::vector<std::pair<size_t, size_t>> shards_;  // tensors [first, last)
  size_t shard_ = 0, tensor_ = 0;
  uint64_t left_ = 0;  // bytes missing from the current tensor
  uint64_t total_bytes_ = 0, total_parameters_ = 0;
  std::unique_ptr<SafetensorsWriter> writer_;
};

}  // namespace lowrank
