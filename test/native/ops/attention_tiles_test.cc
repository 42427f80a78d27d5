// Attention's fast paths against the scalar reference where tiles, windows, groups and documents
// end in the middle of each other, and the same bits for any number of threads.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/random.h"
#include "ops/attention.h"
#include "support/isa_check.h"
#include "support/test.h"

using namespace lowrank;

namespace {

struct Case {
  const char* name;
  std::vector<int32_t> queries, keys;  // rows per document
  int32_t heads, kv_heads, head_dim, window;
  float q_factor = 1;
};

// Documents with the same rows on both sides, as in training.
Case training(const char* name, std::vector<int32_t> rows, int32_t heads, int32_t kv_heads,
              int32_t head_dim, int32_t window = 0) {
  return {name, rows, rows, heads, kv_heads, head_dim, window};
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      training("one token", {1}, 2, 1, 16),
      training("one-token documents", {1, 1, 1, 5, 1}, 2, 2, 8),
      training("whole tiles", {128}, 2, 1, 64),
      training("tiles not dividing", {67, 130, 3, 64, 65}, 3, 1, 64),
      training("long document", {517}, 2, 2, 128),
      training("a long document among short ones", {150, 1, 2, 1, 35, 1, 1, 1, 2, 1}, 4, 1, 32),
      training("groups of seven", {70, 33}, 7, 1, 64),
      training("more heads than a task takes", {37, 20}, 20, 2, 32),
      training("head sizes beyond vectors", {90}, 4, 2, 72),
      training("head sizes beyond panels", {140, 33, 32}, 4, 2, 80),
      training("head of three panels", {131, 31, 65}, 3, 1, 96),
      training("odd head size", {50, 7}, 2, 1, 13),
      training("widest head", {70}, 1, 1, 256),
      training("head beyond the fast path", {20}, 1, 1, 264),
      training("window of one", {70}, 2, 1, 16, 1),
      training("window inside a tile", {200, 9}, 2, 1, 32, 5),
      training("window of a tile", {200}, 2, 1, 32, 64),
      training("window across tiles", {300, 150}, 4, 2, 32, 100),
      training("window longer than documents", {60, 20}, 2, 1, 32, 1000),
      {"decode", {1, 1, 1}, {300, 1, 65}, 6, 2, 64, 0},
      {"decode of an odd head", {1}, {77}, 5, 1, 13, 0},
      {"decode in a window", {1, 1}, {300, 20}, 3, 1, 128, 70},
      {"decode of wide rows", {1, 1}, {131, 9}, 16, 8, 96, 0},
      {"decode over parts of many keys", {1}, {4200}, 3, 1, 40, 0},
      {"decode in a window over parts", {1}, {4500}, 2, 1, 16, 4200},
      {"decode of more documents than are planned at once", std::vector<int32_t>(35, 1),
       std::vector<int32_t>(35, 70), 2, 1, 16, 0},
      {"decode beside a document without queries", {1, 0, 1}, {40, 9, 66}, 2, 2, 32, 0},
      {"prefill after a cache", {40, 3, 1}, {200, 67, 9}, 4, 2, 64, 0},
      {"prefill in a window", {40, 100}, {200, 101}, 2, 2, 32, 50},
      {"documents without queries", {0, 30, 0}, {17, 40, 5}, 2, 1, 32, 0},
  };
  return all;
}

struct Tensors {
  std::vector<float> out, lse, d_q, d_k, d_v;
};

// A matrix in its own type, filled with normal values that are exact in that type, so that every
// path starts from the same numbers.
struct Activation {
  Activation(DType type, int64_t rows, int64_t cols) : dtype(type), bytes(rows * cols * 4) {
    matrix = {bytes.data(), dtype, rows, cols, cols};
  }
  void set(size_t i, float x) {
    if (dtype == DType::kBF16)
      reinterpret_cast<BF16*>(bytes.data())[i] = to_bf16(x);
    else
      reinterpret_cast<float*>(bytes.data())[i] = x;
  }
  void fill(uint64_t seed, float factor = 1) {
    const uint64_t key = random_key(seed, RandomUse::kTest);
    for (size_t i = 0; i < bytes.size() / 4; ++i) set(i, factor * random_normal(key, i));
  }
  std::vector<float> values() const {
    std::vector<float> all(static_cast<size_t>(matrix.rows * matrix.cols));
    for (size_t i = 0; i < all.size(); ++i)
      all[i] = dtype == DType::kBF16 ? to_float(reinterpret_cast<const BF16*>(bytes.data())[i])
                                     : reinterpret_cast<const float*>(bytes.data())[i];
    return all;
  }
  DType dtype;
  std::vector<char> bytes;
  Matrix matrix;
};

