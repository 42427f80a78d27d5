#include "ops/embedding.h"

#include <limits>

#include "ops/check.h"

namespace lowrank::ops {

void embedding_forward(const Device& device, const EmbeddingForward& op) {
  const char* name = "embedding_forward";
  check_matrix(name, "y", op.y, op.y.rows, op.weight.cols);
  check_weight(name, "weight", op.weight, op.weight.rows, op.weight.cols);
  check_indices(name, "ids", device, op.ids, op.y.rows, op.weight.rows);
  device.check(device.backend().embedding_forward(device.handle(), &op), name);
}

void embedding_backward(const Device& device, const EmbeddingBackward& op) {
  const char* name = "embedding_backward";
  check_matrix(name, "d_y", op.d_y, op.d_y.rows, op.d_y.cols);
  // The forward pass checked the same ids against the vocabulary, which isn't known here.
  check_indices(name, "ids", device, op.ids, op.d_y.rows, std::numeric_limits<int32_t>::max());
  check_pointer(name, "d_weight", op.d_weight, op.d_y.rows);
  device.check(device.backend().embedding_backward(device.handle(), &op), name);
}

}  // namespace lowrank::ops
