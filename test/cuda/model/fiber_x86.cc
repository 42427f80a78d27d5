// The switch for x86-64 (System V ABI): the callee-saved registers go to the stack that is left.
// swapcontext would do the same and two system calls besides.
#include <cstdint>

#include "model/fiber.h"

extern "C" void lowrank_switch_stack(void** save, void* load);
asm(R"(
.text
.p2align 4
.type lowrank_switch_stack, @function
lowrank_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lowrank_switch_stack, .-lowrank_switch_stack
)");

namespace lowrank::cuda::model {

struct Context {
  void* stack = nullptr;
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
};

namespace {
// The first switch to a fiber "returns" here; who it is stands in a variable because no register
// for an argument is restored.
thread_local Context* starting = nullptr;
void trampoline() {
  Context* self = starting;
  self->entry(self->argument);
}
}  // namespace

Context* new_context() { return new Context; }
void delete_context(Context* context) { delete context; }

void prepare(Context* context, char* low, size_t bytes, void (*entry)(void*), void* argument) {
  context->entry = entry;
  context->argument = argument;
  auto top = (reinterpret_cast<uintptr_t>(low) + bytes) & ~uintptr_t{15};
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // keeps the alignment that a call gives, and ends a stack walk
  *--stack = reinterpret_cast<void*>(&trampoline);
  for (int i = 0; i < 6; ++i) *--stack = nullptr;
  context->stack = stack;
}

void switch_context(Context* from, Context* to) {
  if (to->entry) starting = to;
  lowrank_switch_stack(&from->stack, to->stack);
}

}  // namespace lowrank::cuda::model
