// What native/backend/registry.cc looks up in a device library.
#include "cuda/plugin.h"

extern "C" __attribute__((visibility("default"))) const lowrank::Backend* lowrank_backend() {
  return &lowrank::cuda::backend();
}
