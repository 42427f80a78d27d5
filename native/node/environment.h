// What the addon keeps per JavaScript environment (the main thread and each worker thread have
// their own): the queue back to JavaScript, the engine threads, the class constructors. No globals.
// Everything here is for the environment's own thread.
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "node/serial_worker.h"

namespace lowrank::node {

enum class ClassId { kModel, kAdapter, kSession, kGenerator, kAbortFlag, kCount };

class Environment {
 public:
  // Makes the environment's data. A cleanup hook stops and joins every engine thread before the
  // environment goes away; nothing relies on static destructors.
  static Environment& install(Napi::Env env);
  static Environment& of(Napi::Env env);

  JsQueue& results() { return results_; }
  // A new thread; it ends when the last reference is gone and its queue is empty.
  std::shared_ptr<SerialWorker> new_worker();
  // A worker for what belongs to no model: kernels.
  const std::shared_ptr<SerialWorker>& shared_worker();

  // What kernels keep between calls, made on first use; for jobs of the shared worker.
  template <typename T>
  std::shared_ptr<T> kernel_state() {
    if (!kernel_state_) kernel_state_ = std::make_shared<T>();
    return std::static_pointer_cast<T>(kernel_state_);
  }

  void set_constructor(ClassId id, const Napi::Function& constructor);
  // Makes an object of a class around `handle`. The classes can't be constructed from JavaScript.
  Napi::Object construct(ClassId id, std::shared_ptr<void> handle);
  // For the class's constructor: throws a TypeError unless construct() called it.
  template <typename T>
  std::shared_ptr<T> take_handle(Napi::Env env) {
    if (!handle_) throw Napi::TypeError::New(env, "lowrank's native classes have no constructor");
    return std::static_pointer_cast<T>(std::exchange(handle_, nullptr));
  }

 private:
  explicit Environment(Napi::Env env) : results_(env) {}
  void stop();

  JsQueue results_;
  std::vector<std::shared_ptr<SerialWorker>> workers_;
  std::shared_ptr<SerialWorker> shared_worker_;
  std::shared_ptr<void> kernel_state_;
  std::array<Napi::FunctionReference, static_cast<size_t>(ClassId::kCount)> constructors_;
  std::shared_ptr<void> handle_;
};

}  // namespace lowrank::node
