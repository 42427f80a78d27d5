// The engine's only exception. Nothing in the engine aborts or exits the process.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace lowrank {

// Stable names: they reach users as `error.code` ("ERR_LOWRANK_" + name) and must match
// lib/errors.ts.
enum class ErrorCode {
  kInvalidArgument,  // a caller's value is wrong
  kInvalidFile,      // a file is malformed, truncated or has the wrong shape
  kIo,               // the operating system refused
  kUnsupported,      // valid, but not something this engine can do
  kOutOfMemory,      // the plan or an allocation doesn't fit
  kBackend,          // a device failed
  kNotFinite,        // the loss or a gradient became NaN or infinite
  kAborted,          // the caller's signal
  kDisposed,         // the object was disposed
  kInternal,         // a bug
};

const char* error_code_name(ErrorCode code);

// `what()` says what is wrong; `where` the place (file, tensor, key; may be empty); `hint` what to
// do about it (may be empty).
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string where = {}, std::string hint = {})
      : std::runtime_error(message),
        code_(code),
        where_(std::move(where)),
        hint_(std::move(hint)) {}

  ErrorCode code() const { return code_; }
  const std::string& where() const { return where_; }
  const std::string& hint() const { return hint_; }

 private:
  ErrorCode code_;
  std::string where_;
  std::string hint_;
};

}  // namespace lowrank
