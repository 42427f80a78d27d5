// Shared by the files behind lowrank.h: handles, errors per thread, and structs of any version.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "core/error.h"
#include "engine.h"
#include "lowrank.h"

struct lowrank_abort {
  std::atomic<bool> flag{false};
};
struct lowrank_device {
  std::shared_ptr<lowrank::Device> device;
};
struct lowrank_model {
  std::shared_ptr<lowrank::Device> device;
  std::shared_ptr<lowrank::Model> model;
};
struct lowrank_adapter {
  std::shared_ptr<lowrank::Adapter> adapter;
};
struct lowrank_session {
  lowrank::Session session;
};
struct lowrank_generator {
  lowrank::Generator generator;
};

namespace lowrank::c_abi {

lowrank_status remember(ErrorCode code, const char* message, const std::string& where,
                        const std::string& hint);

// Runs `body`; an exception becomes a status and this thread's last error.
template <typename Body>
lowrank_status guarded(const Body& body) {
  try {
    body();
    return LOWRANK_OK;
  } catch (const Error& error) {
    return remember(error.code(), error.what(), error.where(), error.hint());
  } catch (const std::bad_alloc&) {
    return remember(ErrorCode::kOutOfMemory, "out of memory", {}, {});
  } catch (const std::exception& error) {
    return remember(ErrorCode::kInternal, error.what(), {}, {});
  }
}

template <typename T>
T* require(T* pointer, const char* name) {
  if (!pointer) throw Error(ErrorCode::kInvalidArgument, "this must not be NULL", name);
  return pointer;
}

// Options from a caller whose header may be older (its fields) or newer (fields unknown here, which
// are ignored); NULL = `defaults`.
template <typename T>
T read_struct(const T* given, const T& defaults, const char* name) {
  T value = defaults;
  if (!given) return value;
  if (given->struct_bytes < sizeof(size_t))
    throw Error(ErrorCode::kInvalidArgument, "struct_bytes isn't set", name,
                "fill it with its init function, or set struct_bytes to sizeof");
  std::memcpy(&value, given, std::min(given->struct_bytes, sizeof(T)));
  value.struct_bytes = sizeof(T);
  return value;
}

// Refuses an output struct before any work is done.
template <typename T>
void require_output(const T* out, const char* name) {
  if (require(out, name)->struct_bytes < sizeof(size_t))
    throw Error(ErrorCode::kInvalidArgument, "struct_bytes isn't set", name,
                "set struct_bytes to sizeof");
}

// Writes as much as the caller's struct has room for.
template <typename T>
void write_struct(T* out, T value, const char* name) {
  require_output(out, name);
  value.struct_bytes = out->struct_bytes;
  std::memcpy(out, &value, std::min(out->struct_bytes, sizeof(T)));
}

inline const std::atomic<bool>* flag_of(const lowrank_abort* abort) {
  return abort ? &abort->flag : nullptr;
}
inline std::shared_ptr<Adapter> adapter_of(const lowrank_adapter* adapter) {
  return adapter ? adapter->adapter : nullptr;
}

ModelOptions model_options(const lowrank_model_options* given);
LoraOptions lora_options(const lowrank_lora_options* given);

}  // namespace lowrank::c_abi
