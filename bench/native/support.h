// What native benches share: timing, the arithmetic peak to compare with, and JSON lines.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/device.h"

namespace lowrank::bench {

struct Timing {
  double p20 = 0, p50 = 0, p80 = 0;  // seconds per call
  double cpu_p20 = 0;  // the calling thread's own seconds: steadier where others use the machine
  int repeats = 0;
};

// Calls `body` once to warm up and then again for about `seconds`, at least five times.
Timing measure(const std::function<void()>& body, double seconds = 0.5);

// FLOP per second that the device reaches in products of this type; measured now.
double product_peak(const Device& device, DType dtype);

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
