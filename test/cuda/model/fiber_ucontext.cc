// The switch by ucontext, for processors without an own one.
#include <ucontext.h>

#include <cstdint>

#include "model/fiber.h"

namespace lowrank::cuda::model {

struct Context {
  ucontext_t state;
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
};

namespace {
// makecontext passes ints only.
void trampoline(unsigned high, unsigned low) {
  auto* self = reinterpret_cast<Context*>(static_cast<uintptr_t>(uint64_t{high} << 32 | low));
  self->entry(self->argument);
}
}  // namespace

Context* new_context() { return new Context; }
void delete_context(Context* context) { delete context; }

void prepare(Context* context, char* low, size_t bytes, void (*entry)(void*), void* argument) {
  context->entry = entry;
  context->argument = argument;
  ::getcontext(&context->state);
  context->state.uc_stack.ss_sp = low;
  context->state.uc_stack.ss_size = bytes;
  context->state.uc_link = nullptr;
  const uint64_t self = reinterpret_cast<uintptr_t>(context);
  ::makecontext(&context->state, reinterpret_cast<void (*)()>(&trampoline), 2,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
}

void switch_context(Context* from, Context* to) { ::swapcontext(&from->state, &to->state); }

}  // namespace lowrank::cuda::model
