#include "model/forward_logits.h"

#include <algorithm>

#include "core/error.h"
#include "model/decoder.h"

namespace lowrank {
namespace {

constexpr int64_t kRowsAtOnce = 64;  // logits of this many rows stand on the device

// Buffers by their specs.
class Buffers {
 public:
  Buffers(const std::shared_ptr<Device>& device, const std::vector<BufferSpec>& specs) {
    for (const BufferSpec& spec : specs) {
      buffers_.emplace_back(device, spec.bytes);
      set_.add(buffers_.back().data(), spec.bytes);
    }
  }
  const BufferSet& set() const { return set_; }

 private:
  std::vector<Buffer> buffers_;
  BufferSet set_;
};

}  // namespace

std::vector<float> forward_logits(const std::shared_ptr<ModelImpl>& impl,
                                  const std::shared_ptr<AdapterImpl>& adapter_impl,
                                  const int32_t* ids, int64_t count) {
  const ModelConfig& config = impl->config;
  const int64_t limit =
      impl->options.max_length > 0 ? impl->options.max_length : config.max_positions;
  if (!ids || count < 1 || count > limit)
    throw Error(ErrorCode::kInvalidArgument,
                "there must be between 1 and " + std::to_string(limit) + " tokens",
                "forward_logits");
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= config.vocabulary)
      throw Error(ErrorCode::kInvalidArgument,
                  "id " + std::to_string(ids[i]) + " of token " + std::to_string(i) +
                      " is outside the vocabulary of " + std::to_string(config.vocabulary),
                  "forward_logits", "use the tokenizer that belongs to the model");

  const std::shared_ptr<Device>& device = impl->device;
  static const std::vector<LoraModule> none;
  const std::vector<LoraModule>& modules = adapter_impl ? adapter_impl->modules : none;
  StepShape shape;
  shape.tokens = count;
  shape.labels = std::min(count, kRowsAtOnce);
  shape.training = false;
  Decoder decoder(impl, adapter_impl, count);
  const Buffers saved(device,
                      Decoder::saved_specs(*device, config, modules, impl->options.compute, shape));
  const Buffers scratch(device,
                        Decoder::scratch_specs(*device, config, impl->options, modules, shape));

  std::vector<int32_t> host_positions(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    host_positions[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  const int32_t host_offsets[2] = {0, static_cast<int32_t>(count)};
  const size_t index_bytes = static_cast<size_t>(count) * sizeof(int32_t);
  Buffer device_ids(device, index_bytes), positions(device, index_bytes);
  Buffer offsets(device, sizeof host_offsets);
  device_ids.upload(ids, index_bytes);
  positions.upload(host_positions.data(), index_bytes);
  offsets.upload(host_offsets, sizeof host_offsets);
  DecoderBatch batch;
  batch.ids = device_ids.as<int32_t>();
  batch.positions = positions.as<int32_t>();
  batch.document_offsets = offsets.as<int32_t>();
  batch.documents = 1;
  batch.tokens = count;
  batch.longest = count;

  Buffer x(device, activation_bytes(*device, impl->options.compute, count, config.hidden));
  decoder.embed(batch, x.data());
  for (int32_t layer = 0; layer < static_cast<int32_t>(config.layers); ++layer)
    decoder.block_forward(layer, batch, x.data(), x.data(), saved.set(), scratch.set());

  const auto vocabulary = static_cast<size_t>(config.vocabulary);
  std::vector<float> logits(static_cast<size_t>(count) * vocabulary);
  Buffer rows(device, static_cast<size_t>(shape.labels) * vocabulary * sizeof(float));
  for (int64_t first = 0; first < count; first += shape.labels) {
    const int64_t now = std::min(shape.labels, count - first);
    decoder.logits(x.data(), first, now, rows.as<float>(), scratch.set());
    rows.download(logits.data() + static_cast<size_t>(first) * vocabulary,
                  static_cast<size_t>(now) * vocabulary * sizeof(float));
  }
  return logits;
}

}  // namespace lowrank
