#include "node/results.h"

#include <algorithm>

namespace lowrank::node {

namespace {

double as_number(uint64_t value) { return static_cast<double>(value); }
double as_number(int64_t value) { return static_cast<double>(value); }

template <typename T>
Napi::Object to_record(Napi::Env env, const std::map<std::string, T>& values) {
  Napi::Object record = Napi::Object::New(env);
  for (const auto& [key, value] : values) record.Set(key, static_cast<double>(value));
  return record;
}

}  // namespace

Napi::Float32Array to_js(Napi::Env env, const std::vector<float>& values) {
  Napi::Float32Array array = Napi::Float32Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

Napi::Array to_js(Napi::Env env, const std::vector<std::string>& values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) array.Set(i, values[i]);
  return array;
}

Napi::Object to_js(Napi::Env env, const ModelInfo& info) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("family", info.family);
  object.Set("path", info.path);
  object.Set("vocabulary", as_number(info.vocabulary));
  object.Set("hidden", as_number(info.hidden));
  object.Set("intermediate", as_number(info.intermediate));
  object.Set("layers", as_number(info.layers));
  object.Set("heads", as_number(info.heads));
  object.Set("kvHeads", as_number(info.kv_heads));
  object.Set("headDim", as_number(info.head_dim));
  object.Set("maxPositions", as_number(info.max_positions));
  object.Set("tiedEmbeddings", info.tied_embeddings);
  object.Set("parameters", as_number(info.parameters));
  object.Set("weightBytes", as_number(info.weight_bytes));
  Napi::Array eos = Napi::Array::New(env, info.eos_token_ids.size());
  for (uint32_t i = 0; i < info.eos_token_ids.size(); ++i) eos.Set(i, info.eos_token_ids[i]);
  object.Set("eosTokenIds", eos);
  object.Set("bosTokenId", info.bos_token_id);
  object.Set("padTokenId", info.pad_token_id);
  object.Set("compute", info.compute);
  object.Set("quantization", info.quantization);
  object.Set("device", info.device);
  object.Set("isa", info.isa);
  return object;
}

Napi::Object to_js(Napi::Env env, const AdapterInfo& info) {
  const LoraOptions& lora = info.options;
  Napi::Object options = Napi::Object::New(env);
  options.Set("r", lora.r);
  options.Set("loraAlpha", lora.lora_alpha);
  options.Set("loraDropout", lora.lora_dropout);
  options.Set("useRslora", lora.use_rslora);
  options.Set("targetModules", to_js(env, lora.target_modules));
  options.Set("targetPattern", lora.target_pattern);
  options.Set("rankPattern", to_record(env, lora.rank_pattern));
  options.Set("alphaPattern", to_record(env, lora.alpha_pattern));
  options.Set("modulesToSave", to_js(env, lora.modules_to_save));

  Napi::Object object = Napi::Object::New(env);
  object.Set("options", options);
  object.Set("modules", to_js(env, info.modules));
  object.Set("parameters", as_number(info.parameters));
  return object;
}

Napi::Object to_js(Napi::Env env, const StepResult& result) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("loss", result.loss);
  object.Set("gradNorm", result.grad_norm);
  object.Set("weight", result.weight);
  object.Set("tokens", as_number(result.tokens));
  object.Set("labelTokens", as_number(result.label_tokens));
  object.Set("correct", as_number(result.correct));
  object.Set("seconds", result.seconds);
  object.Set("aborted", result.aborted);
  return object;
}

Napi::Object to_js(Napi::Env env, const PlanReport& plan) {
  Napi::Array items = Napi::Array::New(env, plan.items.size());
  for (uint32_t i = 0; i < plan.items.size(); ++i) {
    Napi::Object item = Napi::Object::New(env);
    item.Set("name", plan.items[i].name);
    item.Set("bytes", as_number(plan.items[i].bytes));
    items.Set(i, item);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("items", items);
  object.Set("totalBytes", as_number(plan.total_bytes));
  object.Set("recomputedLayers", plan.recomputed_layers);
  object.Set("layers", plan.layers);
  object.Set("checkpointing", plan.checkpointing);
  return object;
}

Napi::Array to_js(Napi::Env env, const std::vector<ProfileRow>& rows) {
  Napi::Array array = Napi::Array::New(env, rows.size());
  for (uint32_t i = 0; i < rows.size(); ++i) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("op", rows[i].op);
    row.Set("shape", rows[i].shape);
    row.Set("calls", as_number(rows[i].calls));
    row.Set("seconds", rows[i].seconds);
    row.Set("flops", rows[i].flops);
    row.Set("bytes", rows[i].bytes);
    array.Set(i, row);
  }
  return array;
}

Napi::Object to_js(Napi::Env env, const MergeReport& report) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("maxLogitDifference", report.max_logit_difference);
  object.Set("maxLogit", report.max_logit);
  object.Set("tensorsMerged", as_number(report.tensors_merged));
  return object;
}

}  // namespace lowrank::node
