// The parts of SessionImpl that a caller sees: step, evaluate, gradients.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "train/session_impl.h"

namespace lowrank {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool is_set(const std::atomic<bool>* flag) { return flag && flag->load(std::memory_order_relaxed); }

std::string step_name(int64_t step) { return "step " + std::to_string(step); }

[[noreturn]] void not_finite(const char* what, int64_t step) {
  throw Error(ErrorCode::kNotFinite, std::string(what) + " is not finite", step_name(step),
              "lower the learning rate, clip gradients, or look for bad values in the data");
}

// Clears the gradients unless they were used up, so that no failed step leaks into the next one.
class GradientGuard {
 public:
  explicit GradientGuard(TrainedState* state) : state_(state) {}
  ~GradientGuard() {
    if (!state_) return;
    try {
      state_->clear_gradients();
    } catch (const Error&) {
      // The device has failed; the error on its way out says so.
    }
  }
  GradientGuard(const GradientGuard&) = delete;
  GradientGuard& operator=(const GradientGuard&) = delete;
  void dismiss() { state_ = nullptr; }

 private:
  TrainedState* state_;
};

}  // namespace

void SessionImpl::download_results(int64_t labels) {
  logprob_.download(labels);
  correct_.download(labels);
}

double SessionImpl::loss_of(const MicroBatch& batch, int32_t count, int64_t first,
                            StepResult* result) {
  const float* logprob = logprob_.host() + first;
  const uint8_t* correct = correct_.host() + first;
  double loss = 0;
  for (int32_t i = 0; i < count; ++i) {
    const double weight = batch.weights ? batch.weights[rows_.host()[i] + 1] : 1;
    if (weight == 0) continue;
    loss -= weight * logprob[i];
    result->correct += correct[i];
  }
  return loss;
}

void SessionImpl::read_results(const std::vector<MicroBatch>& batches, size_t end, int64_t step,
                               Unread* unread, StepResult* result) {
  download_results(unread->labels);
  int64_t first = 0;
  for (size_t i = unread->batch; i < end; ++i) {
    const int32_t count =
        gather_labels(batches[i], 1, false, rows_.host(), targets_.host(), weights_.host());
    result->loss += loss_of(batches[i], count, first, result) / result->weight;
    first += count;
  }
  *unread = {end, 0};
  if (!std::isfinite(result->loss)) not_finite("the loss", step);
}

StepResult SessionImpl::accumulate(const std::vector<MicroBatch>& batches, int64_t step,
                                   const std::atomic<bool>* abort, Unread* unread) {
  const LabelTotals totals = check_micro_batches(batches, limits());
  if (!(totals.weight > 0))
    throw Error(ErrorCode::kInvalidArgument, "no token carries a label", step_name(step),
                "a document's first token can't be one: labels are shifted by one");
  StepResult result;
  result.weight = totals.weight;
  result.tokens = totals.tokens;
  result.label_tokens = totals.labels;
  for (size_t i = 0; i < batches.size(); ++i) {
    if (is_set(abort)) {
      result.aborted = true;
      return result;
    }
    const Decoder::HeadInput input =
        upload_labels(batches[i], 1 / totals.weight, false, unread->labels);
    // 0 means no dropout.
    const uint64_t key =
        random_key(options_.seed, RandomUse::kDropout, static_cast<uint64_t>(step), i);
    if (input.count > 0) forward_backward(upload_batch(batches[i], key ? key : 1), input);
    unread->labels += input.count;
    const bool room = unread->labels + plan_.shape.labels <= plan_.transfer.results;
    if (!room && i + 1 < batches.size()) read_results(batches, i + 1, step, unread, &result);
  }
  return result;
}

StepResult SessionImpl::step(const std::vector<MicroBatch>& batches, const StepOptions& options,
                             const std::atomic<bool>* abort) {
  if (options.step < 1)
    throw Error(ErrorCode::kInvalidArgument, "steps count from 1", step_name(options.step));
  if (!std::isfinite(options.learning_rate) || options.learning_rate < 0)
    throw Error(ErrorCode::kInvalidArgument, "the learning rate is negative or not finite",
                step_name(options.step));
  const Clock::time_point start = Clock::now();
  GradientGuard guard(state_.get());
  Unread unread;
  StepResult result = accumulate(batches, options.step, abort, &unread);
  if (!result.aborted) {
    state_->compute_norm(logprob_.device(), unread.labels);
    state_->update(options.learning_rate, options.step);
    // The device has seen what is checked here and hasn't updated anything if it is bad.
    read_results(batches, batches.size(), options.step, &unread, &result);
    result.grad_norm = state_->gradient_norm();
    if (!std::isfinite(result.grad_norm)) not_finite("the gradient", options.step);
    guard.dismiss();
    updates_ = options.step;
  }
  result.seconds = seconds_since(start);
  return result;
}

StepResult SessionImpl::evaluate(const std::vector<MicroBatch>& batches, float* per_token,
                                 const std::atomic<bool>* abort) {
  const Clock::time_point start = Clock::now();
  const LabelTotals totals = check_micro_batches(batches, limits());
  StepResult result;
  result.weight = totals.weight;
  result.tokens = totals.tokens;
  result.label_tokens = totals.labels;
  if (per_token) std::fill_n(per_token, totals.tokens, 0.0f);
  int64_t first = 0;
  for (const MicroBatch& batch : batches) {
    if (is_set(abort)) {
      result.aborted = true;
      break;
    }
    const Decoder::HeadInput input = upload_labels(batch, 1, per_token != nullptr, 0);
    if (input.count > 0) {
      forward_only(upload_batch(batch, 0), input);
      download_results(input.count);
      const double loss = loss_of(batch, input.count, 0, &result);
      if (totals.weight > 0) result.loss += loss / totals.weight;
      if (per_token)
        for (int32_t i = 0; i < input.count; ++i)
          per_token[first + rows_.host()[i] + 1] = logprob_.host()[i];
    }
    first += batch.tokens;
  }
  result.seconds = seconds_since(start);
  return result;
}

StepResult SessionImpl::gradients(const std::vector<MicroBatch>& batches, int64_t step,
                                  std::map<std::string, std::vector<float>>* out) {
  const Clock::time_point start = Clock::now();
  GradientGuard guard(state_.get());
  Unread unread;
  StepResult result = accumulate(batches, step, nullptr, &unread);
  state_->compute_norm(logprob_.device(), unread.labels);
  read_results(batches, batches.size(), step, &unread, &result);
  result.grad_norm = state_->gradient_norm();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    std::vector<float>& values = (*out)[tensors_[i].name];
    values.resize(static_cast<size_t>(tensors_[i].count));
    const Device& device = *model_->device;
    device.check(device.backend().download(device.handle(), values.data(), state_->gradient(i),
                                           values.size() * sizeof(float)),
                 "download");
  }
  result.seconds = seconds_since(start);
  return result;
}

}  // namespace lowrank
