#include "io/safetensors.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "io/json.h"

namespace lowrank {
namespace {

// The reference implementation's limit; a larger length is a damaged or hostile file.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

struct DTypeName {
  DType dtype;
  const char* name;
};
constexpr DTypeName kDTypeNames[] = {
    {DType::kF32, "F32"}, {DType::kBF16, "BF16"}, {DType::kF16, "F16"}, {DType::kI32, "I32"},
    {DType::kI64, "I64"}, {DType::kU8, "U8"},     {DType::kI8, "I8"},
};

[[noreturn]] void invalid(const std::string& message, const std::string& where) {
  throw Error(ErrorCode::kInvalidFile, message, where,
              "the file is damaged or not a safetensors file: download or write it again");
}

uint64_t checked_bytes(const std::vector<int64_t>& shape, DType dtype, const std::string& where) {
  uint64_t bytes = dtype_size(dtype);
  for (const int64_t extent : shape) {
    if (extent < 0) invalid("a negative size in the shape", where);
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes))
      invalid("the shape is absurdly large", where);
  }
  return bytes;
}

SafetensorsHeader::Entry parse_entry(const std::string& name, const Json& json,
                                     const std::string& file) {
  const std::string where = file + ": " + name;
  SafetensorsHeader::Entry entry;
  entry.name = name;
  const Json* dtype = json.find("dtype");
  const Json* shape = json.find("shape");
  const Json* offsets = json.find("data_offsets");
  if (!dtype || !shape || !offsets) invalid("dtype, shape or data_offsets is missing", where);
  entry.dtype = parse_safetensors_dtype(dtype->as_string(where), where);
  for (const Json& extent : shape->as_array(where)) entry.shape.push_back(extent.as_integer(where));
  const auto& pair = offsets->as_array(where);
  if (pair.size() != 2) invalid("data_offsets must be two numbers", where);
  const int64_t begin = pair[0].as_integer(where), end = pair[1].as_integer(where);
  if (begin < 0 || end < begin) invalid("data_offsets run backwards", where);
  entry.begin = static_cast<uint64_t>(begin);
  entry.end = static_cast<uint64_t>(end);
  if (entry.end - entry.begin != checked_bytes(entry.shape, entry.dtype, where))
    invalid("data_offsets don't match the shape", where);
  return entry;
}

}  // namespace

int64_t TensorView::count() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

DType parse_safetensors_dtype(const std::string& name, const std::string& where) {
  for (const DTypeName& known : kDTypeNames)
    if (name == known.name) return known.dtype;
  throw Error(ErrorCode::kInvalidFile, "unknown tensor type " + name, where,
              "the engine reads F32, BF16, F16, I64, I32, U8 and I8");
}

const char* safetensors_dtype_name(DType dtype) {
  for (const DTypeName& known : kDTypeNames)
    if (dtype == known.dtype) return known.name;
  return "?";
}

