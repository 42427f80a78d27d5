#include "c_abi/bridge.h"

namespace lowrank::c_abi {
namespace {

struct LastError {
  std::string message, where, hint;
};

LastError& last_error() {
  thread_local LastError error;
  return error;
}

lowrank_status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kDisposed:
      return LOWRANK_INVALID_ARGUMENT;
    case ErrorCode::kInvalidFile:
      return LOWRANK_INVALID_FILE;
    case ErrorCode::kIo:
      return LOWRANK_IO;
    case ErrorCode::kUnsupported:
      return LOWRANK_UNSUPPORTED;
    case ErrorCode::kOutOfMemory:
      return LOWRANK_OUT_OF_MEMORY;
    case ErrorCode::kBackend:
      return LOWRANK_BACKEND;
    case ErrorCode::kNotFinite:
      return LOWRANK_NOT_FINITE;
    case ErrorCode::kAborted:
      return LOWRANK_ABORTED;
    case ErrorCode::kInternal:
      break;
  }
  return LOWRANK_INTERNAL;
}

}  // namespace

lowrank_status remember(ErrorCode code, const char* message, const std::string& where,
                        const std::string& hint) {
  try {
    last_error() = {message, where, hint};
  } catch (const std::bad_alloc&) {
    // The status alone has to do.
  }
  return status_of(code);
}

}  // namespace lowrank::c_abi

using lowrank::c_abi::guarded;
using lowrank::c_abi::last_error;
using lowrank::c_abi::require;

const char* lowrank_version(void) { return lowrank::engine_version(); }
const char* lowrank_last_error(void) { return last_error().message.c_str(); }
const char* lowrank_last_error_where(void) { return last_error().where.c_str(); }
const char* lowrank_last_error_hint(void) { return last_error().hint.c_str(); }

lowrank_status lowrank_abort_create(lowrank_abort** out) {
  return guarded([&] { *require(out, "out") = new lowrank_abort(); });
}
void lowrank_abort_set(lowrank_abort* flag) {
  if (flag) flag->flag.store(true, std::memory_order_relaxed);
}
void lowrank_abort_clear(lowrank_abort* flag) {
  if (flag) flag->flag.store(false, std::memory_order_relaxed);
}
void lowrank_abort_free(lowrank_abort* flag) { delete flag; }
