// C++ exceptions as JavaScript errors with `code`, `where` and `hint` (lib/errors.ts).
#pragma once

#include <exception>
#include <utility>

#include "core/error.h"
#include "node/napi_setup.h"

namespace lowrank::node {

Napi::Error to_js_error(Napi::Env env, const Error& error);
// Any exception: lowrank::Error as it is, bad_alloc as out of memory, the rest as internal.
Napi::Error to_js_error(Napi::Env env, const std::exception_ptr& exception);

[[noreturn]] void throw_invalid(const std::string& message, const std::string& where,
                                const std::string& hint = {});

// Calls a synchronous method's body; what it throws reaches JavaScript.
template <typename Body>
auto guarded(Napi::Env env, const Body& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(env, std::current_exception());
  }
}

// The same for a method that returns a promise: what it throws rejects the promise.
template <typename Body>
Napi::Value promised(Napi::Env env, const Body& body) {
  const auto reject = [env](napi_value reason) {
    const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(reason);
    return deferred.Promise();
  };
  try {
    return body();
  } catch (const Napi::Error& error) {
    return reject(error.Value());
  } catch (...) {
    return reject(to_js_error(env, std::current_exception()).Value());
  }
}

}  // namespace lowrank::node
