// Work on an engine thread as a JavaScript promise.
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "node/environment.h"
#include "node/errors.h"

namespace lowrank::node {

template <typename Work, typename Convert>
class PromiseJob final : public Job {
 public:
  PromiseJob(Napi::Env env, JsQueue& results, AbortState abort, Work work, Convert convert)
      : Job(std::move(abort)),
        results_(results),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        convert_(std::move(convert)) {
    results_.begin_work(env);
  }

  Napi::Promise promise() const { return deferred_.Promise(); }

  void work() noexcept override {
    try {
      if constexpr (std::is_void_v<Result>) {
        (*work_)(*abort_);
      } else {
        result_.emplace((*work_)(*abort_));
      }
    } catch (...) {
      error_ = std::current_exception();
    }
    work_.reset();  // what it holds belongs to the engine thread
  }

  void run(Napi::Env env) override {
    results_.end_work(env);
    if (!error_) {
      try {
        deferred_.Resolve(converted(env));
        return;
      } catch (...) {
        error_ = std::current_exception();
      }
    }
    deferred_.Reject(to_js_error(env, error_).Value());
  }

 private:
  using Result = std::invoke_result_t<Work&, std::atomic<bool>&>;
  using Stored = std::conditional_t<std::is_void_v<Result>, bool, Result>;

  napi_value converted(Napi::Env env) {
    if constexpr (std::is_void_v<Result>) {
      return convert_(env);
    } else {
      return convert_(env, std::move(*result_));
    }
  }

  JsQueue& results_;
  Napi::Promise::Deferred deferred_;
  std::optional<Work> work_;
  Convert convert_;
  std::optional<Stored> result_;
  std::exception_ptr error_;
};

inline AbortState new_abort_state() { return std::make_shared<std::atomic<bool>>(false); }

// Calls work(abort) on the worker and resolves with convert(env, result), or convert(env) when work
// returns nothing. `abort` is also set when the environment closes.
template <typename Work, typename Convert>
Napi::Value run_async(Napi::Env env, SerialWorker& worker, AbortState abort, Work work,
                      Convert convert) {
  auto job = std::make_unique<PromiseJob<Work, Convert>>(
      env, Environment::of(env).results(), std::move(abort), std::move(work), std::move(convert));
  const Napi::Promise promise = job->promise();
  worker.post(std::move(job));
  return promise;
}

inline auto resolve_undefined() {
  return [](Napi::Env env) -> napi_value { return env.Undefined(); };
}

}  // namespace lowrank::node
