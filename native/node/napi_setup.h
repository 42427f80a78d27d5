// The only file that includes <napi.h>, so that every translation unit sees the same settings.
// NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS keeps a terminating worker from aborting the process: an
// exception that can't reach JavaScript any more is dropped.
#pragma once

#if !defined(NAPI_CPP_EXCEPTIONS) || !defined(NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS)
#error "native/node/CMakeLists.txt defines how exceptions cross into JavaScript"
#endif

#include <napi.h>
