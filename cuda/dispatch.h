// From an element type known at run time to a template argument.
#pragma once

#include "core/dtype.h"

namespace lowrank::cuda {

template <typename T>
struct TypeTag {
  using Type = T;
};

// Calls body(TypeTag<float or BF16>) for an activation's type.
template <typename Body>
void with_activation(DType dtype, const Body& body) {
  if (dtype == DType::kBF16)
    body(TypeTag<BF16>{});
  else
    body(TypeTag<float>{});
}

// Calls body(TypeTag<float, BF16 or F16>).
template <typename Body>
void with_float_type(DType dtype, const Body& body) {
  if (dtype == DType::kF16)
    body(TypeTag<F16>{});
  else
    with_activation(dtype, body);
}

}  // namespace lowrank::cuda
