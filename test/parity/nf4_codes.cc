// Quantizes `x` of a safetensors file twice: nf4_codes FROM TO writes codes, absmax, and of the
// absmax values nested_codes, nested_absmax and offset.
#include <cstdio>
#include <vector>

#include "core/error.h"
#include "engine.h"
#include "io/safetensors.h"
#include "ops/cast.h"

using namespace lowrank;

namespace {

void quantize(const char* from, const char* to) {
  const std::shared_ptr<Device> device = Device::open("cpu", {});
  const SafetensorsFile file(from);
  const TensorView& x = file.at("x");
  const int64_t blocks = (x.count() + 63) / 64, groups = (blocks + 255) / 256;
  std::vector<uint8_t> codes(static_cast<size_t>((x.count() + 1) / 2));
  std::vector<uint8_t> nested_codes(static_cast<size_t>(blocks));
  std::vector<float> absmax(static_cast<size_t>(blocks));
  std::vector<float> nested_absmax(static_cast<size_t>(groups));
  float offset = 0;

  QuantizeNf4 first;
  first.from = x.data;
  first.from_dtype = x.dtype;
  first.count = x.count();
  first.codes = codes.data();
  first.absmax = absmax.data();
  ops::quantize_nf4(*device, first);
  QuantizeAbsmax second;
  second.absmax = absmax.data();
  second.count = blocks;
  second.codes = nested_codes.data();
  second.nested_absmax = nested_absmax.data();
  second.offset = &offset;
  ops::quantize_absmax(*device, second);

  SafetensorsWriter writer(to, {});
  const auto code_count = static_cast<int64_t>(codes.size());
  writer.declare("codes", DType::kU8, {code_count});
  writer.declare("absmax", DType::kF32, {blocks});
  writer.declare("nested_codes", DType::kU8, {blocks});
  writer.declare("nested_absmax", DType::kF32, {groups});
  writer.declare("offset", DType::kF32, {1});
  writer.append(codes.data(), codes.size());
  writer.append(absmax.data(), absmax.size() * sizeof(float));
  writer.append(nested_codes.data(), nested_codes.size());
  writer.append(nested_absmax.data(), nested_absmax.size() * sizeof(float));
  writer.append(&offset, sizeof offset);
  writer.finish();
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "nf4_codes FROM TO\n");
    return 2;
  }
  try {
    quantize(arguments[1], arguments[2]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
