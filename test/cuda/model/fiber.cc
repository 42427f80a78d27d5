#include "model/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define LOWRANK_MODEL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LOWRANK_MODEL_ASAN 1
#endif
#endif
#ifdef LOWRANK_MODEL_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace lowrank::cuda::model {
namespace {

// Before and after every switch; `fake` keeps the sanitizer's own stack of the side that is left.
void before_switch([[maybe_unused]] void** fake, [[maybe_unused]] const void* stack,
                   [[maybe_unused]] size_t bytes) {
#ifdef LOWRANK_MODEL_ASAN
  __sanitizer_start_switch_fiber(fake, stack, bytes);
#endif
}

void after_switch([[maybe_unused]] void* fake, [[maybe_unused]] const void** stack,
                  [[maybe_unused]] size_t* bytes) {
#ifdef LOWRANK_MODEL_ASAN
  __sanitizer_finish_switch_fiber(fake, stack, bytes);
#endif
}

size_t page_bytes() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }

}  // namespace

Fiber::Fiber(size_t stack_bytes)
    : bytes_(stack_bytes), inside_(new_context()), outside_(new_context()) {
  const size_t guard = page_bytes();
  void* memory = ::mmap(nullptr, bytes_ + guard, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  ::mprotect(memory, guard, PROT_NONE);
  memory_ = static_cast<char*>(memory) + guard;
}

Fiber::~Fiber() {
  const size_t guard = page_bytes();
  ::munmap(memory_ - guard, bytes_ + guard);
  delete_context(inside_);
  delete_context(outside_);
}

void Fiber::reset(void (*body)(void*), void* argument) {
#ifdef LOWRANK_MODEL_ASAN
  // Frames that were dropped left their red zones.
  if (!finished_) __asan_unpoison_memory_region(memory_, bytes_);
#endif
  body_ = body;
  argument_ = argument;
  finished_ = false;
  prepare(inside_, memory_, bytes_, start, this);
}

void Fiber::start(void* fiber) {
  Fiber& self = *static_cast<Fiber*>(fiber);
  after_switch(nullptr, &self.outside_stack_, &self.outside_bytes_);
  self.body_(self.argument_);
  self.finished_ = true;
  // No fake stack to come back to: this one has ended.
  before_switch(nullptr, self.outside_stack_, self.outside_bytes_);
  switch_context(self.inside_, self.outside_);
}

void Fiber::enter() {
  void* fake = nullptr;
  before_switch(&fake, memory_, bytes_);
  switch_context(outside_, inside_);
  after_switch(fake, nullptr, nullptr);
}

void Fiber::leave() {
  void* fake = nullptr;
  before_switch(&fake, outside_stack_, outside_bytes_);
  switch_context(inside_, outside_);
  after_switch(fake, &outside_stack_, &outside_bytes_);
}

}  // namespace lowrank::cuda::model
