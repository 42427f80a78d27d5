// The CUDA plug-in over its execution model (test/cuda), as the engine loads it, or the one that
// LOWRANK_PLUGIN_PATH names, on a machine with a GPU. Programs built with LOWRANK_MODELLED_FOLDER
// run tests of models and training on it instead of the CPU.
#pragma once

#include <cstdlib>
#include <memory>

#include "backend/device.h"

namespace lowrank::test {

#ifdef LOWRANK_MODELLED_FOLDER
inline std::shared_ptr<Device> modelled_device() {
  ::setenv("LOWRANK_PLUGIN_PATH", LOWRANK_MODELLED_FOLDER, 0);
  return Device::open("cuda");
}
#endif

}  // namespace lowrank::test
