// JavaScript options as the facade's structs (lib/native/addon.ts describes the JavaScript side).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "node/options_reader.h"

namespace lowrank::node {

struct DeviceRequest {
  std::string name;
  std::string isa;  // empty = best
  int32_t threads = 0;
  bool profile = false;

  std::shared_ptr<Device> open() const;
  bool operator==(const DeviceRequest&) const = default;
};

DeviceRequest read_device(const Napi::Value& value);
ModelOptions read_model_options(OptionsReader options);
LoraOptions read_lora_options(OptionsReader options);
SessionOptions read_session_options(OptionsReader options);
SamplingOptions read_sampling_options(OptionsReader options);
StepOptions read_step_options(OptionsReader options);
EstimateOptions read_estimate_options(OptionsReader options);
uint64_t read_seed(const Napi::Value& value);
DType read_dtype(const Napi::Value& value, const std::string& where);

// Micro-batches with the memory they point to. Lengths are checked here, because the engine gets
// bare pointers; values are the engine's to check.
class OwnedBatches {
 public:
  explicit OwnedBatches(const Napi::Value& value);
  const std::vector<MicroBatch>& views() const { return views_; }
  int64_t tokens() const { return tokens_; }

 private:
  struct Arrays {
    std::vector<int32_t> input_ids, labels, document_offsets;
    std::vector<float> weights;
  };
  std::vector<std::unique_ptr<Arrays>> arrays_;
  std::vector<MicroBatch> views_;
  int64_t tokens_ = 0;
};

}  // namespace lowrank::node
