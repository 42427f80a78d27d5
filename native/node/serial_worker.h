// A thread that runs jobs one after the other. Each loaded model has one, so calls on a model, its
// adapters, sessions and generators never overlap, and libuv's pool stays free for files and DNS.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "node/js_queue.h"

namespace lowrank::node {

using AbortState = std::shared_ptr<std::atomic<bool>>;

// work() runs on the worker; then run() on the JavaScript thread.
class Job : public JsTask {
 public:
  explicit Job(AbortState abort) : abort_(std::move(abort)) {}
  virtual void work() noexcept = 0;
  std::atomic<bool>& abort_flag() { return *abort_; }

 protected:
  AbortState abort_;
};

class SerialWorker {
 public:
  explicit SerialWorker(JsQueue& results);
  ~SerialWorker();
  SerialWorker(const SerialWorker&) = delete;
  SerialWorker& operator=(const SerialWorker&) = delete;

  // False (and the job is dropped) after close() or stop().
  bool post(std::unique_ptr<Job> job);
  // No more jobs; the thread ends when the queue is empty. Doesn't wait.
  void close();
  // Aborts the running job and drops the queued ones; doesn't wait. JavaScript thread only.
  void request_stop();
  // request_stop(), then waits for the thread. JavaScript thread only.
  void stop();
  // True once the thread has nothing more to do and stop() wouldn't wait.
  bool finished() const { return finished_.load(); }

 private:
  void loop();

  JsQueue& results_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  Job* running_ = nullptr;
  bool closed_ = false;
  std::atomic<bool> finished_{false};
  std::thread thread_;
};

}  // namespace lowrank::node
