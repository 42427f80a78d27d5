// A stream of the execution model, also as libraries see it that queue work of their own.
#pragma once

#include <cstdint>

namespace lowrank::cuda {

// Grids run at once, in the order of their launches.
struct ModelStream {
  uint64_t seed = 0;
  // Runs body(argument) as a grid of one thread: only there can a library touch device memory.
  void (*run)(const ModelStream*, void (*body)(void*), void* argument) = nullptr;
};

}  // namespace lowrank::cuda
