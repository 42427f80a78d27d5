// An engine object as JavaScript holds it: which thread it lives on, which model it belongs to, how
// many bytes V8 should know about. The engine object is only ever used and destroyed on its worker.
// Members are for the JavaScript thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "node/environment.h"

namespace lowrank::node {

class Handle {
 public:
  // `parent` is the model's handle, null for a model; throws Error{kDisposed} when the model was
  // disposed meanwhile. `bytes` is memory outside V8's heap.
  Handle(Napi::Env env, std::string name, std::shared_ptr<SerialWorker> worker,
         std::shared_ptr<Handle> parent, std::shared_ptr<void> object, int64_t bytes);
  // Collected by V8 without dispose(): the worker frees the object.
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  // The engine object; throws Error{kDisposed} after dispose(), also the model's.
  template <typename T>
  std::shared_ptr<T> get() const {
    check_alive();
    return std::static_pointer_cast<T>(object_);
  }
  const std::shared_ptr<SerialWorker>& worker() const { return worker_; }
  const Handle* parent() const { return parent_.get(); }

  // Work in flight ends first; then the object, and a model's adapters, sessions and generators
  // with it, are freed. Returns a promise; the same one when called again.
  Napi::Value dispose();

 private:
  using Objects = std::vector<std::shared_ptr<void>>;
  void check_alive() const;
  Objects take();

  Napi::Env env_;
  std::string name_;
  std::shared_ptr<SerialWorker> worker_;
  std::shared_ptr<Handle> parent_;
  std::vector<Handle*> children_;
  std::shared_ptr<void> object_;
  int64_t bytes_ = 0;
  Napi::ObjectReference disposal_;
};

}  // namespace lowrank::node
