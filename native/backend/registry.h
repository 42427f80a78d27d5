// The backends this process can use. A backend that is absent is simply not registered; a plug-in
// library is looked up on demand.
#pragma once

#include <string>
#include <vector>

#include "backend/backend.h"

namespace lowrank {

// The built-in CPU backend (native/cpu).
const Backend& cpu_backend();

struct BackendReport {
  std::string name;
  bool available = false;
  std::string message;  // why it isn't available, and what to do
};

// Finds a backend by name: "cpu", or a plug-in library lowrank_<name> beside the engine or in
// LOWRANK_PLUGIN_PATH. Throws Error{kUnsupported} saying why not.
const Backend& find_backend(const std::string& name);

std::vector<BackendReport> list_backends();

}  // namespace lowrank
