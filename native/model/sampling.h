// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <vector>

#include "engine_types.h"

namespace lowrank {

// Samples as Transformers does: temperature, then the top_k largest, then the smallest set of those
// whose probability reaches top_p (Holtzman et al., arXiv 1904.09751). Equal logits count by index,
// so the result is a pure function of its arguments; `position` numbers the draws of a seed.
// Temperature 0 takes the largest logit. Minus infinity excludes a token. Throws Error{kNotFinite}
// when a logit is NaN or plus infinity, or none is finite, and Error{kInvalidArgument}.
class Sampler {
 public:
  int32_t sample(const std::vector<float>& logits, const SamplingOptions& options,
                 int64_t position);

 private:
  struct Candidate {
    float logit;
    int32_t token;
    double weight;  // e^((logit - the largest) / temperature)
  };
  static bool comes_before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }
  void keep_largest(size_t count);
  void keep_mass(double wanted, double total);
  void drop_behind(const Candidate& last);
  double total_weight() const;

  std::vector<Candidate> candidates_;  // in the vocabulary's order
  std::vector<Candidate> selected_;    // some of them, in any order
};

}  // namespace lowrank
