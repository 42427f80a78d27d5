#include "node/progress.h"

#include "node/environment.h"
#include "node/options_reader.h"

namespace lowrank::node {

class ProgressChannel::Task final : public JsTask {
 public:
  explicit Task(std::shared_ptr<ProgressChannel> channel) : channel_(std::move(channel)) {}
  void run(Napi::Env env) override {
    channel_->on_its_way_.store(false);
    const auto done = static_cast<double>(channel_->done_.load());
    const auto total = static_cast<double>(channel_->total_.load());
    channel_->callback_.Call({Napi::Number::New(env, done), Napi::Number::New(env, total)});
  }

 private:
  std::shared_ptr<ProgressChannel> channel_;
};

ProgressChannel::ProgressChannel(const Napi::Function& callback, JsQueue& queue)
    : callback_(Napi::Persistent(callback)), queue_(queue) {}

std::shared_ptr<ProgressChannel> ProgressChannel::open(const Napi::Value& callback) {
  if (is_absent(callback)) return nullptr;
  if (!callback.IsFunction()) throw_invalid("must be a function", "onProgress");
  return std::make_shared<ProgressChannel>(callback.As<Napi::Function>(),
                                           Environment::of(callback.Env()).results());
}

Progress ProgressChannel::reporter(const std::shared_ptr<ProgressChannel>& channel) {
  if (!channel) return {};
  return [channel](int64_t done, int64_t total) { channel->report(done, total); };
}

void ProgressChannel::report(int64_t done, int64_t total) {
  done_.store(done);
  total_.store(total);
  if (!on_its_way_.exchange(true)) queue_.post(std::make_unique<Task>(shared_from_this()));
}

}  // namespace lowrank::node
