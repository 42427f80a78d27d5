#include "train/plan.h"

#include <algorithm>
#include <limits>
#include <set>

#include "core/error.h"

namespace lowrank {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint64_t kNestedCodeBytes = 256 * sizeof(float);  // one map for the whole model

enum Kind : size_t {
  kWeights,
  kAdapter,
  kGradients,
  kOptimizer,
  kActivations,
  kWorkspace,
  kDevice
};
constexpr const char* kKindNames[] = {"weights",     "adapter",   "gradients", "optimizer",
                                      "activations", "workspace", "device"};

// Hands out aligned offsets, one after the other, and adds them up by kind.
class Layout {
 public:
  explicit Layout(PlanReport* report) : report_(report) {
    for (const char* name : kKindNames) report_->items.push_back({name, 0});
  }
  uint64_t add(Kind kind, uint64_t bytes) {
    const uint64_t offset = size_;
    const uint64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    size_ += rounded;
    count(kind, rounded);
    return offset;
  }
  std::vector<Placed> add(Kind kind, const std::vector<BufferSpec>& specs) {
    std::vector<Placed> placed;
    for (const BufferSpec& spec : specs) placed.push_back({add(kind, spec.bytes), spec.bytes});
    return placed;
  }
  // Memory outside the arena.
  void count(Kind kind, uint64_t bytes) {
    report_->items[kind].bytes += bytes;
    report_->total_bytes += bytes;
  }
  uint64_t size() const { return size_; }

 private:
  PlanReport* report_;
  uint64_t size_ = 0;
};

// Of the buffers that every block keeps, or of the others.
uint64_t rounded_bytes(const std::vector<BufferSpec>& specs, bool kept) {
  uint64_t bytes = 0;
  for (const BufferSpec& spec : specs)
    if (spec.kept == kept) bytes += (spec.bytes + kAlignment - 1) / kAlignment * kAlignment;
  return bytes;
}

void check_request(const PlanRequest& request) {
  const SessionOptions& session = request.session;
  if (session.max_tokens <= 0 || session.max_tokens > std::numeric_limits<int32_t>::max())
    throw Error(ErrorCode::kInvalidArgument, "the largest micro-batch must have 1 token or more",
                "max_tokens");
  if (session.max_labels < 0 || session.max_labels > session.max_tokens)
    throw Error(ErrorCode::kInvalidArgument, "there can't be more labels than tokens",
                "max_labels");
  if (request.tensors->empty())
    throw Error(ErrorCode::kInvalidArgument, "there is nothing to train", "adapter",
                "name at least one target module");
}

void plan_tensors(const PlanRequest& request, Layout* layout, StepPlan* plan) {
  const std::vector<TrainedTensor>& tensors = *request.tensors;
  plan->tensors.resize(tensors.size());
  plan->gradients = layout->size();
  for (size_t i = 0; i < tensors.size(); ++i)
    plan->tensors[i].gradient =
        layout->add(kGradients, static_cast<uint64_t>(tensors[i].count) * sizeof(float));
  plan->gradient_bytes = layout->size() - plan->gradients;

  const bool want_8bit = request.session.optimizer == Optimizer::kAdamW8Bit;
  for (size_t i = 0; i < tensors.size(); ++i) {
    TensorPlan& tensor = plan->tensors[i];
    const auto count = static_cast<uint64_t>(tensors[i].count);
    tensor.eight_bit = want_8bit && tensors[i].count >= kMinimum8BitSize;
    const uint64_t state_bytes = tensor.eight_bit ? count : count * sizeof(float);
    tensor.m = layout->add(kOptimizer, state_bytes);
    tensor.v = layout->add(kOptimizer, state_bytes);
    if (!tensor.eight_bit) continue;
    const uint64_t absmax_bytes = (count + kOptimizerBlock - 1) / kOptimizerBlock * sizeof(float);
    tensor.m_absmax = layout->add(kOptimizer, absmax_bytes);
    tensor.v_absmax = layout->add(kOptimizer, absmax_bytes);
  }
}

// A device of its own memory runs ahead of the host, by so many of the largest micro-batches; to
// read from others costs nothing.
constexpr int64_t kResultSets = 16;

void plan_transfer(const StepShape& shape, bool host_memory, Layout* layout,
                   TransferPlan* transfer) {
  transfer->results = host_memory ? shape.labels : kResultSets * shape.labels;
  const auto results = static_cast<uint64_t>(transfer->results);
  const auto tokens = static_cast<uint64_t>(shape.tokens);
  const auto labels = static_cast<uint64_t>(shape.labels);
  transfer->ids = layout->add(kWorkspace, tokens * sizeof(int32_t));
  transfer->positions = layout->add(kWorkspace, tokens * sizeof(int32_t));
  transfer->document_offsets = layout->add(kWorkspace, (tokens + 1) * sizeof(int32_t));
  transfer->rows = layout->add(kWorkspace, labels * sizeof(int32_t));
  transfer->targets = layout->add(kWorkspace, labels * sizeof(int32_t));
  transfer->weights = layout->add(kWorkspace, labels * sizeof(float));
  transfer->logprob = layout->add(kWorkspace, results * sizeof(float));
  transfer->correct = layout->add(kWorkspace, results);
  transfer->squared_norm = layout->add(kWorkspace, sizeof(double));
}

uint64_t find_budget(const PlanRequest& request) {
  if (request.session.memory_budget) return request.session.memory_budget;
  const DeviceInfo info = request.device->info();
  if (info.free_bytes == 0) return std::numeric_limits<uint64_t>::max();
  // Of the host's memory a tenth stays for the rest of the process and the system; of a device's
  // own what its kernels may still load.
  const uint64_t kept = info.free_bytes / (request.device->backend().host_memory ? 10 : 50);
  return info.free_bytes - kept + info.fixed_bytes + request.loaded_bytes;
}

// How many blocks keep all that they save, from 1 to all that are trained.
uint64_t choose_sets(const PlanRequest& request, uint64_t most, uint64_t set_bytes,
                     uint64_t smallest_total, uint64_t budget) {
  switch (request.session.checkpointing) {
    case Checkpointing::kNone:
      return most;
    case Checkpointing::kBlock:
      return 1;
    case Checkpointing::kAuto:
      break;
  }
  if (smallest_total >= budget) return 1;
  return std::min(most, 1 + (budget - smallest_total) / std::max<uint64_t>(set_bytes, 1));
}

const char* checkpointing_name(Checkpointing checkpointing) {
  switch (checkpointing) {
    case Checkpointing::kNone:
      return "none";
    case Checkpointing::kBlock:
      return "block";
    case Checkpointing::kAuto:
      return "auto";
  }
  return "?";
}

std::string megabytes(uint64_t bytes) { return std::to_string((bytes + 999999) / 1000000) + " MB"; }

Storage storage_of(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return Storage::kBF16;
    case DType::kF16:
      return Storage::kF16;
    default:
      return Storage::kF32;
  }
}

