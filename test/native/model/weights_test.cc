#include "model/weights.h"

#include "core/dynamic_map.h"
#include "core/nf4.h"
#include "model/model_files.h"

namespace lowrank {
namespace {

using namespace lowrank::test;

const char* kQ = "model.layers.1.self_attn.q_proj.weight";
const char* kNorm = "model.layers.1.input_layernorm.weight";

std::shared_ptr<ModelImpl> load(const std::string& folder, const ModelOptions& options = {}) {
  return load_model(cpu(), folder, options, {}, nullptr);
}

ModelOptions with(Quantization quantization) {
  ModelOptions options;
  options.quantization = quantization;
  return options;
}

TEST(create_is_reproducible_and_normal) {
  const auto a = create_model(cpu(), tiny_config(), {}, 1);
  const auto b = create_model(cpu(), tiny_config(), {}, 1);
  const auto c = create_model(cpu(), tiny_config(), {}, 2);
  const std::vector<float> values = values_of(*a, "model.embed_tokens.weight");
  CHECK(values == values_of(*b, "model.embed_tokens.weight"));
  CHECK(values != values_of(*c, "model.embed_tokens.weight"));
  CHECK(values_of(*a, kQ) != values_of(*a, "model.layers.0.self_attn.q_proj.weight"));
  double sum = 0, squares = 0;
  for (const float value : values) {
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  const auto n = static_cast<double>(values.size());
  // Five standard errors of mean and variance.
  CHECK_NEAR(sum / n, 0, 5 * 0.5 / std::sqrt(n));
  CHECK_NEAR(squares / n, 0.25, 5 * 0.25 * std::sqrt(2 / n));
  CHECK(values_of(*a, kNorm) == std::vector<float>(64, 1.0f));
}

TEST(save_and_load_keep_every_bit) {
  const TemporaryFolder folder;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const std::string name = dtype == DType::kF32    ? "float32"
                             : dtype == DType::kBF16 ? "bfloat16"
                                                     : "float16";
    const auto made = create_model(cpu(), tiny_config(name), {}, 3);
    save_model(*made, folder / name, dtype);
    const auto loaded = load(folder / name);
    CHECK(loaded->config.dtype == dtype);
    for (const ModelImpl::Named& named : made->parameters())
      CHECK(values_of(*made, named.name) == values_of(*loaded, named.name));
    // Kept in its own type and not copied.
    CHECK(loaded->layers[1].linear[0].data.bytes() == 0);
    CHECK_EQ(loaded->layers[1].linear[0].bytes(), 64 * 64 * dtype_size(dtype));
    CHECK_EQ(loaded->mappings.size(), size_t{1});
  }
}

TEST(copies_of_weights_keep_every_bit) {
  const TemporaryFolder folder;
  ModelOptions options;
  options.copy_weights = true;
  for (const bool tied : {false, true}) {
    const auto made = create_model(cpu(), tiny_config("bfloat16", tied), {}, 3);
    const std::string path = folder / (tied ? "tied" : "untied");
    save_model(*made, path, DType::kBF16);
    const auto loaded = load(path, options);
    for (const ModelImpl::Named& named : made->parameters())
      CHECK(values_of(*made, named.name) == values_of(*loaded, named.name));
    CHECK_EQ(loaded->layers[1].linear[0].data.bytes(), size_t{64 * 64 * 2});
    // Products read the embedding where it is the head too.
    CHECK_EQ(loaded->embedding.data.bytes(), size_t{tied ? 37u * 64 * 2 : 0u});
  }
}

TEST(save_converts_and_names_the_type) {
  const TemporaryFolder folder;
  const auto made = create_model(cpu(), tiny_config(), {}, 3);
  save_model(*made, folder / "m", DType::kBF16);
  const auto loaded = load(folder / "m");
  CHECK(loaded->config.dtype == DType::kBF16);
  std::vector<float> rounded = values_of(*made, kQ);
  for (float& value : rounded) value = to_float(to_bf16(value));
  CHECK(rounded == values_of(*loaded, kQ));
}

TEST(trainable_makes_f32_masters) {
  const TemporaryFolder folder;
  ModelOptions options;
  options.trainable = true;
  save_model(*create_model(cpu(), tiny_config("bfloat16"), {}, 3), folder / "m", DType::kBF16);
  const auto masters = load(folder / "m", options);
  const auto mapped = load(folder / "m");
  for (const ModelImpl::Named& named : masters->parameters()) {
    CHECK(values_of(*masters, named.name) == values_of(*mapped, named.name));
    if (named.matrix) CHECK_EQ(named.matrix->data.data(), named.matrix->view.data);
    if (named.matrix) CHECK(named.matrix->view.storage == Storage::kF32);
  }
  // A master can be saved over the folder it came from.
  masters->layers[1].linear[0].data.as<float>()[5] = 2;
  save_model(*masters, folder / "m", DType::kF32);
  CHECK_EQ(values_of(*load(folder / "m"), kQ)[5], 2.0f);
}

TEST(tied_embeddings_need_one_tensor) {
  const TemporaryFolder folder;
  const auto made = create_model(cpu(), tiny_config("float32", true), {}, 3);
  save_model(*made, folder / "m", DType::kF32);
  CHECK(SafetensorsFile(folder / "m/model.safetensors").find("lm_head.weight") == nullptr);
  const auto loaded = load(folder / "m");
  CHECK(&loaded->head_matrix() == &loaded->embedding);
  CHECK(values_of(*made, "model.embed_tokens.weight") ==
        values_of(*loaded, "model.embed_tokens.weight"));
}

TEST(both_of_two_tied_tensors_must_be_equal) {
  const TemporaryFolder folder;
  save_model(*create_model(cpu(), tiny_config("float32", true), {}, 3), folder / "m", DType::kF32);
  for (const bool equal : {true, false}) {
    const std::string path = folder / (equal ? "equal" : "different");
    std::filesystem::create_directory(path);
    std::filesystem::copy(folder / "m/config.json", path + "/config.json");
    const SafetensorsFile file(folder / "m/model.safetensors");
    const TensorView& embedding = file.at("model.embed_tokens.weight");
    std::vector<char> head(embedding.data, embedding.data + embedding.bytes);
    if (!equal) head.back() ^= 1;
    SafetensorsWriter writer(path + "/model.safetensors");
    for (const TensorView& tensor : file.tensors())
      writer.declare(tensor.name, tensor.dtype, tensor.shape);
    writer.declare("lm_head.weight", embedding.dtype, embedding.shape);
    for (const TensorView& tensor : file.tensors()) writer.append(tensor.data, tensor.bytes);
    writer.append(head.data(), head.size());
    writer.finish();
    if (equal) {
      CHECK(values_of(*load(path), "model.embed_tokens.weight") ==
            values_of(*load(folder / "m"), "model.embed_tokens.weight"));
    } else {
      CHECK_ERROR(load(path), ErrorCode::kUnsupported, "tie_word_embeddings");
    }
  }
}

TEST(quantizes_only_the_blocks_linears) {
  const TemporaryFolder folder;
  save_model(*create_model(cpu(), tiny_config("bfloat16"), {}, 3), folder / "m", DType::kBF16);
  const auto plain = load(folder / "m");
  for (const bool nested : {false, true}) {
    const auto model =
        load(folder / "m", with(nested ? Quantization::kNf4Double : Quantization::kNf4));
    for (const ModelImpl::Named& named : model->parameters()) {
      if (!named.matrix) continue;
      const bool block = named.matrix != &model->embedding && named.matrix != &model->head;
      CHECK((named.matrix->view.storage == Storage::kNF4) == block);
    }
    const Weight& view = model->layers[1].linear[0].view;
    CHECK_EQ(view.absmax == nullptr, nested);
    CHECK_EQ(model->layers[1].linear[0].bytes(),
             uint64_t{64 * 64 / 2} + (nested ? 64 + 4 : 64 * 4));
    // Every value is the nearest of the code book, so off by at most half its widest gap (from -1
    // to -0.696) of the block's absmax; double quantization adds its own error of the absmax.
    const std::vector<float> exact = values_of(*plain, kQ), decoded = values_of(*model, kQ);
    for (size_t begin = 0; begin < exact.size(); begin += 64) {
      float absmax = 0;
      for (size_t i = begin; i < begin + 64; ++i) absmax = std::max(absmax, std::abs(exact[i]));
      for (size_t i = begin; i < begin + 64; ++i)
        CHECK_NEAR(decoded[i], exact[i], (nested ? 0.18 : 0.152) * absmax);
    }
    CHECK(model->weight_bytes() < plain->weight_bytes());
    CHECK_ERROR(save_model(*model, folder / "q", DType::kF32), ErrorCode::kUnsupported,
                "quantized");
  }
}

// Writes the folder's block linears as bitsandbytes does, from what the engine quantized.
void write_prequantized(const std::string& from, const std::string& to, bool nested) {
  const auto model = load(from, with(nested ? Quantization::kNf4Double : Quantization::kNf4));
  std::filesystem::create_directories(to);
  SafetensorsWriter writer(to + "/model.safetensors");
  struct Part {
    const void* data;
    uint64_t bytes;
  };
  std::vector<Part> parts;
  std::vector<std::string> texts;
  texts.reserve(100);
  const auto add = [&](const std::string& name, DType dtype, std::vector<int64_t> shape,
                       const void* data) {
    uint64_t bytes = dtype_size(dtype);
    for (const int64_t extent : shape) bytes *= static_cast<uint64_t>(extent);
    writer.declare(name, dtype, std::move(shape));
    parts.push_back({data, bytes});
  };
  for (const ModelImpl::Named& named : model->parameters()) {
    if (named.vector) {
      add(named.name, DType::kF32, {named.vector->count}, named.vector->get());
      continue;
    }
    const Weight& view = named.matrix->view;
    if (view.storage != Storage::kNF4) {
      add(named.name, DType::kF32, {view.rows, view.cols}, view.data);
      continue;
    }
    const int64_t count = view.rows * view.cols, blocks = count / 64;
    add(named.name, DType::kU8, {count / 2, 1}, view.data);
    add(named.name + ".quant_map", DType::kF32, {16}, kNf4Values.data());
    char text[256];
    if (nested) {
      add(named.name + ".absmax", DType::kU8, {blocks}, view.absmax_codes);
      add(named.name + ".nested_absmax", DType::kF32, {(blocks + 255) / 256}, view.nested_absmax);
      add(named.name + ".nested_quant_map", DType::kF32, {256}, signed_dynamic_map().values.data());
      std::snprintf(text, sizeof text,
                    R"({"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[%d,%d],)"
                    R"("nested_blocksize":256,"nested_dtype":"float32","nested_offset":%.17g})",
                    static_cast<int>(view.rows), static_cast<int>(view.cols),
                    static_cast<double>(view.nested_offset));
    } else {
      add(named.name + ".absmax", DType::kF32, {blocks}, view.absmax);
      std::snprintf(text, sizeof text,
                    R"({"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[%d,%d]})",
                    static_cast<int>(view.rows), static_cast<int>(view.cols));
    }
    texts.emplace_back(text);
    add(named.name + ".quant_state.bitsandbytes__nf4", DType::kU8,
        {static_cast<int64_t>(texts.back().size())}, texts.back().data());
  }
  for (const Part& part : parts) writer.append(part.data, part.bytes);
  writer.finish();
  write_text_file(to + "/config.json", read_text_file(from + "/config.json"));
  const Json quantization =
      Json::parse(R"({"quant_method":"bitsandbytes","load_in_4bit":true})", "");
  edit_json(to + "/config.json", "quantization_config", quantization);
}

