#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/os.h"

namespace lowrank::os {
namespace {

[[noreturn]] void fail(const char* action, const std::string& path) {
  throw Error(ErrorCode::kIo, std::string("cannot ") + action + ": " + std::strerror(errno), path);
}

std::string parent_directory(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

uint64_t read_number(const char* path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return (file >> value) ? value : 0;
}

int cores_from_topology() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  std::set<std::pair<int, int>> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string base = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    std::ifstream package(base + "physical_package_id"), core(base + "core_id");
    int package_id = 0, core_id = cpu;
    package >> package_id;
    core >> core_id;
    cores.emplace(package_id, core_id);
  }
  return static_cast<int>(cores.size());
}

}  // namespace

int physical_core_count() {
  if (const char* text = std::getenv("LOWRANK_NUM_THREADS")) {
    const int value = std::atoi(text);
    if (value > 0) return std::min(value, 1024);
  }
  const int cores = cores_from_topology();
  if (cores > 0) return cores;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail("open", path);
  struct stat info {};
  if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    const int error = errno;
    ::close(descriptor);
    errno = S_ISREG(info.st_mode) ? error : EINVAL;
    fail("read as a regular file", path);
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (mapping == MAP_FAILED) {
      const int error = errno;
      ::close(descriptor);
      errno = error;
      fail("map", path);
    }
    data_ = static_cast<const uint8_t*>(mapping);
  }
  ::close(descriptor);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

void MappedFile::drop_pages(size_t offset, size_t bytes) const {
  if (!data_ || offset >= size_) return;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = std::min(size_, offset + bytes) / page * page;
  // Only a hint: a failure changes nothing but the resident size.
  if (begin < end) ::madvise(const_cast<uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}

// What x86-64 and arm64 (with pages of 4 KiB) have besides small pages.
constexpr size_t kHugePage = size_t{2} << 20;

void* allocate_pages(size_t bytes) {
  if (bytes == 0) bytes = 1;
  // A block that is large begins where a huge page can begin: whole huge pages also lie in memory
  // as they lie here, so that blocks of a cache's size meet each of its sets equally often.
  const bool large = bytes >= kHugePage && bytes <= SIZE_MAX - kHugePage;
  const size_t mapped = large ? bytes + kHugePage : bytes;
  void* memory =
      ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw Error(ErrorCode::kOutOfMemory,
                "cannot allocate " + std::to_string(bytes) + " bytes: " + std::strerror(errno), {},
                "lower the batch size or the length, or use block checkpointing");
  if (!large) return memory;
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(memory), last = first + mapped;
  const uintptr_t begin = (first + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (begin + bytes + page - 1) / page * page;
  if (first < begin) ::munmap(memory, begin - first);
  if (end < last) ::munmap(reinterpret_cast<void*>(end), last - end);
#ifdef MADV_HUGEPAGE
  ::madvise(reinterpret_cast<void*>(begin), bytes, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<void*>(begin);
}

void free_pages(void* pointer, size_t bytes) noexcept {
  if (pointer) ::munmap(pointer, bytes == 0 ? 1 : bytes);
}

void clear_pages(void* pointer, size_t bytes) noexcept {
#ifdef __linux__
  if (::madvise(pointer, bytes, MADV_DONTNEED) == 0) return;
#endif
  std::memset(pointer, 0, bytes);
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  temporary_ = path_ + ".tmp-" + std::to_string(::getpid()) + "-XXXXXX";
  descriptor_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
  if (descriptor_ < 0) fail("create", path_);
  ::fchmod(descriptor_, 0644);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, at, std::min(bytes, size_t{1} << 30));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("write", path_);
    }
    at += written;
    bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail("flush", path_);
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    errno = error;
    fail("replace", path_);
  }
  sync_directory(parent_directory(path_));
}

std::string make_temporary_directory(const std::string& prefix) {
  std::string path = prefix + "XXXXXX";
  if (!::mkdtemp(path.data())) fail("create a folder", path);
  ::chmod(path.c_str(), 0755);
  return path;
}

bool exchange_directory(const std::string& from, const std::string& to) {
  if (::access(to.c_str(), F_OK) != 0) {
    if (::rename(from.c_str(), to.c_str()) != 0) fail("create the folder", to);
    sync_directory(parent_directory(to));
    return false;
  }
#if defined(__linux__) && defined(RENAME_EXCHANGE)
  const bool swapped =
      ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0;
#else
  const bool swapped = false;
#endif
  if (!swapped) {
    const std::string aside = from + "-old";
    if (::rename(to.c_str(), aside.c_str()) != 0) fail("replace the folder", to);
    if (::rename(from.c_str(), to.c_str()) != 0) {
      const int error = errno;
      ::rename(aside.c_str(), to.c_str());
      errno = error;
      fail("replace the folder", to);
    }
    ::rename(aside.c_str(), from.c_str());
  }
  sync_directory(parent_directory(to));
  return true;
}

void sync_directory(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail("open", path);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // Some file systems can't flush a folder; the rename is then as durable as they make it.
  if (result != 0 && error != EINVAL && error != EROFS) {
    errno = error;
    fail("flush", path);
  }
}

uint64_t peak_resident_bytes() {
  struct rusage usage {};
  if (::getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
  return static_cast<uint64_t>(usage.ru_maxrss);
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t total = 0, resident = 0;
  if (!(file >> total >> resident)) return 0;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

uint64_t total_memory_bytes() {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) : 0;
}

uint64_t available_memory_bytes() {
  uint64_t available = 0;
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  uint64_t kib = 0;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemAvailable:") {
      available = kib * 1024;
      break;
    }
  }
  const uint64_t limit = read_number("/sys/fs/cgroup/memory.max");
  const uint64_t used = read_number("/sys/fs/cgroup/memory.current");
  if (limit > 0) available = std::min(available, limit > used ? limit - used : 0);
  return available;
}

void* open_library(const std::string& path, std::string* error) {
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library && error) {
    const char* text = ::dlerror();
    *error = text ? text : "unknown error";
  }
  return library;
}

void* library_symbol(void* library, const char* name) { return ::dlsym(library, name); }

void close_library(void* library) {
  if (library) ::dlclose(library);
}

}  // namespace lowrank::os
