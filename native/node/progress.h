// Progress from an engine thread to a JavaScript callback. Reports coalesce: at most one is on its
// way, and it carries the latest numbers, so a slow event loop never holds up the work.
#pragma once

#include <atomic>
#include <memory>

#include "engine.h"
#include "node/js_queue.h"

namespace lowrank::node {

class ProgressChannel : public std::enable_shared_from_this<ProgressChannel> {
 public:
  // Null when `callback` is undefined. Made and destroyed on the JavaScript thread: whoever runs
  // the job keeps a reference in the part that settles the promise.
  static std::shared_ptr<ProgressChannel> open(const Napi::Value& callback);
  // For the engine; empty for a null channel.
  static Progress reporter(const std::shared_ptr<ProgressChannel>& channel);

  ProgressChannel(const Napi::Function& callback, JsQueue& queue);

 private:
  class Task;
  void report(int64_t done, int64_t total);

  Napi::FunctionReference callback_;
  JsQueue& queue_;
  std::atomic<int64_t> done_{0}, total_{0};
  std::atomic<bool> on_its_way_{false};
};

}  // namespace lowrank::node
