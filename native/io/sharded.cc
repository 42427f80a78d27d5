#include "io/sharded.h"

#include <cstdio>
#include <set>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"

namespace lowrank {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::string_view kSuffix = ".safetensors";

// A shard lies in the model's own folder; anything else could read files it shouldn't.
bool is_plain_name(const std::string& name) {
  return name.size() > kSuffix.size() && name.front() != '.' &&
         name.find_first_of(std::string("/\\:\0", 4)) == std::string::npos &&
         std::string_view(name).substr(name.size() - kSuffix.size()) == kSuffix;
}

uint64_t tensor_bytes(const TensorSpec& tensor, uint64_t* parameters) {
  uint64_t count = 1;
  for (const int64_t extent : tensor.shape) count *= static_cast<uint64_t>(extent);
  if (parameters) *parameters += count;
  return count * dtype_size(tensor.dtype);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> parse_shard_index(std::string_view text,
                                                                   const std::string& where) {
  const Json json = Json::parse(text, where);
  const Json* map = json.find("weight_map");
  if (!map)
    throw Error(ErrorCode::kInvalidFile, "weight_map is missing", where,
                "download or write the index again");
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& [tensor, file] : map->as_object(where + ": weight_map")) {
    const std::string& name = file.as_string(where + ": " + tensor);
    if (!is_plain_name(name))
      throw Error(
          ErrorCode::kInvalidFile,
          "a shard must be a .safetensors file in the model's own folder, not " + Json(name).dump(),
          where + ": " + tensor, "don't use this folder unless you trust its source");
    entries.emplace_back(tensor, name);
  }
  return entries;
}

ShardedTensors::ShardedTensors(const std::string& folder) : folder_(folder) {
  const std::string index_path = join_path(folder, kIndexFile);
  const std::string single_path = join_path(folder, kSingleFile);
  std::vector<std::pair<std::string, std::string>> index;
  if (file_exists(single_path)) {
    files_.push_back(std::make_unique<SafetensorsFile>(single_path));
  } else if (file_exists(index_path)) {
    index = parse_shard_index(read_text_file(index_path), index_path);
    std::set<std::string> opened;
    for (const auto& [tensor, name] : index) {
      if (!opened.insert(name).second) continue;
      const std::string path = join_path(folder, name);
      if (!file_exists(path))
        throw Error(ErrorCode::kInvalidFile, "the shard " + name + " is missing", index_path,
                    "download the whole model folder");
      files_.push_back(std::make_unique<SafetensorsFile>(path));
    }
  } else {
    throw Error(ErrorCode::kInvalidFile,
                std::string("there is neither ") + kSingleFile + " nor " + kIndexFile, folder,
                "point to a Hugging Face model folder; .bin and .pt files are pickles and are "
                "not read");
  }

  for (const auto& file : files_) {
    for (const TensorView& tensor : file->tensors()) {
      if (!by_name_.emplace(tensor.name, entries_.size()).second)
        throw Error(ErrorCode::kInvalidFile, "the tensor " + tensor.name + " stands in two shards",
                    file->path(), "download the whole model folder again");
      entries_.push_back({&tensor, file.get()});
    }
  }
  for (const auto& [tensor, name] : index) {
    const Entry* entry = find(tensor);
    if (!entry || entry->file->path() != join_path(folder, name))
      throw Error(ErrorCode::kInvalidFile, "the tensor " + tensor + " isn't in the shard " + name,
                  index_path, "download the whole model folder again");
  }
}

const ShardedTensors::Entry* ShardedTensors::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

std::vector<std::string> weight_files(const std::string& folder) {
  std::vector<std::string> names;
  if (!folder_exists(folder)) return names;
  for (std::string& name : list_files(folder))
    if (name == kIndexFile || (name.compare(0, 5, "model") == 0 && is_plain_name(name)))
      names.push_back(std::move(name));
  return names;
}

ShardedWriter::ShardedWriter(std::string folder, std::vector<TensorSpec> tensors,
                             uint64_t max_shard_bytes)
    : folder_(std::move(folder)), tensors_(std::move(tensors)) {
  uint64_t in_shard = 0;
  size_t first = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const uint64_t bytes = tensor_bytes(tensors_[i], &total_parameters_);
    if (i > first && in_shard + bytes > max_shard_bytes) {
      shards_.emplace_back(first, i);
      first = i;
      in_shard = 0;
    }
    in_shard += bytes;
    total_bytes_ += bytes;
  }
  shards_.emplace_back(first, tensors_.size());
  open_shard();
}

ShardedWriter::~ShardedWriter() = default;

std::string ShardedWriter::shard_name(size_t shard) const {
  if (shards_.size() == 1) return kSingleFile;
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, shards_.size());
  return name;
}

void ShardedWriter::open_shard() {
  writer_ = std::make_unique<SafetensorsWriter>(join_path(folder_, shard_name(shard_)));
  const auto [first, last] = shards_[shard_];
  for (size_t i = first; i < last; ++i)
    writer_->declare(tensors_[i].name, tensors_[i].dtype, tensors_[i].shape);
  tensor_ = first;
  left_ = first < last ? tensor_bytes(tensors_[first], nullptr) : 0;
}

void ShardedWriter::append(const void* data, uint64_t bytes) {
  while (left_ == 0 && tensor_ < tensors_.size()) {
    if (++tensor_ == tensors_.size()) break;
    if (tensor_ == shards_[shard_].second) {
      writer_->finish();
      ++shard_;
      open_shard();
    } else {
      left_ = tensor_bytes(tensors_[tensor_], nullptr);
    }
  }
  if (bytes > left_)
    throw Error(ErrorCode::kInternal, "more bytes than the tensor has",
                tensor_ < tensors_.size() ? tensors_[tensor_].name : folder_);
  writer_->append(data, bytes);
  left_ -= bytes;
}

void ShardedWriter::finish() {
  append(nullptr, 0);  // steps past empty tensors
  if (left_ != 0 || tensor_ < tensors_.size())
    throw Error(ErrorCode::kInternal, "fewer bytes than were declared", folder_);
  writer_->finish();
  if (shards_.size() == 1) return;
  Json map = Json::object();
  for (size_t shard = 0; shard < shards_.size(); ++shard)
    for (size_t i = shards_[shard].first; i < shards_[shard].second; ++i)
      map.append_member(tensors_[i].name, Json(shard_name(shard)));
  Json metadata = Json::object();
  metadata.set("total_parameters", Json(static_cast<int64_t>(total_parameters_)));
  metadata.set("total_size", Json(static_cast<int64_t>(total_bytes_)));
  Json index = Json::object();
  index.set("metadata", std::move(metadata));
  index.set("weight_map", std::move(map));
  write_text_file(join_path(folder_, kIndexFile), index.dump(2) + "\n");
}

}  // namespace lowrank
