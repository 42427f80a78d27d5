// The plug-in over the execution model as a library that the engine loads.
#include "cuda/plugin.h"
#include "model/device_memory.h"

extern "C" __attribute__((visibility("default"))) const lowrank::Backend* lowrank_backend() {
  lowrank::cuda::model::use_device_memory();
  return &lowrank::cuda::backend();
}
