// A model of another block than the built-in ones, under other names, trains, generates and takes
// adapters through the ordinary classes. Judged by the same model in complex f64 arithmetic.
#include <cmath>
#include <map>

#include "engine.h"
#include "parallel_block.h"
#include "support/gradient_check.h"
#include "support/test.h"
#include "support/tolerance.h"
#include "train/tiny_model.h"

namespace lowrank::test {
namespace {

ModelConfig parallel_config() {
  ModelConfig config = parse_model_config(tiny_config(2), "config.json");
  config.block = &kParallelBlock;
  config.names = {"transformer.wte.weight", "transformer.h.", "transformer.ln_f.weight",
                  "lm_head.weight"};
  return config;
}

// The loss of one packed batch with every value in complex f64.
class Reference {
 public:
  Reference(ModelImpl& model, const AdapterImpl* adapter) : config_(model.config) {
    const auto add = [this](const std::string& name, const void* data, int64_t count) {
      const auto* from = static_cast<const float*>(data);
      values[name] = {from, from + count};
    };
    for (const ModelImpl::Named& named : model.parameters()) {
      if (named.vector) add(named.name, named.vector->get(), named.vector->count);
      if (!named.matrix) continue;
      const Weight& weight = named.matrix->view;
      add(named.name, weight.data, weight.rows * weight.cols);
    }
    if (!adapter) return;
    for (const LoraModule& module : adapter->modules) {
      const std::string base = "base_model.model." + module.name;
      add(base + ".lora_A.weight", module.a.data(), module.rank * module.in);
      add(base + ".lora_B.weight", module.b.data(), module.out * module.rank);
      lora_[module.name] = module.scale;
    }
  }

  Complex loss(const Documents& batch) const {
    Complex sum = 0;
    int64_t labels = 0;
    for (size_t d = 0; d + 1 < batch.offsets.size(); ++d) {
      const int32_t* ids = batch.ids.data() + batch.offsets[d];
      const int32_t length = batch.offsets[d + 1] - batch.offsets[d];
      const Rows x = hidden_states(ids, length);
      for (int32_t t = 0; t + 1 < length; ++t, ++labels) {
        const Row logits = product("lm_head.weight", norm("transformer.ln_f.weight", x[t]));
        Complex total = 0;
        for (const Complex& logit : logits) total += std::exp(logit);
        sum += std::log(total) - logits[ids[t + 1]];
      }
    }
    return sum / static_cast<double>(labels);
  }

  std::map<std::string, std::vector<Complex>> values;

 private:
  using Row = std::vector<Complex>;
  using Rows = std::vector<Row>;

  Row product(const std::string& name, const Row& x) const {
    const Row& matrix = values.at(name);
    Row y(matrix.size() / x.size());
    for (size_t i = 0; i < matrix.size(); ++i) y[i / x.size()] += matrix[i] * x[i % x.size()];
    return y;
  }

  Row linear(const std::string& name, const Row& x) const {
    Row y = product(name + ".weight", x);
    const auto bias = values.find(name + ".bias");
    if (bias != values.end()) add(bias->second, 1, &y);
    const auto lora = lora_.find(name);
    const std::string base = "base_model.model." + name;
    if (lora != lora_.end())
      add(product(base + ".lora_B.weight", product(base + ".lora_A.weight", x)), lora->second, &y);
    return y;
  }

  static void add(const Row& x, double factor, Row* y) {
    for (size_t i = 0; i < x.size(); ++i) (*y)[i] += factor * x[i];
  }

  Row norm(const std::string& name, const Row& x) const {
    Complex square = 0;
    for (const Complex& value : x) square += value * value;
    const Complex rms = std::sqrt(square / double(x.size()) + double(config_.rms_norm_eps));
    Row y = values.at(name);
    for (size_t i = 0; i < x.size(); ++i) y[i] *= x[i] / rms;
    return y;
  }

