// Training steps without Node, for what a step costs more from JavaScript: the commands and answers
// of bench/peers/lowrank_peer.mjs over the engine's facade.
//   train_peer MODEL ADAPTER TOKENS BATCH SEQ f32|bf16 LEARNING_RATE [THREADS]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "engine.h"

using namespace lowrank;

namespace {

std::vector<int32_t> read_tokens(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<int32_t> tokens(bytes.size() / sizeof(int32_t));
  bytes.copy(reinterpret_cast<char*>(tokens.data()), tokens.size() * sizeof(int32_t));
  return tokens;
}

void serve(char** argv, int threads) {
  const int64_t batch = std::atoll(argv[4]), seq = std::atoll(argv[5]), size = batch * seq;
  DeviceOptions device_options;
  device_options.threads = threads;
  const auto device = Device::open("cpu", device_options);
  ModelOptions options;
  options.compute = std::string(argv[6]) == "bf16" ? DType::kBF16 : DType::kF32;
  options.max_length = static_cast<int32_t>(seq);
  const auto model = Model::load(device, argv[1], options);
  const auto adapter = Adapter::load(*model, argv[2]);
  SessionOptions session_options;
  session_options.max_tokens = size;
  Session session(model, adapter, session_options);
  std::vector<int32_t> tokens = read_tokens(argv[3]), offsets;
  for (int64_t i = 0; i <= batch; ++i) offsets.push_back(static_cast<int32_t>(i * seq));
  StepOptions step;
  step.learning_rate = static_cast<float>(std::atof(argv[7]));
  std::printf("{\"ready\":true,\"threads\":%d}\n", device->info().threads);
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line) && line == "step";) {
    MicroBatch micro;
    micro.input_ids =
        tokens.data() + step.step % (static_cast<int64_t>(tokens.size()) / size) * size;
    micro.labels = micro.input_ids;
    micro.tokens = size;
    micro.document_offsets = offsets.data();
    micro.documents = static_cast<int32_t>(batch);
    ++step.step;
    const auto begin = std::chrono::steady_clock::now();
    const StepResult result = session.step({micro}, step);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    std::printf("{\"seconds\":%.9f,\"loss\":%.17g}\n", taken.count(), result.loss);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 8) {
    std::fprintf(stderr, "usage: train_peer MODEL ADAPTER TOKENS BATCH SEQ DTYPE RATE [THREADS]\n");
    return 1;
  }
  try {
    serve(argv, argc > 8 ? std::atoi(argv[8]) : 0);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