std::vector<int32_t> offsets(const std::vector<int32_t>& rows) {
  std::vector<int32_t> all{0};
  for (int32_t n : rows) all.push_back(all.back() + n);
  return all;
}

struct RunOptions {
  bool alias = false;              // d_q replaces d_out
  const Tensors* start = nullptr;  // the backward pass starts from this out and lse, so that its
                                   // error isn't mixed with the forward pass's
};

Tensors run(const Case& c, DType dtype, const std::string& isa, int threads, RunOptions how = {}) {
  const auto device = test::open_cpu(isa, threads);
  const auto q_offsets = offsets(c.queries), k_offsets = offsets(c.keys);
  const int64_t tq = q_offsets.back(), tk = k_offsets.back();
  Activation q(dtype, tq, c.heads * c.head_dim), out(dtype, tq, c.heads * c.head_dim);
  Activation d_out(dtype, tq, c.heads * c.head_dim), d_q(dtype, tq, c.heads * c.head_dim);
  Activation k(dtype, tk, c.kv_heads * c.head_dim), v(dtype, tk, c.kv_heads * c.head_dim);
  Activation d_k(dtype, tk, c.kv_heads * c.head_dim), d_v(dtype, tk, c.kv_heads * c.head_dim);
  q.fill(1, c.q_factor), k.fill(2), v.fill(3), d_out.fill(4), d_k.fill(5), d_v.fill(6), d_q.fill(7);
  Tensors result;
  result.lse.resize(static_cast<size_t>(c.heads * tq));

  AttentionShape shape;
  shape.query_tokens = tq;
  shape.key_tokens = tk;
  shape.heads = c.heads;
  shape.kv_heads = c.kv_heads;
  shape.head_dim = c.head_dim;
  shape.activation = dtype;
  shape.backward = true;
  Buffer workspace(device, ops::attention_workspace_bytes(*device, shape));

  AttentionBackward op;
  AttentionForward& forward = op.forward;
  forward.q = q.matrix, forward.k = k.matrix, forward.v = v.matrix, forward.out = out.matrix;
  forward.lse = result.lse.data();
  forward.q_offsets = q_offsets.data(), forward.k_offsets = k_offsets.data();
  forward.documents = static_cast<int32_t>(c.queries.size());
  forward.heads = c.heads, forward.kv_heads = c.kv_heads, forward.head_dim = c.head_dim;
  forward.window = c.window;
  forward.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  forward.workspace = workspace.data(), forward.workspace_bytes = workspace.bytes();
  ops::attention_forward(*device, forward);
  result.out = out.values();
  std::vector<float> lse = result.lse;
  if (how.start) {
    for (size_t i = 0; i < how.start->out.size(); ++i) out.set(i, how.start->out[i]);
    lse = how.start->lse;
  }
  forward.lse = lse.data();

  op.d_out = d_out.matrix, op.d_k = d_k.matrix, op.d_v = d_v.matrix;
  op.d_q = how.alias ? d_out.matrix : d_q.matrix;
  ops::attention_backward(*device, op);
  result.d_q = how.alias ? d_out.values() : d_q.values();
  result.d_k = d_k.values();
  result.d_v = d_v.values();
  return result;
}

// Rounding of the result itself, relative to the element (neighbouring bf16 values differ by up to
// 2^-7), and of the sums that lead to it (about head_dim products of unit normals and one
// exponential), relative to the largest element, or to 1, the size of what may cancel. Units
// for bf16 round P and dS to bf16, 2^-8 relative at most, before they multiply them: 2^-8 of a
// sum's terms, whose independent errors together stay below 2^-8 of the largest sum
// (attention_test.cc has the strict bound of every element).
struct Tolerance {
  double element, tensor;
};
Tolerance tolerance(DType dtype, const std::string& isa) {
  if (dtype != DType::kBF16) return {0, 0x1p-17};
  return {0x1p-7, isa == "amx" || isa == "avx512_bf16" ? 0x1p-8 : 0x1p-16};
}