uint64_t storage_bytes(Storage storage, uint64_t rows, uint64_t cols, bool nested) {
  const uint64_t count = rows * cols;
  switch (storage) {
    case Storage::kF32:
      return count * 4;
    case Storage::kBF16:
    case Storage::kF16:
      return count * 2;
    case Storage::kInt8:
      return count + rows * 4;
    case Storage::kNF4:
      break;
  }
  const uint64_t blocks = (count + kNf4Block - 1) / kNf4Block;
  if (!nested) return (count + 1) / 2 + blocks * 4;
  return (count + 1) / 2 + blocks + (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock * 4;
}

}  // namespace

size_t StepPlan::saved_set(int32_t layer) const {
  const size_t from_top = static_cast<size_t>(report.layers - 1 - layer);
  return from_top < saved.size() ? from_top : 0;
}

bool StepPlan::recomputed(int32_t layer) const {
  return static_cast<uint64_t>(report.layers - 1 - layer) >= own_sets;
}

StepPlan make_plan(const PlanRequest& request) {
  check_request(request);
  const ModelConfig& config = *request.config;
  const SessionOptions& session = request.session;
  StepPlan plan;
  plan.shape.tokens = session.max_tokens;
  plan.shape.labels = session.max_labels ? session.max_labels : session.max_tokens;
  for (const TrainedTensor& tensor : *request.tensors)
    plan.shape.head_trained |=
        tensor.place.kind == ParameterPlace::Kind::kHead ||
        (config.tied_embeddings && tensor.place.kind == ParameterPlace::Kind::kEmbedding);
  const int64_t limit =
      request.model.max_length > 0 ? request.model.max_length : config.max_positions;
  plan.max_positions = std::min(session.max_tokens, limit);
  plan.lowest_layer = lowest_trained_layer(config, *request.tensors);
  plan.report.layers = static_cast<int32_t>(config.layers);
  plan.report.checkpointing = checkpointing_name(session.checkpointing);

  Layout layout(&plan.report);
  layout.count(kWeights, request.weight_bytes);
  layout.count(kAdapter, request.adapter_bytes);
  layout.count(kDevice, request.device->info().fixed_bytes);
  layout.count(kWorkspace, Decoder::held_bytes(config, plan.max_positions));
  plan_tensors(request, &layout, &plan);
  plan_transfer(plan.shape, request.device->backend().host_memory, &layout, &plan.transfer);
  plan.scratch = layout.add(
      kWorkspace,
      Decoder::scratch_specs(*request.device, config, request.model, *request.modules, plan.shape));

  const uint64_t x_bytes =
      activation_bytes(*request.device, request.model.compute, plan.shape.tokens, config.hidden);
  const auto blocks = static_cast<uint64_t>(config.layers - plan.lowest_layer);
  plan.d_x = layout.add(kActivations, x_bytes);
  for (uint64_t i = 0; i <= blocks; ++i) plan.inputs.push_back(layout.add(kActivations, x_bytes));

  const std::vector<BufferSpec> saved = Decoder::saved_specs(
      *request.device, config, *request.modules, request.model.compute, plan.shape);
  const uint64_t users = std::max<uint64_t>(blocks, 1), set_bytes = rounded_bytes(saved, false);
  const uint64_t smallest =
      plan.report.total_bytes + set_bytes + users * rounded_bytes(saved, true);
  plan.budget = find_budget(request);
  plan.own_sets = choose_sets(request, users, set_bytes, smallest, plan.budget);
  for (uint64_t i = 0; i < users; ++i) {
    if (i < plan.own_sets) {
      plan.saved.push_back(layout.add(kActivations, saved));
      continue;
    }
    plan.saved.push_back(plan.saved.front());
    for (size_t b = 0; b < saved.size(); ++b)
      if (saved[b].kept) plan.saved.back()[b].offset = layout.add(kActivations, saved[b].bytes);
  }
  plan.report.recomputed_layers = static_cast<int32_t>(users - plan.own_sets);
  plan.arena_bytes = layout.size();
  return plan;
}

