#include "backend/registry.h"

#include <cstdlib>
#include <map>
#include <mutex>

#include "core/error.h"
#include "core/os.h"

namespace lowrank {
namespace {

struct Plugin {
  const Backend* backend = nullptr;
  std::string message;
};

// A plug-in exports one C function; it stays loaded for the life of the process because its code
// may be running on any thread.
Plugin load_plugin(const std::string& name) {
  std::string path = "liblowrank_" + name + ".so";
  if (const char* folder = std::getenv("LOWRANK_PLUGIN_PATH"))
    path = std::string(folder) + "/" + path;
  Plugin plugin;
  std::string error;
  void* library = os::open_library(path, &error);
  if (!library) {
    plugin.message = "cannot load " + path + ": " + error;
    return plugin;
  }
  using Entry = const Backend* (*)();
  const auto entry = reinterpret_cast<Entry>(os::library_symbol(library, "lowrank_backend"));
  if (!entry) {
    plugin.message = path + " isn't a lowrank backend";
    os::close_library(library);
    return plugin;
  }
  plugin.backend = entry();
  if (!plugin.backend) plugin.message = path + " found no device it can use";
  return plugin;
}

Plugin plugin(const std::string& name) {
  static std::mutex mutex;
  static auto& loaded = *new std::map<std::string, Plugin>();
  std::lock_guard lock(mutex);
  auto found = loaded.find(name);
  if (found == loaded.end()) found = loaded.emplace(name, load_plugin(name)).first;
  return found->second;
}

}  // namespace

const Backend& find_backend(const std::string& name) {
  if (name == "cpu") return cpu_backend();
  if (name != "cuda")
    throw Error(ErrorCode::kUnsupported, "there is no device called '" + name + "'", "device",
                "use cpu or cuda");
  const Plugin found = plugin(name);
  if (!found.backend)
    throw Error(ErrorCode::kUnsupported, "no " + name + " device: " + found.message, "device",
                "use --device cpu, or install the lowrank package for this device");
  return *found.backend;
}

std::vector<BackendReport> list_backends() {
  std::vector<BackendReport> reports{{"cpu", true, ""}};
  const Plugin cuda = plugin("cuda");
  reports.push_back({"cuda", cuda.backend != nullptr, cuda.message});
  return reports;
}

}  // namespace lowrank
