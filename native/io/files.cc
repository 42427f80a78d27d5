#include "io/files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/os.h"

namespace lowrank {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const char* action, const std::string& path, const std::error_code& code) {
  throw Error(ErrorCode::kIo, std::string("cannot ") + action + ": " + code.message(), path);
}

// Gives `to` the files of `from` that it lacks: linked where the file system can, else copied.
void keep_others(const fs::path& from, const fs::path& to,
                 const std::vector<std::string>& obsolete) {
  std::error_code code;
  fs::directory_iterator entries(from, code);
  if (code) fail("read the folder", from.string(), code);
  for (const fs::directory_entry& entry : entries) {
    const fs::path destination = to / entry.path().filename();
    const std::string name = entry.path().filename().string();
    if (fs::exists(fs::symlink_status(destination))) continue;
    if (std::find(obsolete.begin(), obsolete.end(), name) != obsolete.end()) continue;
    if (entry.is_directory() && !entry.is_symlink()) {
      fs::create_directory(destination, code);
      if (code) fail("create the folder", destination.string(), code);
      keep_others(entry.path(), destination, {});
      continue;
    }
    if (entry.is_symlink()) {
      fs::copy_symlink(entry.path(), destination, code);
    } else {
      fs::create_hard_link(entry.path(), destination, code);
      if (code) fs::copy_file(entry.path(), destination, code);
    }
    if (code) fail("keep the file", entry.path().string(), code);
  }
}

}  // namespace

std::string join_path(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

bool file_exists(const std::string& path) {
  std::error_code code;
  return fs::is_regular_file(path, code);
}

bool folder_exists(const std::string& path) {
  std::error_code code;
  return fs::is_directory(path, code);
}

bool same_folder(const std::string& a, const std::string& b) {
  std::error_code code;
  return fs::equivalent(a, b, code);
}

std::string read_text_file(const std::string& path, size_t max_bytes) {
  const os::MappedFile file(path);
  if (file.size() > max_bytes)
    throw Error(ErrorCode::kInvalidFile, "the file is absurdly large for its kind", path);
  return std::string(reinterpret_cast<const char*>(file.data()), file.size());
}

void write_text_file(const std::string& path, const std::string& text) {
  os::AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

void copy_file(const std::string& from, const std::string& to) {
  const os::MappedFile source(from);
  os::AtomicFile file(to);
  file.write(source.data(), source.size());
  file.commit();
}

std::vector<std::string> list_files(const std::string& folder) {
  std::error_code code;
  fs::directory_iterator entries(folder, code);
  if (code) fail("read the folder", folder, code);
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : entries)
    if (entry.is_regular_file(code)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

OutputFolder::OutputFolder(const std::string& target) {
  std::error_code code;
  fs::path path = fs::weakly_canonical(fs::absolute(target), code);
  if (code) fail("resolve the path", target, code);
  if (path.filename().empty()) path = path.parent_path();
  target_ = path.string();
  if (fs::exists(path, code) && !fs::is_directory(path, code))
    throw Error(ErrorCode::kIo, "a file stands where the folder should be written", target_,
                "choose another folder");
  if (path == fs::current_path(code))
    throw Error(ErrorCode::kInvalidArgument, "the current folder can't be replaced", target_,
                "choose a folder inside it");
  fs::create_directories(path.parent_path(), code);
  if (code) fail("create the folder", path.parent_path().string(), code);
  temporary_ = os::make_temporary_directory(target_ + ".tmp-");
}

OutputFolder::~OutputFolder() {
  std::error_code code;
  if (!temporary_.empty()) fs::remove_all(temporary_, code);
}

void OutputFolder::commit(const std::vector<std::string>& obsolete) {
  std::error_code code;
  if (fs::is_directory(target_, code)) keep_others(target_, temporary_, obsolete);
  os::sync_directory(temporary_);
  os::exchange_directory(temporary_, target_);
  fs::remove_all(temporary_, code);  // what stood there before
  temporary_.clear();
}

}  // namespace lowrank