void check_fits(const StepPlan& plan) {
  if (plan.report.total_bytes > plan.budget) refuse_plan(plan, plan.budget);
}

void refuse_plan(const StepPlan& plan, uint64_t free) {
  std::string parts;
  for (const PlanItem& item : plan.report.items)
    if (item.bytes) parts += (parts.empty() ? "" : ", ") + item.name + " " + megabytes(item.bytes);
  throw Error(
      ErrorCode::kOutOfMemory,
      "training needs " + megabytes(plan.report.total_bytes) + " (" + parts + ") and " +
          megabytes(free) + " are free",
      "memory plan",
      "use a smaller batch, a shorter maximum length, block checkpointing, a quantized base "
      "or the 8-bit optimizer");
}

uint64_t predict_weight_bytes(const ModelConfig& config, const ModelOptions& options) {
  const bool nested = options.quantization == Quantization::kNf4Double;
  uint64_t bytes = nested ? kNestedCodeBytes : 0;
  for (const ParameterInfo& parameter : model_parameters(config)) {
    const auto rows = static_cast<uint64_t>(parameter.shape[0]);
    if (parameter.shape.size() == 1) {
      bytes += rows * sizeof(float);
      continue;
    }
    Storage storage = options.trainable ? Storage::kF32 : storage_of(config.dtype);
    if (parameter.place.kind == ParameterPlace::Kind::kLinear) {
      if (options.quantization == Quantization::kInt8) storage = Storage::kInt8;
      if (options.quantization == Quantization::kNf4 || nested) storage = Storage::kNF4;
    }
    bytes += storage_bytes(storage, rows, static_cast<uint64_t>(parameter.shape[1]), nested);
  }
  return bytes;
}

uint64_t adapter_bytes(const std::vector<TrainedTensor>& tensors) {
  uint64_t bytes = 0;
  for (const TrainedTensor& tensor : tensors)
    if (tensor.kind != TrainedTensor::Kind::kParameter)
      bytes += static_cast<uint64_t>(tensor.count) * sizeof(float);
  return bytes;
}

}  // namespace lowrank
