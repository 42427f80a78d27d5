// What a caller hands over, checked and turned into what the decoder and the head read: positions,
// and the rows that carry a label. Labels are shifted by one inside each document: the row of token
// t predicts token t + 1.
#pragma once

#include <cstdint>
#include <vector>

#include "engine_types.h"

namespace lowrank {

struct BatchLimits {
  int64_t vocabulary = 0;
  int64_t tokens = 0;     // per micro-batch
  int64_t labels = 0;     // per micro-batch
  int64_t positions = 0;  // per document
};

inline constexpr int32_t kNoLabel = -100;

// Sums over micro-batches, before anything is computed.
struct LabelTotals {
  double weight = 0;
  int64_t tokens = 0;
  int64_t labels = 0;  // with a weight other than 0
};

// Throws Error{kInvalidArgument} naming the micro-batch and the token.
LabelTotals check_micro_batches(const std::vector<MicroBatch>& batches, const BatchLimits& limits);

// positions[t] restarts at 0 in each document.
void fill_positions(const MicroBatch& batch, int32_t* positions);

int64_t longest_document(const MicroBatch& batch);

// Fills the labelled rows in ascending order with weights scaled by `scale` and returns how many.
// Labels of weight 0 are left out unless `keep_weightless`.
int32_t gather_labels(const MicroBatch& batch, double scale, bool keep_weightless, int32_t* rows,
                      int32_t* targets, float* weights);

}  // namespace lowrank