TEST(reads_folders_that_bitsandbytes_quantized) {
  const TemporaryFolder folder;
  save_model(*create_model(cpu(), tiny_config(), {}, 3), folder / "m", DType::kF32);
  for (const bool nested : {false, true}) {
    const std::string path = folder / (nested ? "double" : "single");
    write_prequantized(folder / "m", path, nested);
    const auto expected =
        load(folder / "m", with(nested ? Quantization::kNf4Double : Quantization::kNf4));
    const auto model = load(path);
    CHECK(model->options.quantization == expected->options.quantization);
    for (const ModelImpl::Named& named : model->parameters())
      CHECK(values_of(*model, named.name) == values_of(*expected, named.name));
    rewrite(path + "/model.safetensors", std::string(kQ) + ".quant_map");
    CHECK_ERROR(load(path), ErrorCode::kInvalidFile, "quant_map is missing");
  }
  edit_json(folder / "m/config.json", "quantization_config",
            Json::parse(R"({"quant_method":"gptq"})", ""));
  CHECK_ERROR(load(folder / "m"), ErrorCode::kUnsupported, "gptq");
}

TEST(load_names_what_doesnt_fit) {
  const TemporaryFolder folder;
  const std::string path = folder / "m", file = path + "/model.safetensors";
  const auto made = create_model(cpu(), tiny_config(), {}, 3);
  const auto fresh = [&] { save_model(*made, path, DType::kF32); };
  fresh();
  rewrite(file, kQ);
  CHECK_ERROR(load(path), ErrorCode::kInvalidFile, kQ);
  fresh();
  rewrite(file, "", "model.layers.1.self_attn.q_proj.bias");
  CHECK_ERROR(load(path), ErrorCode::kUnsupported, "q_proj.bias");
  fresh();
  rewrite(file, "", "model.layers.1.self_attn.rotary_emb.inv_freq");
  load(path);  // a buffer of old writers changes nothing
  edit_json(path + "/config.json", "intermediate_size", Json(64));
  CHECK_ERROR(load(path), ErrorCode::kInvalidFile, "model.layers.0.mlp.gate_proj.weight");
  CHECK_ERROR(load(path), ErrorCode::kInvalidFile, "[48, 64], config.json asks for [64, 64]");
  CHECK_ERROR(load(folder / "none"), ErrorCode::kInvalidFile, "no config.json");
}

