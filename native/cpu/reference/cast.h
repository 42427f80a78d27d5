// Conversion between the float types.
#pragma once

#include "cpu/reference/scalar.h"

namespace lowrank::reference {

template <typename From, typename To>
void cast(const From* from, To* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from_float<To>(to_float(from[i]));
}

}  // namespace lowrank::reference
