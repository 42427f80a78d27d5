#include "train/micro_batch.h"
#include "core/error.h"
#include "support/test.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using test::Documents;

const BatchLimits kLimits{67, 32, 32, 16};

TEST(labels_shift_inside_each_document) {
  Documents documents({3, 4});
  documents.ids = {10, 11, 12, 20, 21, 22, 23};
  documents.labels = {10, 11, -100, 20, -100, 22, 23};  // a document's first label never counts
  documents.weights = {9, 0.5f, 9, 9, 9, 0, 2};
  const MicroBatch batch = documents.batch();
  const LabelTotals totals = check_micro_batches({batch}, kLimits);
  CHECK_EQ(totals.tokens, 7);
  CHECK_EQ(totals.labels, 2);
  CHECK_EQ(totals.weight, 2.5);

  int32_t rows[7], targets[7], positions[7];
  float weights[7];
  CHECK_EQ(gather_labels(batch, 2, false, rows, targets, weights), 2);
  CHECK_EQ(rows[0], 0);
  CHECK_EQ(targets[0], 11);
  CHECK_EQ(weights[0], 1.0f);
  CHECK_EQ(rows[1], 5);
  CHECK_EQ(targets[1], 23);
  CHECK_EQ(weights[1], 4.0f);
  CHECK_EQ(gather_labels(batch, 1, true, rows, targets, weights), 3);
  CHECK_EQ(rows[1], 4);
  CHECK_EQ(weights[1], 0.0f);

  fill_positions(batch, positions);
  const int32_t expected[7] = {0, 1, 2, 0, 1, 2, 3};
  for (int i = 0; i < 7; ++i) CHECK_EQ(positions[i], expected[i]);
}

void check_refused(const Documents& documents, const char* text,
                   const BatchLimits& limits = kLimits) {
  const Documents good({4});
  CHECK_ERROR(check_micro_batches({good.batch(), documents.batch()}, limits),
              ErrorCode::kInvalidArgument, text);
  CHECK_ERROR(check_micro_batches({good.batch(), documents.batch()}, limits),
              ErrorCode::kInvalidArgument, "micro-batch 1");
}

TEST(bad_micro_batches_are_refused) {
  CHECK_ERROR(check_micro_batches({}, kLimits), ErrorCode::kInvalidArgument, "no micro-batch");
  check_refused(Documents({15, 15, 3}), "33 tokens");
  check_refused(Documents({17}), "longest allowed is 16");
  check_refused(Documents({4, 0}), "no tokens");

  Documents documents({6});
  documents.ids[2] = 67;
  check_refused(documents, "id 67 of token 2");
  documents.ids[2] = -1;
  check_refused(documents, "id -1 of token 2");
  documents = Documents({6});
  documents.labels[3] = -1;
  check_refused(documents, "label -1 of token 3");
  documents = Documents({6});
  documents.weights[3] = -0.5f;
  check_refused(documents, "token 3");
  documents.weights[3] = std::nanf("");
  check_refused(documents, "token 3");
  documents = Documents({6});
  documents.offsets[1] = 5;
  check_refused(documents, "document offsets");
  documents.offsets = {0, 8, 6};
  check_refused(documents, "document 1 has no tokens");

  BatchLimits limits = kLimits;
  limits.labels = 4;
  check_refused(Documents({6}), "5 labels", limits);
}

}  // namespace
}  // namespace lowrank