void compare(const std::string& what, const std::vector<float>& actual,
             const std::vector<float>& expected, Tolerance allowed) {
  double largest = 1;
  for (float x : expected) largest = std::max(largest, std::abs(static_cast<double>(x)));
  for (size_t i = 0; i < expected.size(); ++i) {
    const double bound =
        allowed.element * std::abs(static_cast<double>(expected[i])) + allowed.tensor * largest;
    const double error = std::abs(static_cast<double>(actual[i]) - expected[i]);
    if (!(error <= bound)) {
      std::ostringstream text;
      text << what << "[" << i << "] is " << actual[i] << ", expected " << expected[i]
           << " (largest " << largest << ")";
      test::report_failure(__FILE__, __LINE__, text.str());
      return;
    }
  }
}

void same_bits(const std::string& what, const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || std::memcmp(a.data(), b.data(), a.size() * 4) != 0)
    test::report_failure(__FILE__, __LINE__, what + " differs");
}

void same_bits(const std::string& what, const Tensors& a, const Tensors& b) {
  same_bits(what + " out", a.out, b.out);
  same_bits(what + " lse", a.lse, b.lse);
  same_bits(what + " d_q", a.d_q, b.d_q);
  same_bits(what + " d_k", a.d_k, b.d_k);
  same_bits(what + " d_v", a.d_v, b.d_v);
}

void check_against_reference(DType dtype, const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const Tensors expected = run(c, dtype, "reference", 1);
    for (const std::string& isa : test::fast_isas()) {
      const Tensors actual = run(c, dtype, isa, 2, {.start = &expected});
      const std::string what = isa + ", " + c.name + ": ";
      const Tolerance allowed = tolerance(dtype, isa);
      compare(what + "out", actual.out, expected.out, allowed);
      compare(what + "lse", actual.lse, expected.lse, tolerance(DType::kF32, isa));
      compare(what + "d_q", actual.d_q, expected.d_q, allowed);
      compare(what + "d_k", actual.d_k, expected.d_k, allowed);
      compare(what + "d_v", actual.d_v, expected.d_v, allowed);
    }
  }
}

}  // namespace

TEST(attention_tiles_f32_agree_with_the_reference) {
  check_against_reference(DType::kF32, cases());
}
TEST(attention_tiles_bf16_agree_with_the_reference) {
  check_against_reference(DType::kBF16, cases());
}

// A task keeps the sums of d_k and d_v in its scratch where they fit, and packed keys.
TEST(attention_of_more_keys_than_a_task_has_room_for_agrees_with_the_reference) {
  const std::vector<Case> large = {
      {"more keys than a task has room for", {40}, {4200}, 2, 1, 128, 0},
      {"more sums than a task has room for", {32}, {1600}, 8, 8, 256, 0},
  };
  check_against_reference(DType::kF32, large);
  check_against_reference(DType::kBF16, large);
}

// Scores whose largest, by query and by step of keys, are far more than 2^8 and 2^-64 apart as
// weights: what is subtracted must follow.
TEST(attention_of_scores_far_apart_agrees_with_the_reference) {
  Case whole = training("scores far apart", {600, 45}, 2, 1, 64);
  Case window = training("scores far apart in a window", {300}, 2, 2, 32, 150);
  whole.q_factor = window.q_factor = 32;
  check_against_reference(DType::kBF16, {whole, window});
}

TEST(attention_bits_do_not_depend_on_threads) {
  for (const std::string& isa : test::fast_isas()) {
    for (const Case& c : cases()) {
      const std::string what = isa + ", " + c.name;
      const Tensors one = run(c, DType::kBF16, isa, 1);
      same_bits(what + ", 2 threads", run(c, DType::kBF16, isa, 2), one);
      same_bits(what + ", 3 threads", run(c, DType::kBF16, isa, 3), one);
    }
  }
}

TEST(attention_gradient_of_q_may_replace_the_gradient_of_out) {
  for (const std::string& isa : test::fast_isas())
    for (const Case& c : cases())
      same_bits(isa + ", " + c.name, run(c, DType::kF32, isa, 2, {.alias = true}),
                run(c, DType::kF32, isa, 2));
}

// A document must not feel what stands beside it, not even in the last bit.
TEST(attention_documents_do_not_see_each_other) {
  const Case alone = training("alone", {70}, 2, 1, 32);
  const Case packed = training("packed", {70, 33}, 2, 1, 32);
  for (const std::string& isa : test::fast_isas()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensors a = run(alone, dtype, isa, 1), b = run(packed, dtype, isa, 1);
      const auto head = [&](const std::vector<float>& x) {
        return std::vector<float>(x.begin(), x.begin() + static_cast<int64_t>(a.out.size()));
      };
      same_bits("out", head(b.out), a.out);
      same_bits("d_q", head(b.d_q), a.d_q);
    }
  }
}
