// safetensors files: a little-endian u64 header length, a JSON header, tensor bytes. Reading maps
// the file; everything in the header is checked before a pointer is handed out.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/os.h"

namespace lowrank {

struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  uint64_t bytes = 0;

  int64_t count() const;
};

// The header of a safetensors file, checked: `offset` is where tensor bytes begin in the file.
struct SafetensorsHeader {
  struct Entry {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;  // relative to the first tensor byte
  };
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;
};

// Parses and checks a header out of the file's bytes; `size` is the whole file's. Throws
// Error{kInvalidFile} for: a truncated or absurd header, bad JSON, an unknown dtype, a negative or
// overflowing shape, offsets that don't match the shape, overlap, leave a hole or leave the file.
SafetensorsHeader parse_safetensors_header(const uint8_t* data, uint64_t size,
                                           const std::string& where);

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorView* find(std::string_view name) const;
  // Throws Error{kInvalidFile} naming the tensor when it is missing.
  const TensorView& at(std::string_view name) const;
  // The mapping, to keep views alive longer than this object.
  const std::shared_ptr<os::MappedFile>& mapping() const { return file_; }
  // Says that this tensor won't be read again (see os::MappedFile::drop_pages).
  void drop(const TensorView& tensor) const;

 private:
  std::shared_ptr<os::MappedFile> file_;
  std::vector<TensorView> tensors_;
  std::map<std::string_view, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

// Writes a file in two passes: declare every tensor, then append their bytes in that order. The
// file appears complete on finish() or not at all. __metadata__ always holds {"format": "pt"}.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::string path, std::map<std::string, std::string> metadata = {});
  ~SafetensorsWriter();

  void declare(const std::string& name, DType dtype, std::vector<int64_t> shape);
  // Bytes of the next declared tensor; may come in pieces.
  void append(const void* data, uint64_t bytes);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// "F32" and so on; throws Error{kInvalidFile} for what the engine doesn't know.
DType parse_safetensors_dtype(const std::string& name, const std::string& where);
const char* safetensors_dtype_name(DType dtype);

}  // namespace lowrank
