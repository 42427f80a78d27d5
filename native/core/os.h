// Everything that touches the operating system stands behind this header; a new platform is one new
// source file beside os_posix.cc. All functions throw Error{kIo} unless they say otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lowrank::os {

// Physical cores this process may run on, at least 1. Hyper-threads share one matrix unit, so the
// pool uses one worker per physical core. LOWRANK_NUM_THREADS overrides it.
int physical_core_count();

// A read-only memory-mapped file.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Tells the kernel that these bytes won't be read again, so that a mapped model that was
  // converted on load doesn't count as resident memory.
  void drop_pages(size_t offset, size_t bytes) const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

// Zero-filled, page-aligned memory (64-byte alignment guaranteed). Throws Error{kOutOfMemory}.
// `physical` pages are touched lazily by the kernel.
void* allocate_pages(size_t bytes);
void free_pages(void* pointer, size_t bytes) noexcept;
// Whole pages within such memory: they go back to the system and read as zero afterwards.
void clear_pages(void* pointer, size_t bytes) noexcept;

// Writes a file so that a reader sees either the old content or all of the new one: temporary name
// in the same folder, fsync, rename, fsync of the folder. The destructor removes the temporary file
// if commit() was not reached.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
};

// Creates a folder "<prefix>XXXXXX" that nothing else uses and returns its path.
std::string make_temporary_directory(const std::string& prefix);

// Makes the folder `from` appear as `to`, in one step where the system can swap folders. What stood
// at `to` is then found at `from` (true), or there was nothing and `from` is gone (false).
bool exchange_directory(const std::string& from, const std::string& to);

// Flushes a folder's entries, so that a rename inside it survives a power cut.
void sync_directory(const std::string& path);

// Largest resident set of this process so far, in bytes; 0 where unknown.
uint64_t peak_resident_bytes();
uint64_t resident_bytes();
// Physical memory of the machine in bytes; 0 where unknown.
uint64_t total_memory_bytes();
// Memory that can be allocated without swapping, in bytes; honours a cgroup limit. 0 where unknown.
uint64_t available_memory_bytes();

// A shared library loaded on demand; open() returns null and fills `error` on failure.
void* open_library(const std::string& path, std::string* error);
void* library_symbol(void* library, const char* name);
void close_library(void* library);

}  // namespace lowrank::os