SafetensorsHeader parse_safetensors_header(const uint8_t* data, uint64_t size,
                                           const std::string& where) {
  if (size < 8) invalid("the file is shorter than a header", where);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | data[i];
  if (length > kMaxHeaderBytes) invalid("the header is absurdly large", where);
  if (length > size - 8) invalid("the file ends inside its header", where);
  const std::string_view text(reinterpret_cast<const char*>(data) + 8, length);
  const Json json = Json::parse(text, where);

  SafetensorsHeader header;
  header.data_offset = 8 + length;
  for (const auto& [name, value] : json.as_object(where)) {
    if (name == "__metadata__") {
      for (const auto& [key, entry] : value.as_object(where + ": __metadata__"))
        header.metadata[key] = entry.as_string(where + ": __metadata__." + key);
      continue;
    }
    header.entries.push_back(parse_entry(name, value, where));
  }

  // Tensor bytes must fill the rest of the file without gap or overlap.
  std::vector<const SafetensorsHeader::Entry*> order;
  for (const auto& entry : header.entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
  });
  uint64_t expected = 0;
  for (const auto* entry : order) {
    if (entry->begin < expected) invalid("the tensor overlaps another", where + ": " + entry->name);
    if (entry->begin > expected)
      invalid("there is a hole before the tensor", where + ": " + entry->name);
    expected = entry->end;
  }
  const uint64_t available = size - header.data_offset;
  if (expected > available) invalid("the file is truncated: tensors end outside it", where);
  if (expected < available) invalid("there are bytes behind the last tensor", where);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::string& path)
    : file_(std::make_shared<os::MappedFile>(path)) {
  SafetensorsHeader header = parse_safetensors_header(file_->data(), file_->size(), path);
  metadata_ = std::move(header.metadata);
  tensors_.reserve(header.entries.size());
  for (auto& entry : header.entries)
    tensors_.push_back({std::move(entry.name), entry.dtype, std::move(entry.shape),
                        file_->data() + header.data_offset + entry.begin, entry.end - entry.begin});
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const TensorView& SafetensorsFile::at(std::string_view name) const {
  if (const TensorView* tensor = find(name)) return *tensor;
  throw Error(ErrorCode::kInvalidFile, "the tensor " + std::string(name) + " is missing", path());
}

void SafetensorsFile::drop(const TensorView& tensor) const {
  file_->drop_pages(static_cast<size_t>(tensor.data - file_->data()), tensor.bytes);
}

struct SafetensorsWriter::State {
  std::string path;
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsHeader::Entry> entries;
  std::unique_ptr<os::AtomicFile> file;
  uint64_t declared = 0, written = 0;

  void begin() {
    Json header = Json::object();
    Json meta = Json::object();
    for (const auto& [key, value] : metadata) meta.set(key, Json(value));
    header.set("__metadata__", std::move(meta));
    for (const auto& entry : entries) {
      Json shape = Json::array();
      for (const int64_t extent : entry.shape) shape.push(Json(extent));
      Json offsets = Json::array();
      offsets.push(Json(static_cast<int64_t>(entry.begin)));
      offsets.push(Json(static_cast<int64_t>(entry.end)));
      Json json = Json::object();
      json.set("dtype", Json(safetensors_dtype_name(entry.dtype)));
      json.set("shape", std::move(shape));
      json.set("data_offsets", std::move(offsets));
      header.append_member(entry.name, std::move(json));
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');  // tensor bytes begin aligned
    uint8_t length[8];
    for (int i = 0; i < 8; ++i) length[i] = static_cast<uint8_t>(uint64_t{text.size()} >> (8 * i));
    file = std::make_unique<os::AtomicFile>(path);
    file->write(length, sizeof length);
    file->write(text.data(), text.size());
  }
};

SafetensorsWriter::SafetensorsWriter(std::string path, std::map<std::string, std::string> metadata)
    : state_(std::make_unique<State>()) {
  state_->path = std::move(path);
  state_->metadata = std::move(metadata);
  state_->metadata["format"] = "pt";
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::declare(const std::string& name, DType dtype, std::vector<int64_t> shape) {
  if (state_->file)
    throw Error(ErrorCode::kInternal, "a tensor was declared after bytes were written", name);
  const uint64_t bytes = checked_bytes(shape, dtype, name);
  state_->entries.push_back(
      {name, dtype, std::move(shape), state_->declared, state_->declared + bytes});
  state_->declared += bytes;
}

void SafetensorsWriter::append(const void* data, uint64_t bytes) {
  if (!state_->file) state_->begin();
  if (state_->written + bytes > state_->declared)
    throw Error(ErrorCode::kInternal, "more bytes than were declared", state_->path);
  state_->file->write(data, bytes);
  state_->written += bytes;
}

void SafetensorsWriter::finish() {
  if (!state_->file) state_->begin();
  if (state_->written != state_->declared)
    throw Error(ErrorCode::kInternal, "fewer bytes than were declared", state_->path);
  state_->file->commit();
}

}  // namespace lowrank
