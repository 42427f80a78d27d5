#include "node/js_queue.h"

namespace lowrank::node {

JsQueue::JsQueue(Napi::Env env) : function_(Function::New(env, "lowrank", 0, 1)) {
  function_.Unref(env);
}

void JsQueue::post(std::unique_ptr<JsTask> task) {
  if (function_.NonBlockingCall(task.get()) == napi_ok) task.release();
}

void JsQueue::begin_work(Napi::Env env) {
  if (pending_++ == 0) function_.Ref(env);
}

void JsQueue::end_work(Napi::Env env) {
  if (--pending_ == 0) function_.Unref(env);
}

void JsQueue::call(Napi::Env env, Napi::Function, Nothing*, JsTask* task) {
  const std::unique_ptr<JsTask> owned(task);
  if (static_cast<napi_env>(env) == nullptr) return;  // the environment is closing
  owned->run(env);
}

}  // namespace lowrank::node
