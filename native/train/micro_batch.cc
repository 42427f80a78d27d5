#include "train/micro_batch.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace lowrank {
namespace {

[[noreturn]] void refuse(size_t batch, const std::string& message, const std::string& hint = {}) {
  throw Error(ErrorCode::kInvalidArgument, message, "micro-batch " + std::to_string(batch), hint);
}

void check_documents(const MicroBatch& batch, const BatchLimits& limits, size_t index) {
  if (batch.documents <= 0 || !batch.document_offsets) refuse(index, "there is no document");
  if (batch.document_offsets[0] != 0 || batch.document_offsets[batch.documents] != batch.tokens)
    refuse(index, "document offsets must begin with 0 and end with the number of tokens");
  for (int32_t d = 0; d < batch.documents; ++d) {
    const int64_t length = int64_t{batch.document_offsets[d + 1]} - batch.document_offsets[d];
    if (length <= 0) refuse(index, "document " + std::to_string(d) + " has no tokens");
    if (length > limits.positions)
      refuse(index,
             "document " + std::to_string(d) + " has " + std::to_string(length) +
                 " tokens and the longest allowed is " + std::to_string(limits.positions),
             "shorten the documents, or load the model for a greater length");
  }
}

float weight_of(const MicroBatch& batch, int64_t token) {
  return batch.weights ? batch.weights[token] : 1.0f;
}

// Calls body(row, label, weight) for every label that a row predicts.
template <typename Body>
void for_each_label(const MicroBatch& batch, const Body& body) {
  for (int32_t d = 0; d < batch.documents; ++d)
    for (int64_t t = batch.document_offsets[d] + 1; t < batch.document_offsets[d + 1]; ++t)
      if (batch.labels[t] != kNoLabel) body(t - 1, batch.labels[t], weight_of(batch, t));
}

void check_tokens(const MicroBatch& batch, const BatchLimits& limits, size_t index) {
  for (int64_t t = 0; t < batch.tokens; ++t) {
    const int32_t id = batch.input_ids[t], label = batch.labels[t];
    const auto outside = [&](const char* what, int32_t value) {
      refuse(index,
             std::string(what) + " " + std::to_string(value) + " of token " + std::to_string(t) +
                 " is outside the vocabulary of " + std::to_string(limits.vocabulary),
             "use the tokenizer that belongs to the model");
    };
    if (id < 0 || id >= limits.vocabulary) outside("id", id);
    if (label != kNoLabel && (label < 0 || label >= limits.vocabulary)) outside("label", label);
    if (batch.weights && !(batch.weights[t] >= 0 && std::isfinite(batch.weights[t])))
      refuse(index, "the weight of token " + std::to_string(t) + " is negative or not finite");
  }
}

}  // namespace

LabelTotals check_micro_batches(const std::vector<MicroBatch>& batches, const BatchLimits& limits) {
  if (batches.empty())
    throw Error(ErrorCode::kInvalidArgument, "there is no micro-batch", "micro-batches");
  LabelTotals totals;
  for (size_t i = 0; i < batches.size(); ++i) {
    const MicroBatch& batch = batches[i];
    if (batch.tokens <= 0 || !batch.input_ids || !batch.labels) refuse(i, "there are no tokens");
    if (batch.tokens > limits.tokens)
      refuse(i,
             std::to_string(batch.tokens) + " tokens, but the session was planned for " +
                 std::to_string(limits.tokens),
             "create the session with a greater max_tokens");
    check_documents(batch, limits, i);
    check_tokens(batch, limits, i);
    int64_t labels = 0;
    for_each_label(batch, [&](int64_t, int32_t, float weight) {
      ++labels;
      totals.labels += weight != 0;
      totals.weight += double{weight};
    });
    if (labels > limits.labels)
      refuse(i,
             std::to_string(labels) + " labels, but the session was planned for " +
                 std::to_string(limits.labels),
             "create the session with a greater max_labels");
    totals.tokens += batch.tokens;
  }
  return totals;
}

void fill_positions(const MicroBatch& batch, int32_t* positions) {
  for (int32_t d = 0; d < batch.documents; ++d)
    for (int32_t t = batch.document_offsets[d]; t < batch.document_offsets[d + 1]; ++t)
      positions[t] = t - batch.document_offsets[d];
}

int64_t longest_document(const MicroBatch& batch) {
  int64_t longest = 0;
  for (int32_t d = 0; d < batch.documents; ++d)
    longest = std::max<int64_t>(longest, batch.document_offsets[d + 1] - batch.document_offsets[d]);
  return longest;
}

int32_t gather_labels(const MicroBatch& batch, double scale, bool keep_weightless, int32_t* rows,
                      int32_t* targets, float* weights) {
  int32_t count = 0;
  for_each_label(batch, [&](int64_t row, int32_t label, float weight) {
    if (weight == 0 && !keep_weightless) return;
    rows[count] = static_cast<int32_t>(row);
    targets[count] = label;
    weights[count] = static_cast<float>(double{weight} * scale);
    ++count;
  });
  return count;
}

}  // namespace lowrank
