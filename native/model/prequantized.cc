#include "model/prequantized.h"

#include <cstring>

#include "core/error.h"
#include "core/nf4.h"
#include "io/json.h"

namespace lowrank {
namespace {

constexpr const char* kStateSuffix = ".quant_state.bitsandbytes__nf4";

const TensorView& companion(const ShardedTensors& tensors, const std::string& name, DType dtype,
                            int64_t count) {
  const ShardedTensors::Entry* entry = tensors.find(name);
  if (!entry)
    throw Error(ErrorCode::kInvalidFile, "the tensor " + name + " is missing", tensors.folder());
  if (entry->tensor->dtype != dtype || entry->tensor->count() != count)
    throw Error(
        ErrorCode::kInvalidFile,
        std::string("expected ") + std::to_string(count) + " values of type " + dtype_name(dtype),
        entry->file->path() + ": " + name);
  return *entry->tensor;
}

// The tensor's bytes on the device; `buffer` holds them when they can't be mapped.
const void* place_bytes(const std::shared_ptr<Device>& device, const TensorView& tensor,
                        Buffer* buffer) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.data);
  if (device->backend().host_memory && address % dtype_size(tensor.dtype) == 0) return tensor.data;
  *buffer = Buffer(device, tensor.bytes);
  buffer->upload(tensor.data, tensor.bytes);
  return buffer->data();
}

int64_t required_integer(const Json& state, const char* key, const std::string& where) {
  const Json* value = state.find(key);
  if (!value) throw Error(ErrorCode::kInvalidFile, std::string(key) + " is missing", where);
  return value->as_integer(where + ": " + key);
}

void check_state(const Json& state, int64_t rows, int64_t cols, const std::string& where) {
  const Json* shape = state.find("shape");
  if (!shape) throw Error(ErrorCode::kInvalidFile, "shape is missing", where);
  const auto& extents = shape->as_array(where + ": shape");
  if (extents.size() != 2 || extents[0].as_integer(where) != rows ||
      extents[1].as_integer(where) != cols)
    throw Error(ErrorCode::kInvalidFile,
                "the quantized weight's shape isn't [" + std::to_string(rows) + ", " +
                    std::to_string(cols) + "]",
                where, "the weights don't belong to this config.json");
  if (required_integer(state, "blocksize", where) != kNf4Block)
    throw Error(ErrorCode::kUnsupported, "NF4 blocks of another size than 64", where,
                "quantize on load from the original weights instead");
}

}  // namespace

bool is_prequantized(const ShardedTensors& tensors, const std::string& name) {
  const ShardedTensors::Entry* entry = tensors.find(name);
  return entry && tensors.find(name + ".absmax") != nullptr;
}

