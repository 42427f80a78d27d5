// A stack that runs a function and can be left and entered again. The switch itself is one function
// in fiber_x86.cc or fiber_ucontext.cc. Address sanitizer is told about every switch.
#pragma once

#include <cstddef>

namespace lowrank::cuda::model {

struct Context;  // what a switch saves; defined by the file that implements it

class Fiber {
 public:
  // `stack_bytes` are mapped with a guard page below.
  explicit Fiber(size_t stack_bytes);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next enter() call body(argument) on an empty stack. What stood on the stack is
  // dropped without destructors. The body must not let an exception out.
  void reset(void (*body)(void*), void* argument);
  // Runs until the body leaves or ends. Only from outside of any fiber.
  void enter();
  // Goes back to enter(); only from inside of this fiber.
  void leave();
  bool finished() const { return finished_; }

 private:
  static void start(void* fiber);

  char* memory_ = nullptr;
  size_t bytes_ = 0;
  Context* inside_ = nullptr;
  Context* outside_ = nullptr;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool finished_ = true;
  const void* outside_stack_ = nullptr;  // for the sanitizer
  size_t outside_bytes_ = 0;
};

// What a platform supplies.
Context* new_context();
void delete_context(Context* context);
// Prepares `context` to call entry(argument) on the stack [low, low + bytes).
void prepare(Context* context, char* low, size_t bytes, void (*entry)(void*), void* argument);
// Saves the running state in `from` and goes on with `to`.
void switch_context(Context* from, Context* to);

}  // namespace lowrank::cuda::model
