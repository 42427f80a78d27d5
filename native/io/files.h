// Whole small files, and folders that appear complete or not at all.
#pragma once

#include <string>
#include <vector>

namespace lowrank {

// "folder/name", without doubling the slash.
std::string join_path(const std::string& folder, const std::string& name);

bool file_exists(const std::string& path);
bool folder_exists(const std::string& path);
// Whether both exist and are the same folder.
bool same_folder(const std::string& a, const std::string& b);

// Throws Error{kIo}. `max_bytes` guards against a file that can't be what the caller expects
// (Error{kInvalidFile}).
std::string read_text_file(const std::string& path, size_t max_bytes = size_t{64} << 20);

// Complete or absent, see os::AtomicFile.
void write_text_file(const std::string& path, const std::string& text);

void copy_file(const std::string& from, const std::string& to);

// Names of the regular files in a folder, sorted.
std::vector<std::string> list_files(const std::string& folder);

// A folder written under a temporary name beside its target. Until commit() nothing is seen at the
// target; files that the target holds under other names are kept. The destructor removes what was
// not committed.
class OutputFolder {
 public:
  explicit OutputFolder(const std::string& target);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  // Where to write.
  const std::string& path() const { return temporary_; }
  // `obsolete`: names that an existing target's copy must lose although they weren't written again
  // (shards of an older save).
  void commit(const std::vector<std::string>& obsolete = {});

 private:
  std::string target_, temporary_;
};

}  // namespace lowrank
