#include "model/generator.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace lowrank {
namespace {

// Enough rows to use the matrix units well; the activations of a chunk stay small.
constexpr int64_t kChunk = 256;

int64_t check_capacity(const ModelImpl& model, int32_t capacity) {
  const int64_t limit =
      model.options.max_length > 0 ? model.options.max_length : model.config.max_positions;
  if (capacity < 1 || capacity > limit)
    throw Error(ErrorCode::kInvalidArgument,
                "the cache must hold between 1 and " + std::to_string(limit) + " tokens, not " +
                    std::to_string(capacity),
                "capacity", "the model isn't made for longer texts");
  return capacity;
}

}  // namespace

GeneratorImpl::GeneratorImpl(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
                             int32_t capacity)
    : model_(std::move(model)),
      decoder_(model_, adapter, check_capacity(*model_, capacity)),
      capacity_(capacity),
      chunk_(std::min<int64_t>(kChunk, capacity)) {
  const ModelConfig& config = model_->config;
  const std::shared_ptr<Device>& device = model_->device;
  const DType dtype = model_->options.compute;
  const int64_t kv_cols = int64_t{config.kv_heads} * config.head_dim;
  layer_bytes_ = activation_bytes(*device, dtype, capacity_, kv_cols);
  layer_bytes_ = (layer_bytes_ + 63) / 64 * 64;
  cache_ = Buffer(device, 2 * layer_bytes_ * static_cast<uint64_t>(config.layers));
  x_ = Buffer(device, activation_bytes(*device, dtype, chunk_, config.hidden));
  ids_ = Buffer(device, static_cast<size_t>(chunk_) * sizeof(int32_t));
  positions_ = Buffer(device, static_cast<size_t>(chunk_) * sizeof(int32_t));
  device_logits_ = Buffer(device, static_cast<size_t>(config.vocabulary) * sizeof(float));
  host_positions_.resize(static_cast<size_t>(chunk_));
  logits_.resize(static_cast<size_t>(config.vocabulary));

  StepShape shape;
  shape.tokens = chunk_;
  shape.labels = 1;
  shape.training = false;
  shape.cached = capacity_;
  static const std::vector<LoraModule> none;
  for (const BufferSpec& spec : Decoder::scratch_specs(*device, config, model_->options,
                                                       adapter ? adapter->modules : none, shape)) {
    scratch_buffers_.emplace_back(device, spec.bytes);
    scratch_.add(scratch_buffers_.back().data(), spec.bytes);
  }
}

void* GeneratorImpl::keys(int32_t layer) const {
  return cache_.as<char>() + 2 * static_cast<uint64_t>(layer) * layer_bytes_;
}

void* GeneratorImpl::values(int32_t layer) const {
  return static_cast<char*>(keys(layer)) + layer_bytes_;
}

void GeneratorImpl::read(const int32_t* ids, int64_t count, const std::atomic<bool>* abort) {
  std::iota(host_positions_.begin(), host_positions_.begin() + count,
            static_cast<int32_t>(length_));
  ids_.upload(ids, static_cast<size_t>(count) * sizeof(int32_t));
  positions_.upload(host_positions_.data(), static_cast<size_t>(count) * sizeof(int32_t));
  DecoderBatch batch;
  batch.ids = ids_.as<int32_t>();
  batch.positions = positions_.as<int32_t>();
  batch.tokens = count;
  logits_valid_ = false;
  decoder_.embed(batch, x_.data());
  for (int32_t layer = 0; layer < static_cast<int32_t>(model_->config.layers); ++layer) {
    if (abort && abort->load(std::memory_order_relaxed))
      throw Error(ErrorCode::kAborted, "reading the prompt was aborted", "prefill");
    decoder_.block_cached(layer, positions_.as<int32_t>(), count, length_, x_.data(), keys(layer),
                          values(layer), scratch_);
  }
  length_ += count;
  last_row_ = count - 1;
}

void GeneratorImpl::prefill(const int32_t* ids, int64_t count, const std::atomic<bool>* abort) {
  if (count < 1 || !ids)
    throw Error(ErrorCode::kInvalidArgument, "the prompt has no tokens", "prefill");
  if (count > capacity_)
    throw Error(ErrorCode::kInvalidArgument,
                "the prompt has " + std::to_string(count) + " tokens and the cache holds " +
                    std::to_string(capacity_),
                "prefill", "shorten the prompt or use a greater capacity");
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= model_->config.vocabulary)
      throw Error(ErrorCode::kInvalidArgument,
                  "id " + std::to_string(ids[i]) + " of token " + std::to_string(i) +
                      " is outside the vocabulary of " + std::to_string(model_->config.vocabulary),
                  "prefill", "use the tokenizer that belongs to the model");
  length_ = 0;
  try {
    for (int64_t first = 0; first < count; first += chunk_)
      read(ids + first, std::min(chunk_, count - first), abort);
  } catch (...) {
    length_ = 0;
    throw;
  }
}

void GeneratorImpl::require_prompt() const {
  if (length_ == 0)
    throw Error(ErrorCode::kInvalidArgument, "there is no prompt yet", "generator",
                "call prefill first");
}

const std::vector<float>& GeneratorImpl::logits() {
  require_prompt();
  if (!logits_valid_) {
    decoder_.logits(x_.data(), last_row_, 1, device_logits_.as<float>(), scratch_);
    device_logits_.download(logits_.data(), logits_.size() * sizeof(float));
    logits_valid_ = true;
  }
  return logits_;
}

int32_t GeneratorImpl::next(const SamplingOptions& options) {
  require_prompt();
  if (length_ >= capacity_)
    throw Error(ErrorCode::kInvalidArgument,
                "the cache of " + std::to_string(capacity_) + " tokens is full", "next",
                "use a greater capacity");
  const int32_t token = sampler_.sample(logits(), options, length_);
  read(&token, 1, nullptr);
  return token;
}

}  // namespace lowrank
