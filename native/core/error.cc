#include "core/error.h"

namespace lowrank {

const char* error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case ErrorCode::kInvalidFile:
      return "INVALID_FILE";
    case ErrorCode::kIo:
      return "IO";
    case ErrorCode::kUnsupported:
      return "UNSUPPORTED";
    case ErrorCode::kOutOfMemory:
      return "OUT_OF_MEMORY";
    case ErrorCode::kBackend:
      return "BACKEND";
    case ErrorCode::kNotFinite:
      return "NOT_FINITE";
    case ErrorCode::kAborted:
      return "ABORTED";
    case ErrorCode::kDisposed:
      return "DISPOSED";
    case ErrorCode::kInternal:
      return "INTERNAL";
  }
  return "INTERNAL";
}

}  // namespace lowrank
