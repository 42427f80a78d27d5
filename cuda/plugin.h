// The CUDA backend's table; entry.cc exports it from the library.
#pragma once

#include "backend/backend.h"

namespace lowrank::cuda {

const Backend& backend();

}  // namespace lowrank::cuda
