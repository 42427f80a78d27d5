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

// Finds a backend by name: "cpu" or "cuda". A plug-in is the library liblowrank_<name>.so in the
// folder LOWRANK_PLUGIN_PATH where the environment has it; else in the plug-in folder; else where
// the system looks for libraries. Throws Error{kUnsupported} saying why not.
const Backend& find_backend(const std::string& name);

// Where plug-ins that come as a package lie; before one is looked for.
void set_plugin_folder(const std::string& folder);

std::vector<BackendReport> list_backends();

}  // namespace lowrank