  void rotate(Row* x, int32_t position) const {
    const auto dim = static_cast<size_t>(config_.head_dim), half = dim / 2;
    for (size_t i = 0; i < x->size(); ++i) {
      if (i % dim >= half) continue;
      const double angle = position * std::pow(config_.rope.theta, -double(i % dim) / double(half));
      const Complex a = (*x)[i], b = (*x)[i + half];
      (*x)[i] = a * std::cos(angle) - b * std::sin(angle);
      (*x)[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
  }

  Row attend(const Row& q, const Rows& k, const Rows& v) const {
    const auto dim = static_cast<size_t>(config_.head_dim);
    const auto group = static_cast<size_t>(config_.heads / config_.kv_heads);
    Row out(q.size());
    for (size_t head = 0; head * dim < q.size(); ++head) {
      const size_t first = head / group * dim;
      Complex total = 0;
      for (size_t j = 0; j < k.size(); ++j) {
        Complex score = 0;
        for (size_t i = 0; i < dim; ++i) score += q[head * dim + i] * k[j][first + i];
        const Complex weight = std::exp(score / std::sqrt(double(dim)));
        total += weight;
        for (size_t i = 0; i < dim; ++i) out[head * dim + i] += weight * v[j][first + i];
      }
      for (size_t i = 0; i < dim; ++i) out[head * dim + i] /= total;
    }
    return out;
  }

  Rows hidden_states(const int32_t* ids, int32_t length) const {
    const auto hidden = static_cast<size_t>(config_.hidden);
    const Row& embedding = values.at("transformer.wte.weight");
    Rows x;
    for (int32_t t = 0; t < length; ++t) {
      const auto row = embedding.begin() + static_cast<int64_t>(hidden) * ids[t];
      x.emplace_back(row, row + static_cast<int64_t>(hidden));
    }
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const std::string name = "transformer.h." + std::to_string(layer) + ".";
      Rows k, v;
      for (int32_t t = 0; t < length; ++t) {
        const Row n = norm(name + "ln_1.weight", x[t]);
        Row q = linear(name + "attn.q_proj", n);
        k.push_back(linear(name + "attn.k_proj", n));
        v.push_back(linear(name + "attn.v_proj", n));
        rotate(&q, t);
        rotate(&k.back(), t);
        Row inner = linear(name + "mlp.fc_in", n);
        for (Complex& value : inner) value /= 1.0 + std::exp(-value);
        add(linear(name + "attn.out_proj", attend(q, k, v)), 1, &x[t]);
        add(linear(name + "mlp.fc_out", inner), 1, &x[t]);
      }
    }
    return x;
  }

  const ModelConfig& config_;
  std::map<std::string, double> lora_;
};

// Every trained tensor's gradient along a random direction, against the reference's derivative.
void check_gradients(const std::shared_ptr<Model>& model, const std::shared_ptr<Adapter>& adapter,
                     size_t tensors) {
  const Documents batch({7, 4});
  Session session(model, adapter, session_options());
  std::map<std::string, std::vector<float>> gradients;
  const double loss = session.gradients({batch.batch()}, 1, &gradients).loss;
  Reference reference(*model->impl(), adapter ? adapter->impl().get() : nullptr);
  // The longest chain of roundings: a few sums of at most 96 terms per block.
  const double relative = 8 * sum_bound(96);
  CHECK_NEAR(loss, reference.loss(batch).real(), relative * loss);
  CHECK_EQ(gradients.size(), tensors);
  for (const auto& [name, gradient] : gradients) {
    const std::vector<Complex> start = reference.values.at(name);
    std::vector<Complex>& moved = reference.values.at(name);
    CHECK_EQ(gradient.size(), start.size());
    const uint64_t key = random_key(std::hash<std::string>{}(name), RandomUse::kTest);
    double slope = 0, magnitude = 0;
    for (size_t i = 0; i < start.size(); ++i) {
      const double direction = random_normal(key, i);
      slope += direction * gradient[i];
      magnitude += std::abs(direction * gradient[i]);
      moved[i] += Complex(0, 1e-30 * direction);
    }
    CHECK(magnitude > 0);
    CHECK_NEAR(slope, reference.loss(batch).imag() / 1e-30, relative * magnitude);
    moved = start;
  }
}

std::shared_ptr<Model> parallel_model(bool trainable) {
  ModelOptions options;
  options.trainable = trainable;
  return std::make_shared<Model>(create_model(cpu(), parallel_config(), options, 11));
}

std::shared_ptr<Adapter> adapter_on(const Model& model, const std::string& target) {
  LoraOptions options;
  options.r = 3;
  options.target_modules = {target};
  auto adapter = Adapter::create(model, options, 5);
  for (LoraModule& module : adapter->impl()->modules)
    for (int64_t i = 0; i < module.out * module.rank; ++i)
      module.b.as<float>()[i] = 0.2f * random_normal(9, static_cast<uint64_t>(i));
  return adapter;
}

TEST(another_block_trains_every_parameter) {
  check_gradients(parallel_model(true), nullptr, 2 * 9 + 3);
}

TEST(another_block_takes_an_adapter_on_its_linears) {
  const auto model = parallel_model(false);
  const auto adapter = adapter_on(*model, "fc_in");
  CHECK_EQ(adapter->info().modules.at(1), std::string("transformer.h.1.mlp.fc_in"));
  check_gradients(model, adapter, 4);
  Session session(model, adapter, session_options());
  const Documents batch({9});
  const std::vector<double> losses = train(session, {batch.batch()}, 10);
  CHECK(losses.back() < losses.front());
}

// Two of its linears make only its output: what recomputation leaves out was kept.
TEST(another_block_is_recomputed) {
  const auto model = parallel_model(false);
  const auto adapter = adapter_on(*model, "all-linear");
  const Documents batch({7, 4});
  std::map<std::string, std::vector<float>> gradients[2];
  for (const bool again : {false, true}) {
    SessionOptions options = session_options();
    options.checkpointing = again ? Checkpointing::kBlock : Checkpointing::kNone;
    Session session(model, adapter, options);
    CHECK_EQ(session.plan().recomputed_layers, again ? 1 : 0);
    session.gradients({batch.batch()}, 1, &gradients[again]);
  }
  CHECK_EQ(gradients[0].size(), 2u * 2 * 6);
  CHECK(gradients[0] == gradients[1]);
}

TEST(another_block_generates_behind_its_cache) {
  const auto model = parallel_model(false);
  const auto adapter = adapter_on(*model, "fc_in");
  const std::vector<int32_t> ids = Documents({12}).ids;
  const std::vector<float> whole = forward_logits(model, adapter, ids.data(), 12);
  Generator generator(model, adapter, 16);
  generator.prefill(ids.data(), 12);
  const std::vector<float>& cached = generator.logits();
  for (size_t i = 0; i < cached.size(); ++i)
    CHECK_NEAR(cached[i], whole[whole.size() - cached.size() + i], 8 * sum_bound(96));
  const int32_t next = generator.next({});
  std::vector<int32_t> longer = ids;
  longer.push_back(next);
  const std::vector<float> after = forward_logits(model, adapter, longer.data(), 13);
  const std::vector<float>& grown = generator.logits();
  for (size_t i = 0; i < grown.size(); ++i)
    CHECK_NEAR(grown[i], after[after.size() - grown.size() + i], 8 * sum_bound(96));
}

}  // namespace
}  // namespace lowrank::test
