#include "node/environment.h"

#include <utility>
#include <vector>

namespace lowrank::node {

Environment& Environment::install(Napi::Env env) {
  auto* environment = new Environment(env);
  env.SetInstanceData(environment);
  // Hooks run in reverse order, so this one runs before the queue closes.
  env.AddCleanupHook([](Environment* closing) { closing->stop(); }, environment);
  return *environment;
}

Environment& Environment::of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

void Environment::stop() {
  for (const auto& worker : workers_) worker->request_stop();
  for (const auto& worker : workers_) worker->stop();
  workers_.clear();
}

std::shared_ptr<SerialWorker> Environment::new_worker() {
  std::erase_if(workers_, [](const auto& worker) { return worker->finished(); });
  workers_.push_back(std::make_shared<SerialWorker>(results_));
  return {workers_.back().get(), [owner = workers_.back()](SerialWorker*) { owner->close(); }};
}

const std::shared_ptr<SerialWorker>& Environment::shared_worker() {
  if (!shared_worker_) shared_worker_ = new_worker();
  return shared_worker_;
}

void Environment::set_constructor(ClassId id, const Napi::Function& constructor) {
  constructors_[static_cast<size_t>(id)] = Napi::Persistent(constructor);
}

Napi::Object Environment::construct(ClassId id, std::shared_ptr<void> handle) {
  handle_ = std::move(handle);
  return constructors_[static_cast<size_t>(id)].New({});
}

}  // namespace lowrank::node
