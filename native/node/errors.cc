#include "node/errors.h"

#include <new>
#include <string>

namespace lowrank::node {

Napi::Error to_js_error(Napi::Env env, const Error& error) {
  Napi::Error result = Napi::Error::New(env, error.what());
  Napi::Object value = result.Value();
  value.Set("code", std::string("ERR_LOWRANK_") + error_code_name(error.code()));
  if (!error.where().empty()) value.Set("where", error.where());
  if (!error.hint().empty()) value.Set("hint", error.hint());
  return result;
}

Napi::Error to_js_error(Napi::Env env, const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Napi::Error& error) {
    return error;
  } catch (const Error& error) {
    return to_js_error(env, error);
  } catch (const std::bad_alloc&) {
    return to_js_error(env, Error(ErrorCode::kOutOfMemory, "out of memory"));
  } catch (const std::exception& error) {
    return to_js_error(env, Error(ErrorCode::kInternal, error.what(), {},
                                  "this is a bug in lowrank; please report it"));
  } catch (...) {
    return to_js_error(env, Error(ErrorCode::kInternal, "unknown exception"));
  }
}

void throw_invalid(const std::string& message, const std::string& where, const std::string& hint) {
  throw Error(ErrorCode::kInvalidArgument, message, where, hint);
}

}  // namespace lowrank::node