std::vector<std::string> prequantized_companions(const ShardedTensors& tensors,
                                                 const std::string& name) {
  std::vector<std::string> names;
  for (const char* suffix :
       {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", kStateSuffix})
    if (tensors.find(name + suffix)) names.push_back(name + suffix);
  return names;
}

bool place_prequantized(const std::shared_ptr<Device>& device, const ShardedTensors& tensors,
                        int64_t rows, int64_t cols, WeightMatrix* matrix) {
  const std::string& name = matrix->name;
  const ShardedTensors::Entry* state_entry = tensors.find(name + kStateSuffix);
  if (!state_entry)
    throw Error(ErrorCode::kUnsupported, "the weight is quantized, but not as bitsandbytes NF4",
                name, "load the original weights and quantize on load");
  const std::string where = state_entry->file->path() + ": " + name + kStateSuffix;
  if (state_entry->tensor->dtype != DType::kU8)
    throw Error(ErrorCode::kInvalidFile, "the quantization state must be bytes", where);
  const Json state =
      Json::parse(std::string_view(reinterpret_cast<const char*>(state_entry->tensor->data),
                                   state_entry->tensor->bytes),
                  where);
  check_state(state, rows, cols, where);

  const int64_t count = rows * cols;
  const int64_t blocks = (count + kNf4Block - 1) / kNf4Block;
  const TensorView& codes = companion(tensors, name, DType::kU8, (count + 1) / 2);
  const TensorView& map = companion(tensors, name + ".quant_map", DType::kF32, 16);
  if (std::memcmp(map.data, kNf4Values.data(), sizeof kNf4Values) != 0)
    throw Error(ErrorCode::kUnsupported, "a code book that isn't NF4", where,
                "load the original weights and quantize on load");

  Weight& view = matrix->view;
  view.storage = Storage::kNF4;
  view.rows = rows;
  view.cols = cols;
  view.data = place_bytes(device, codes, &matrix->data);
  const bool nested = tensors.find(name + ".nested_absmax") != nullptr;
  if (!nested) {
    const TensorView& absmax = companion(tensors, name + ".absmax", DType::kF32, blocks);
    view.absmax = static_cast<const float*>(place_bytes(device, absmax, &matrix->absmax));
    return false;
  }
  if (required_integer(state, "nested_blocksize", where) != kNf4NestedBlock)
    throw Error(ErrorCode::kUnsupported, "nested blocks of another size than 256", where,
                "quantize on load from the original weights instead");
  const Json* offset = state.find("nested_offset");
  if (!offset) throw Error(ErrorCode::kInvalidFile, "nested_offset is missing", where);
  const int64_t groups = (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
  const TensorView& absmax = companion(tensors, name + ".absmax", DType::kU8, blocks);
  const TensorView& second = companion(tensors, name + ".nested_absmax", DType::kF32, groups);
  const TensorView& code = companion(tensors, name + ".nested_quant_map", DType::kF32, 256);
  view.absmax_codes = static_cast<const uint8_t*>(place_bytes(device, absmax, &matrix->absmax));
  view.nested_absmax =
      static_cast<const float*>(place_bytes(device, second, &matrix->nested_absmax));
  view.nested_offset = static_cast<float>(offset->as_number(where + ": nested_offset"));
  view.nested_code = static_cast<const float*>(place_bytes(device, code, &matrix->nested_map));
  return true;
}

namespace {

// quantization_config of a bitsandbytes 4-bit folder; null without one.
const Json* find_quantization(const Json& config, const std::string& where) {
  const Json* quantization = config.find("quantization_config");
  if (!quantization || quantization->is_null()) return nullptr;
  const std::string place = where + ": quantization_config";
  const Json* method = quantization->find("quant_method");
  const Json* four_bit = quantization->find("load_in_4bit");
  const Json* type = quantization->find("bnb_4bit_quant_type");
  std::string name = method ? method->as_string(place) : "?";
  const bool is_4bit = name == "bitsandbytes" && four_bit && four_bit->as_bool(place);
  // Where the field is missing the tensors tell.
  const std::string code = type ? type->as_string(place) : "nf4";
  if (is_4bit && code == "nf4") return quantization;
  if (is_4bit) name += " in " + code;
  throw Error(ErrorCode::kUnsupported, "weights quantized by " + name, place,
              "only bitsandbytes' 4-bit NF4 folders are read; use the original weights");
}

}  // namespace

Quantization stored_quantization(const std::string& config_json, const std::string& where) {
  const Json config = Json::parse(config_json, where);
  const Json* quantization = find_quantization(config, where);
  if (!quantization) return Quantization::kNone;
  const Json* nested = quantization->find("bnb_4bit_use_double_quant");
  return nested && nested->as_bool(where + ": bnb_4bit_use_double_quant") ? Quantization::kNf4Double
                                                                          : Quantization::kNf4;
}

std::string without_quantization_config(const std::string& config_json, const std::string& where) {
  const Json config = Json::parse(config_json, where);
  if (!find_quantization(config, where)) return config_json;
  Json rest = Json::object();
  for (const auto& [key, value] : config.as_object(where))
    if (key != "quantization_config") rest.append_member(key, value);
  return rest.dump(2) + "\n";
}

}  // namespace lowrank
