// A folder that is removed with everything in it at the end of a test.
#pragma once

#include <filesystem>
#include <string>

#include "core/os.h"

namespace lowrank::test {

class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(os::make_temporary_directory(
            (std::filesystem::temp_directory_path() / "lowrank-test-").string())) {}
  ~TemporaryFolder() {
    std::error_code code;
    std::filesystem::remove_all(path_, code);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace lowrank::test
