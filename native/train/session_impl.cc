#include "train/session_impl.h"

#include <algorithm>

#include "core/error.h"

namespace lowrank {
namespace {

const std::vector<LoraModule>& modules_of(const AdapterImpl* adapter) {
  static const std::vector<LoraModule> none;
  return adapter ? adapter->modules : none;
}

std::vector<ParameterInfo> saved_of(const AdapterImpl* adapter) {
  std::vector<ParameterInfo> saved;
  if (adapter)
    for (const SavedModule& module : adapter->saved) saved.push_back(module.parameter);
  return saved;
}

// Weights that don't point into a mapped file have been taken from the device's free memory.
uint64_t loaded_weight_bytes(ModelImpl& model) {
  uint64_t bytes = 0;
  for (const ModelImpl::Named& named : model.parameters()) {
    if (named.vector) bytes += named.vector->data.bytes();
    if (named.matrix)
      bytes += named.matrix->data.bytes() + named.matrix->absmax.bytes() +
               named.matrix->nested_absmax.bytes();
  }
  return bytes;
}

BufferSet resolve(char* arena, const std::vector<Placed>& buffers) {
  BufferSet set;
  for (const Placed& buffer : buffers) set.add(arena + buffer.offset, buffer.bytes);
  return set;
}

}  // namespace

SessionImpl::SessionImpl(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
                         const SessionOptions& options)
    : model_(std::move(model)), adapter_(std::move(adapter)), options_(options) {
  if (!adapter_ && !model_->options.trainable)
    throw Error(ErrorCode::kInvalidArgument, "the model's weights are frozen", "session",
                "load the model as trainable, or pass an adapter");
  const std::vector<LoraModule>& modules = modules_of(adapter_.get());
  tensors_ = trained_tensors(model_->config, modules, saved_of(adapter_.get()), !adapter_);

  PlanRequest request;
  request.device = model_->device.get();
  request.config = &model_->config;
  request.model = model_->options;
  request.session = options;
  request.modules = &modules;
  request.tensors = &tensors_;
  request.weight_bytes = model_->weight_bytes();
  request.adapter_bytes = adapter_bytes(tensors_);
  request.loaded_bytes = loaded_weight_bytes(*model_) + request.adapter_bytes;
  plan_ = make_plan(request);
  check_fits(plan_);

  const std::shared_ptr<Device>& device = model_->device;
  try {
    arena_ = Buffer(device, plan_.arena_bytes);
    decoder_ = std::make_unique<Decoder>(model_, adapter_, plan_.max_positions);
  } catch (const Error& error) {
    // Something else took the memory, or the budget says more than there is.
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    refuse_plan(plan_, device->info().free_bytes + request.loaded_bytes);
  }
  state_ =
      std::make_unique<TrainedState>(device, plan_, arena_.as<char>(), tensors_,
                                     trained_values(*model_, adapter_.get(), tensors_), options);
  bind_gradients();
  scratch_ = resolve(arena_.as<char>(), plan_.scratch);
  for (const std::vector<Placed>& set : plan_.saved)
    saved_.push_back(resolve(arena_.as<char>(), set));

  const TransferPlan& transfer = plan_.transfer;
  const int64_t tokens = plan_.shape.tokens, labels = plan_.shape.labels;
  ids_ = {device, at(transfer.ids), tokens};
  positions_ = {device, at(transfer.positions), tokens};
  document_offsets_ = {device, at(transfer.document_offsets), tokens + 1};
  rows_ = {device, at(transfer.rows), labels};
  targets_ = {device, at(transfer.targets), labels};
  weights_ = {device, at(transfer.weights), labels};
  logprob_ = {device, at(transfer.logprob), transfer.results};
  correct_ = {device, at(transfer.correct), transfer.results};
}

void SessionImpl::bind_gradients() {
  gradients_ = make_gradients(model_->config);
  for (size_t i = 0; i < tensors_.size(); ++i)
    gradient_slot(tensors_[i], gradients_) = state_->gradient(i);
  // A tied head is the embedding, unless an adapter trains a copy of one of them.
  if (!adapter_ && model_->config.tied_embeddings) gradients_.d_head = gradients_.d_embedding;
}

BatchLimits SessionImpl::limits() const {
  return {model_->config.vocabulary, plan_.shape.tokens, plan_.shape.labels, plan_.max_positions};
}

void* SessionImpl::input_of(int32_t layer) const {
  return at(plan_.inputs[static_cast<size_t>(std::max(layer - plan_.lowest_layer, 0))]);
}

DecoderBatch SessionImpl::upload_batch(const MicroBatch& batch, uint64_t dropout_seed) {
  std::copy_n(batch.input_ids, batch.tokens, ids_.host());
  std::copy_n(batch.document_offsets, batch.documents + 1, document_offsets_.host());
  fill_positions(batch, positions_.host());
  ids_.upload(batch.tokens);
  document_offsets_.upload(batch.documents + 1);
  positions_.upload(batch.tokens);

  DecoderBatch out;
  out.ids = ids_.device();
  out.positions = positions_.device();
  out.document_offsets = document_offsets_.device();
  out.documents = batch.documents;
  out.tokens = batch.tokens;
  out.longest = longest_document(batch);
  out.dropout_seed = dropout_seed;
  return out;
}

Decoder::HeadInput SessionImpl::upload_labels(const MicroBatch& batch, double scale,
                                              bool keep_weightless, int64_t first) {
  Decoder::HeadInput input;
  input.count =
      gather_labels(batch, scale, keep_weightless, rows_.host(), targets_.host(), weights_.host());
  rows_.upload(input.count);
  targets_.upload(input.count);
  weights_.upload(input.count);
  input.rows = rows_.device();
  input.targets = targets_.device();
  input.weights = weights_.device();
  input.logprob = logprob_.device() + first;
  input.correct = correct_.device() + first;
  return input;
}

void SessionImpl::forward_backward(const DecoderBatch& batch, const Decoder::HeadInput& input) {
  const auto layers = static_cast<int32_t>(model_->config.layers);
  decoder_->embed(batch, input_of(0));
  for (int32_t l = 0; l < layers; ++l)
    decoder_->block_forward(l, batch, input_of(l), input_of(l + 1), saved_[plan_.saved_set(l)],
                            scratch_);

  void* d_x = at(plan_.d_x);
  decoder_->head(batch, input_of(layers), input, d_x, scratch_, gradients_.d_head,
                 gradients_.d_final_norm);
  const bool embedding = gradients_.d_embedding != nullptr;
  for (int32_t l = layers - 1; l >= plan_.lowest_layer; --l) {
    const BufferSet& saved = saved_[plan_.saved_set(l)];
    if (plan_.recomputed(l)) decoder_->block_recompute(l, batch, input_of(l), saved, scratch_);
    decoder_->block_backward(l, batch, input_of(l), d_x, saved, scratch_,
                             gradients_.layers[static_cast<size_t>(l)],
                             l > plan_.lowest_layer || embedding);
  }
  if (embedding) decoder_->embed_backward(batch, d_x, gradients_.d_embedding);
}

void SessionImpl::forward_only(const DecoderBatch& batch, const Decoder::HeadInput& input) {
  void* x = at(plan_.inputs[0]);
  decoder_->embed(batch, x);
  for (int32_t l = 0; l < static_cast<int32_t>(model_->config.layers); ++l)
    decoder_->block_forward(l, batch, x, x, saved_[0], scratch_);
  decoder_->head(batch, x, input, nullptr, scratch_, nullptr, nullptr);
}

}  // namespace lowrank
