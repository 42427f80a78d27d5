#include "ops/rope.h"

#include <limits>

#include "ops/check.h"

namespace lowrank::ops {

void rope(const Device& device, const Rope& op) {
  const char* name = "rope";
  require(op.heads > 0 && op.head_dim > 0, name, "heads and head_dim must be positive");
  check_matrix(name, "x", op.x, op.x.rows, int64_t{op.heads} * op.head_dim);
  require(op.rotary_dim > 0 && op.rotary_dim % 2 == 0 && op.rotary_dim <= op.head_dim, name,
          "rotary_dim must be even, positive and at most head_dim");
  // The tables' length isn't known here; only a negative position can be told to be wrong.
  check_indices(name, "positions", device, op.positions, op.x.rows,
                std::numeric_limits<int32_t>::max());
  check_pointer(name, "cos", op.cos, op.x.rows);
  check_pointer(name, "sin", op.sin, op.x.rows);
  device.check(device.backend().rope(device.handle(), &op), name);
}

}  // namespace lowrank::ops
