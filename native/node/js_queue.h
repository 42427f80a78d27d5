// The way from engine threads back to the JavaScript thread: one thread-safe function per
// environment. Pending work keeps the event loop alive; an idle queue doesn't.
#pragma once

#include <memory>

#include "node/napi_setup.h"

namespace lowrank::node {

// Runs on the JavaScript thread. Destroyed there without having run when the environment is
// closing.
class JsTask {
 public:
  virtual ~JsTask() = default;
  virtual void run(Napi::Env env) = 0;
};

class JsQueue {
 public:
  explicit JsQueue(Napi::Env env);

  // From any thread; never blocks. All posting threads must have ended before the environment
  // closes (Environment joins them in its cleanup hook).
  void post(std::unique_ptr<JsTask> task);

  // JavaScript thread only: work that will post its result later begins and ends.
  void begin_work(Napi::Env env);
  void end_work(Napi::Env env);

 private:
  struct Nothing {};
  static void call(Napi::Env env, Napi::Function callback, Nothing* context, JsTask* task);
  using Function = Napi::TypedThreadSafeFunction<Nothing, JsTask, &JsQueue::call>;

  Function function_;
  int pending_ = 0;
};

}  // namespace lowrank::node
