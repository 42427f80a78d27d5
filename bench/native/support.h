// What native benches share: timing, the arithmetic peak to compare with, and JSON lines.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/device.h"

namespace lowrank::bench {

// What some calls took in turn while nobody else used the processor's cores. On a shared machine a
// neighbour on the same core takes half of the units for seconds at a time; it shows in the peak,
// which is measured before and after every few calls.
struct CalmTimes {
  std::vector<std::vector<double>> seconds;  // of each body; the same index ran in the same turn
  double peak = 0;                           // FLOP per second, the best seen
  double calm = 0;                           // share of the time that counted
};

// Calls the bodies in turn until every one ran for `wanted` calm seconds, or for `most` seconds in
// all. Where no moment was calm, what there is counts, and `calm` says 0.
CalmTimes measure_calm(const Device& device, DType dtype,
                       const std::vector<std::function<void()>>& bodies, double wanted = 0.3,
                       double most = 20);

double quantile(std::vector<double> samples, double q);

// FLOP per second that the device reaches in products of this type; measured now.
double product_peak(const Device& device, DType dtype, double seconds = 0.1);

// One JSON object on a line: pass keys with ready-made values, or text to be quoted.
class Row {
 public:
  Row& text(const std::string& key, const std::string& value);
  Row& number(const std::string& key, double value);
  void print() const;

 private:
  std::string body_;
};

}  // namespace lowrank::bench
