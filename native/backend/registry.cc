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

std::mutex mutex;  // of both below
std::string& plugin_folder() {
  static auto& folder = *new std::string();
  return folder;
}
std::map<std::string, Plugin>& loaded() {
  static auto& plugins = *new std::map<std::string, Plugin>();
  return plugins;
}

std::string plugin_path(const std::string& name) {
  const std::string file = "liblowrank_" + name + ".so";
  const char* folder = std::getenv("LOWRANK_PLUGIN_PATH");
  if (folder) return std::string(folder) + "/" + file;
  return plugin_folder().empty() ? file : plugin_folder() + "/" + file;
}

// A plug-in exports one C function; it stays loaded for the life of the process because its code
// may be running on any thread.
Plugin load_plugin(const std::string& path) {
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
  const std::lock_guard lock(mutex);
  const std::string path = plugin_path(name);
  auto found = loaded().find(path);
  if (found == loaded().end()) found = loaded().emplace(path, load_plugin(path)).first;
  return found->second;
}

}  // namespace

const Backend& find_backend(const std::string& name) {
  if (name == "cpu") return cpu_backend();
  if (name != "cuda")
    throw Error(ErrorCode::kInvalidArgument, "there is no device called '" + name + "'", "device",
                "use cpu or cuda");
  const Plugin found = plugin(name);
  if (!found.backend)
    throw Error(ErrorCode::kUnsupported, "no " + name + " device: " + found.message, "device",
                "use the device cpu; `lowrank doctor` says what CUDA needs");
  return *found.backend;
}

void set_plugin_folder(const std::string& folder) {
  const std::lock_guard lock(mutex);
  plugin_folder() = folder;
}

std::vector<BackendReport> list_backends() {
  std::vector<BackendReport> reports{{"cpu", true, ""}};
  const Plugin cuda = plugin("cuda");
  reports.push_back({"cuda", cuda.backend != nullptr, cuda.message});
  return reports;
}

}  // namespace lowrank
