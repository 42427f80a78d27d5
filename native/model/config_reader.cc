#include "model/config_reader.h"

#include "core/error.h"

namespace lowrank {
namespace {

// Fields that never change a forward or backward pass of this engine.
const std::set<std::string>& inert_fields() {
  static const auto& fields = *new std::set<std::string>{
      "_name_or_path",
      "architectures",
      "auto_map",
      "chunk_size_feed_forward",
      "cross_attention_hidden_size",
      "id2label",
      "label2id",
      "initializer_range",
      "keys_to_ignore_at_inference",
      "model_max_length",
      "name_or_path",
      "num_labels",
      "output_attentions",
      "output_hidden_states",
      "output_scores",
      "problem_type",
      "return_dict",
      "return_dict_in_generate",
      "task_specific_params",
      "tokenizer_class",
      "torchscript",
      "transformers_version",
      "use_cache",
      "is_encoder_decoder",
      "is_decoder",
      "tie_encoder_decoder",
      "unsloth_version",
      "unsloth_fixed",
      "transformers.js_config",
      "is_llama_config",
      "rope_interleaved",
      "layer_norm_eps",
      "model_type",
      "finetuning_task",
      "prefix",
      "sep_token_id",
      "decoder_start_token_id",
      "begin_suppress_tokens",
      "suppress_tokens",
      "bad_words_ids",
      "forced_bos_token_id",
      "forced_eos_token_id",
      "max_length",
      "min_length",
      "do_sample",
      "early_stopping",
      "num_beams",
      "num_beam_groups",
      "diversity_penalty",
      "temperature",
      "top_k",
      "top_p",
      "typical_p",
      "repetition_penalty",
      "length_penalty",
      "no_repeat_ngram_size",
      "encoder_no_repeat_ngram_size",
      "num_return_sequences",
      "remove_invalid_values",
      "exponential_decay_length_penalty",
      "pruned_heads",
      "tf_legacy_loss",
      "use_bfloat16",
      "_attn_implementation",
      "_attn_implementation_autoset",
      "attn_implementation",
      "_commit_hash",
      "torch_dtype",
      "dtype",
  };
  return fields;
}

}  // namespace

const Json* ConfigReader::field(const char* name) {
  seen_.insert(name);
  const Json* value = json_.find(name);
  return value && !value->is_null() ? value : nullptr;
}

int64_t ConfigReader::positive(const char* name) {
  const Json* value = field(name);
  if (!value) missing(name);
  return check_positive(name, value->as_integer(place(name)));
}

int64_t ConfigReader::positive(const char* name, int64_t fallback) {
  return field(name) ? positive(name) : fallback;
}

int64_t ConfigReader::positive_or_zero(const char* name, int64_t fallback) {
  const Json* value = field(name);
  return value && value->as_integer(place(name)) == 0 ? 0 : positive(name, fallback);
}

double ConfigReader::number(const char* name) {
  const Json* value = field(name);
  if (!value) missing(name);
  return value->as_number(place(name));
}

double ConfigReader::number(const char* name, double fallback) {
  return field(name) ? number(name) : fallback;
}

bool ConfigReader::flag(const char* name, bool fallback) {
  const Json* value = field(name);
  return value ? value->as_bool(place(name)) : fallback;
}

void ConfigReader::unsupported(const std::string& name, const std::string& message) const {
  throw Error(ErrorCode::kUnsupported, message, place(name));
}

void ConfigReader::invalid(const std::string& name, const std::string& message) const {
  throw Error(ErrorCode::kInvalidFile, message, place(name));
}

void ConfigReader::finish() const {
  for (const auto& [name, value] : json_.as_object(where_)) {
    if (seen_.count(name) || inert_fields().count(name)) continue;
    const bool off = value.is_null() || (value.is_bool() && !value.as_bool(name)) ||
                     (value.is_array() && value.as_array(name).empty()) ||
                     (value.is_object() && value.as_object(name).empty());
    if (!off)
      throw Error(ErrorCode::kUnsupported, "this field isn't supported and may change the maths",
                  place(name), "remove it if it doesn't, or use a model without it");
  }
}

void ConfigReader::missing(const char* name) const { invalid(name, "the field is missing"); }

int64_t ConfigReader::check_positive(const char* name, int64_t value) const {
  if (value <= 0 || value > (int64_t{1} << 31)) invalid(name, "must be positive and not absurd");
  return value;
}

}  // namespace lowrank
