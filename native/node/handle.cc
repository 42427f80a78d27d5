#include "node/handle.h"

#include <algorithm>
#include <utility>

#include "node/promise_worker.h"

namespace lowrank::node {

namespace {

// Frees objects on the worker when nobody waits for it.
class ReleaseJob final : public Job {
 public:
  explicit ReleaseJob(std::vector<std::shared_ptr<void>> objects)
      : Job(new_abort_state()), objects_(std::move(objects)) {}
  void work() noexcept override { objects_.clear(); }
  void run(Napi::Env) override {}

 private:
  std::vector<std::shared_ptr<void>> objects_;
};

}  // namespace

Handle::Handle(Napi::Env env, std::string name, std::shared_ptr<SerialWorker> worker,
               std::shared_ptr<Handle> parent, std::shared_ptr<void> object, int64_t bytes)
    : env_(env),
      name_(std::move(name)),
      worker_(std::move(worker)),
      parent_(std::move(parent)),
      object_(std::move(object)),
      bytes_(bytes) {
  if (parent_) {
    parent_->check_alive();
    parent_->children_.push_back(this);
  }
  Napi::MemoryManagement::AdjustExternalMemory(env_, bytes_);
}

Handle::~Handle() {
  if (parent_) std::erase(parent_->children_, this);
  if (object_) worker_->post(std::make_unique<ReleaseJob>(take()));
}

void Handle::check_alive() const {
  if (!object_) throw Error(ErrorCode::kDisposed, "the " + name_ + " was disposed");
}

Handle::Objects Handle::take() {
  Objects objects;
  for (Handle* child : children_) {
    for (auto& object : child->take()) objects.push_back(std::move(object));
  }
  if (object_) {
    objects.push_back(std::move(object_));
    Napi::MemoryManagement::AdjustExternalMemory(env_, -bytes_);
  }
  return objects;
}

Napi::Value Handle::dispose() {
  if (!disposal_.IsEmpty()) return disposal_.Value();
  if (!object_) return parent_->dispose();  // freed together with its model
  const Napi::Value promise = run_async(
      env_, *worker_, new_abort_state(),
      [objects = take()](std::atomic<bool>&) mutable { objects.clear(); }, resolve_undefined());
  if (!parent_) worker_->close();
  disposal_ = Napi::Persistent(promise.As<Napi::Object>());
  return promise;
}

}  // namespace lowrank::node
