#include "node/serial_worker.h"

#include <utility>

namespace lowrank::node {

SerialWorker::SerialWorker(JsQueue& results) : results_(results) {
  thread_ = std::thread([this] { loop(); });
}

SerialWorker::~SerialWorker() { stop(); }

bool SerialWorker::post(std::unique_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
  return true;
}

void SerialWorker::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  wake_.notify_one();
}

void SerialWorker::request_stop() {
  std::deque<std::unique_ptr<Job>> dropped;  // destroyed here, on the JavaScript thread
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    dropped.swap(queue_);
    if (running_) running_->abort_flag().store(true);
  }
  wake_.notify_one();
}

void SerialWorker::stop() {
  request_stop();
  if (thread_.joinable()) thread_.join();
}

void SerialWorker::loop() {
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closed_ || !queue_.empty(); });
      if (queue_.empty()) break;
      job = std::move(queue_.front());
      queue_.pop_front();
      running_ = job.get();
    }
    job->work();
    {
      const std::lock_guard lock(mutex_);
      running_ = nullptr;
    }
    results_.post(std::move(job));
  }
  finished_.store(true);
}

}  // namespace lowrank::node
