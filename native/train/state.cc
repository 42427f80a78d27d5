// Optimizer states as one safetensors file, bit for bit: for a trained tensor NAME its first and
// second moments NAME.exp_avg and NAME.exp_avg_sq, f32 or, as 8-bit codes with one scale per 256
// values, u8 with NAME.exp_avg.absmax and NAME.exp_avg_sq.absmax. The step of the last update
// stands in the metadata.
#include <cstdlib>

#include "core/error.h"
#include "io/safetensors.h"
#include "train/session_impl.h"

namespace lowrank {
namespace {

constexpr const char* kFormat = "lowrank optimizer state";

struct StateTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // in the arena
  uint64_t bytes = 0;
};

std::vector<StateTensor> state_tensors(const std::vector<TrainedTensor>& tensors,
                                       const StepPlan& plan) {
  std::vector<StateTensor> out;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TrainedTensor& tensor = tensors[i];
    const TensorPlan& place = plan.tensors[i];
    const DType dtype = place.eight_bit ? DType::kU8 : DType::kF32;
    const int64_t blocks = (tensor.count + kOptimizerBlock - 1) / kOptimizerBlock;
    const auto add = [&](const char* moment, uint64_t values, uint64_t absmax) {
      const auto count = static_cast<uint64_t>(tensor.count);
      out.push_back({tensor.name + moment, dtype, tensor.shape, values, count * dtype_size(dtype)});
      if (place.eight_bit)
        out.push_back({tensor.name + moment + ".absmax",
                       DType::kF32,
                       {blocks},
                       absmax,
                       static_cast<uint64_t>(blocks) * sizeof(float)});
    };
    add(".exp_avg", place.m, place.m_absmax);
    add(".exp_avg_sq", place.v, place.v_absmax);
  }
  return out;
}

int64_t read_step(const SafetensorsFile& file) {
  const auto format = file.metadata().find("lowrank");
  const auto step = file.metadata().find("step");
  if (format == file.metadata().end() || format->second != kFormat || step == file.metadata().end())
    throw Error(ErrorCode::kInvalidFile, "this isn't an optimizer state", file.path());
  char* end = nullptr;
  const long long value = std::strtoll(step->second.c_str(), &end, 10);
  if (step->second.empty() || *end != 0 || value < 0)
    throw Error(ErrorCode::kInvalidFile, "the step isn't a number: " + step->second, file.path());
  return value;
}

const TensorView& checked(const SafetensorsFile& file, const StateTensor& wanted) {
  const TensorView& view = file.at(wanted.name);
  if (view.dtype != wanted.dtype || view.shape != wanted.shape || view.bytes != wanted.bytes)
    throw Error(ErrorCode::kInvalidFile, "the type or shape doesn't fit this run",
                file.path() + ": " + wanted.name,
                "resume with the model, adapter and optimizer that the state was saved with");
  return view;
}

}  // namespace

void SessionImpl::save_state(const std::string& file) const {
  const std::vector<StateTensor> states = state_tensors(tensors_, plan_);
  SafetensorsWriter writer(file, {{"lowrank", kFormat}, {"step", std::to_string(updates_)}});
  for (const StateTensor& state : states) writer.declare(state.name, state.dtype, state.shape);
  std::vector<char> bytes;
  for (const StateTensor& state : states) {
    bytes.resize(state.bytes);
    arena_.download(bytes.data(), bytes.size(), state.offset);
    writer.append(bytes.data(), bytes.size());
  }
  writer.finish();
}

void SessionImpl::load_state(const std::string& path) {
  const SafetensorsFile file(path);
  const int64_t step = read_step(file);
  const std::vector<StateTensor> states = state_tensors(tensors_, plan_);
  // Everything is checked before anything is changed.
  for (const StateTensor& state : states) checked(file, state);
  if (file.tensors().size() != states.size())
    throw Error(ErrorCode::kInvalidFile, "there are states of tensors that this run doesn't train",
                path, "resume with the model, adapter and optimizer it was saved with");
  for (const StateTensor& state : states)
    arena_.upload(checked(file, state).data, state.bytes, state.offset);
  updates_ = step;
}

}  // namespace lowrank
