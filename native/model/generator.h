// Generation: a key-value cache per layer, a prompt read in chunks, then one token at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "model/decoder.h"
#include "model/sampling.h"

namespace lowrank {

class GeneratorImpl {
 public:
  GeneratorImpl(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
                int32_t capacity);

  // As in engine.h.
  void prefill(const int32_t* ids, int64_t count, const std::atomic<bool>* abort);
  const std::vector<float>& logits();
  int32_t next(const SamplingOptions& options);
  int64_t length() const { return length_; }
  uint64_t cache_bytes() const { return cache_.bytes(); }

 private:
  // Reads at most one chunk behind what is cached.
  void read(const int32_t* ids, int64_t count, const std::atomic<bool>* abort);
  void* keys(int32_t layer) const;
  void* values(int32_t layer) const;
  void require_prompt() const;

  std::shared_ptr<ModelImpl> model_;
  Decoder decoder_;
  int64_t capacity_;
  int64_t chunk_;
  uint64_t layer_bytes_;  // keys of one layer
  int64_t length_ = 0;
  int64_t last_row_ = 0;  // of x_, the newest token
  bool logits_valid_ = false;
  Buffer cache_, x_, ids_, positions_, device_logits_;
  std::vector<Buffer> scratch_buffers_;
  BufferSet scratch_;
  std::vector<int32_t> host_positions_;
  std::vector<float> logits_;
  Sampler sampler_;
};

}  // namespace lowrank