TEST(load_checks_its_options) {
  const TemporaryFolder folder;
  save_model(*create_model(cpu(), tiny_config(), {}, 3), folder / "m", DType::kF32);
  ModelOptions options = with(Quantization::kNf4);
  options.trainable = true;
  CHECK_ERROR(load(folder / "m", options), ErrorCode::kInvalidArgument, "quantization");
  CHECK_ERROR(load(folder / "m", with(Quantization::kInt8)), ErrorCode::kUnsupported, "int8");
  options = {};
  options.compute = DType::kF16;
  CHECK_ERROR(load(folder / "m", options), ErrorCode::kInvalidArgument, "compute");
}

TEST(load_reports_progress_and_aborts) {
  const TemporaryFolder folder;
  save_model(*create_model(cpu(), tiny_config(), {}, 3), folder / "m", DType::kF32);
  std::vector<std::pair<int64_t, int64_t>> reports;
  load_model(
      cpu(), folder / "m", {},
      [&](int64_t done, int64_t total) { reports.emplace_back(done, total); }, nullptr);
  CHECK(!reports.empty() && reports.back().first == reports.back().second);
  CHECK(std::is_sorted(reports.begin(), reports.end()));
  std::atomic<bool> abort{false};
  int calls = 0;
  const Progress stop = [&](int64_t, int64_t) {
    abort = true;
    ++calls;
  };
  CHECK_ERROR(load_model(cpu(), folder / "m", {}, stop, &abort), ErrorCode::kAborted, "aborted");
  CHECK_EQ(calls, 1);
}

}  // namespace
}  // namespace lowrank
