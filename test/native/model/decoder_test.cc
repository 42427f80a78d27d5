// The decoder's buffers: an operation is told how large its workspace really is.
#include "model/decoder.h"

#include <numeric>
#include <vector>

#include "core/error.h"
#include "support/test.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using namespace test;

TEST(a_workspace_that_is_too_small_is_refused) {
  constexpr int32_t kTokens = 24;
  const auto device = cpu();
  const auto model = tiny_model(device)->impl();
  StepShape shape;
  shape.tokens = shape.labels = kTokens;
  const auto scratch_specs =
      Decoder::scratch_specs(*device, model->config, model->options, {}, shape);
  CHECK(scratch_specs[kScratchWorkspace].bytes > 0);
  std::vector<Buffer> owned;
  const auto lay_out = [&](const std::vector<BufferSpec>& specs, bool whole_workspace) {
    BufferSet set;
    for (const BufferSpec& spec : specs) {
      owned.emplace_back(device, spec.bytes);
      set.add(owned.back().data(), spec.name == "workspace" && !whole_workspace ? 0 : spec.bytes);
    }
    return set;
  };
  const BufferSet saved = lay_out(
      Decoder::saved_specs(*device, model->config, {}, model->options.compute, shape), true);
  const BufferSet whole = lay_out(scratch_specs, true), none = lay_out(scratch_specs, false);

  std::vector<int32_t> ids(kTokens, 3), positions(kTokens);
  std::iota(positions.begin(), positions.end(), 0);
  const int32_t offsets[] = {0, kTokens};
  DecoderBatch batch;
  batch.ids = ids.data();
  batch.positions = positions.data();
  batch.document_offsets = offsets;
  batch.documents = 1;
  batch.tokens = kTokens;
  const uint64_t bytes = activation_bytes(*device, DType::kF32, kTokens, model->config.hidden);
  Buffer x(device, bytes), d_x(device, bytes);
  Decoder decoder(model, nullptr, kTokens);
  const LayerGradients gradients = make_gradients(model->config).layers[0];
  decoder.embed(batch, x.data());
  decoder.block_forward(0, batch, x.data(), x.data(), saved, whole);
  decoder.block_backward(0, batch, x.data(), d_x.data(), saved, whole, gradients, true);
  CHECK_ERROR(decoder.block_backward(0, batch, x.data(), d_x.data(), saved, none, gradients, true),
              ErrorCode::kInvalidArgument, "workspace has 0 bytes");
}

}  // namespace
}  // namespace lowrank
