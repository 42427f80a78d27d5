/* lowrank.h from C: a whole fine-tuning run, its files, generation, and errors. */
#include <lowrank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed = 0, failed = 0;

static void check(int condition, const char* text, int line) {
  if (condition) {
    ++passed;
    return;
  }
  ++failed;
  printf("line %d: not true: %s (last error: %s | %s)\n", line, text, lowrank_last_error(),
         lowrank_last_error_where());
}
#define CHECK(condition) check((condition) != 0, #condition, __LINE__)

static const char* const kConfig =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":61,"
    "\"hidden_size\":32,\"intermediate_size\":48,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":64,"
    "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"tie_word_embeddings\":false,"
    "\"hidden_act\":\"silu\",\"initializer_range\":0.2,\"torch_dtype\":\"float32\","
    "\"bos_token_id\":1,\"eos_token_id\":2}";

enum { kTokens = 12 };
static const int32_t kIds[kTokens] = {1, 7, 9, 11, 13, 2, 3, 8, 10, 12, 14, 2};
static const int32_t kLabels[kTokens] = {-100, 7, 9, 11, 13, 2, -100, 8, 10, 12, 14, 2};
static const int32_t kDocuments[3] = {0, 6, 12};

static lowrank_micro_batch make_batch(void) {
  lowrank_micro_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.struct_bytes = sizeof batch;
  batch.input_ids = kIds;
  batch.labels = kLabels;
  batch.tokens = kTokens;
  batch.document_offsets = kDocuments;
  batch.documents = 2;
  return batch;
}

static void test_model(lowrank_model* model) {
  lowrank_model_info info;
  memset(&info, 0, sizeof info);
  CHECK(lowrank_model_get_info(model, &info) == LOWRANK_INVALID_ARGUMENT);
  info.struct_bytes = sizeof info;
  CHECK(lowrank_model_get_info(model, &info) == LOWRANK_OK);
  CHECK(info.vocabulary == 61 && info.hidden == 32 && info.layers == 2);
  CHECK(info.eos_token_id == 2 && info.bos_token_id == 1);
  CHECK(info.parameters == 2 * 61 * 32 + 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 64));
  /* A program with an older header gets what it knows and nothing beyond. */
  memset(&info, 0x55, sizeof info);
  info.struct_bytes = sizeof(size_t) + sizeof(int64_t);
  CHECK(lowrank_model_get_info(model, &info) == LOWRANK_OK);
  CHECK(info.vocabulary == 61 && info.hidden == 0x5555555555555555);
}

static void count_call(int64_t done, int64_t total, void* user) {
  if (done <= total) ++*(int*)user;
}

/* The adapter in `folder` merged into the model has the loss that the two have together. */
static void test_merge(lowrank_device* device, lowrank_model* model,
                       const lowrank_micro_batch* batch, double loss, const char* folder) {
  char base[512], adapter[512], output[512];
  snprintf(base, sizeof base, "%s/base", folder);
  snprintf(adapter, sizeof adapter, "%s/adapter", folder);
  snprintf(output, sizeof output, "%s/merged", folder);
  double difference = -1;
  int calls = 0;
  CHECK(lowrank_model_save(model, base, LOWRANK_F32) == LOWRANK_OK);
  CHECK(lowrank_merge(device, base, adapter, output, count_call, &calls, &difference) ==
        LOWRANK_OK);
  CHECK(difference >= 0 && difference < 1e-4 && calls > 0);
  CHECK(lowrank_merge(device, base, adapter, NULL, NULL, NULL, NULL) == LOWRANK_INVALID_ARGUMENT);
  CHECK(lowrank_merge(device, base, base, output, NULL, NULL, NULL) != LOWRANK_OK);

  lowrank_model_options options;
  lowrank_model_options_init(&options);
  options.trainable = 1;
  lowrank_model* merged = NULL;
  CHECK(lowrank_model_load(device, output, &options, NULL, NULL, NULL, &merged) == LOWRANK_OK);
  lowrank_session_options session_options;
  lowrank_session* session = NULL;
  lowrank_session_options_init(&session_options);
  session_options.max_tokens = kTokens;
  CHECK(lowrank_session_create(merged, NULL, &session_options, &session) == LOWRANK_OK);
  lowrank_step_result result;
  memset(&result, 0, sizeof result);
  result.struct_bytes = sizeof result;
  if (session) {
    CHECK(lowrank_session_evaluate(session, batch, 1, NULL, NULL, &result) == LOWRANK_OK);
    CHECK(result.loss > loss * 0.9999 && result.loss < loss * 1.0001);
  }
  lowrank_session_free(session);
  lowrank_model_free(merged);
}

static void test_training(lowrank_device* device, lowrank_model* model, const char* folder) {
  lowrank_lora_options lora;
  lowrank_adapter *adapter = NULL, *loaded = NULL;
  lowrank_lora_options_init(&lora);
  lora.r = 4;
  lora.lora_alpha = 8;
  CHECK(lowrank_adapter_create(model, &lora, 1, &adapter) == LOWRANK_OK);

  lowrank_session_options options;
  lowrank_session* session = NULL;
  lowrank_session_options_init(&options);
  options.max_tokens = kTokens;
  CHECK(lowrank_session_create(model, adapter, &options, &session) == LOWRANK_OK);
  if (!session) return;

  const lowrank_micro_batch batch = make_batch();
  lowrank_step_result result;
  memset(&result, 0, sizeof result);
  CHECK(lowrank_session_step(session, &batch, 1, 0.02f, 1, NULL, &result) ==
        LOWRANK_INVALID_ARGUMENT);
  result.struct_bytes = sizeof result;
  double first = 0;
  for (int step = 1; step <= 80; ++step) {
    CHECK(lowrank_session_step(session, &batch, 1, 0.02f, step, NULL, &result) == LOWRANK_OK);
    if (step == 1) first = result.loss;
  }
  CHECK(result.tokens == kTokens && result.label_tokens == 10 && result.weight == 10);
  CHECK(result.loss < 0.2 * first);

  float per_token[kTokens];
  CHECK(lowrank_session_evaluate(session, &batch, 1, per_token, NULL, &result) == LOWRANK_OK);
  CHECK(per_token[0] == 0 && per_token[6] == 0 && per_token[1] < 0);
  const double trained = result.loss;

  lowrank_plan plan, estimated;
  memset(&plan, 0, sizeof plan);
  memset(&estimated, 0, sizeof estimated);
  plan.struct_bytes = estimated.struct_bytes = sizeof plan;
  CHECK(lowrank_session_get_plan(session, &plan) == LOWRANK_OK);
  CHECK(lowrank_estimate(device, kConfig, NULL, &lora, &options, &estimated) == LOWRANK_OK);
  CHECK(plan.total_bytes == estimated.total_bytes && plan.total_bytes > 0);
  CHECK(plan.weights == estimated.weights && plan.optimizer == 2 * plan.gradients);

  lowrank_abort* abort = NULL;
  CHECK(lowrank_abort_create(&abort) == LOWRANK_OK);
  lowrank_abort_set(abort);
  CHECK(lowrank_session_step(session, &batch, 1, 0.02f, 81, abort, &result) == LOWRANK_OK);
  CHECK(result.aborted == 1);
  lowrank_abort_free(abort);

  char state[512];
  snprintf(state, sizeof state, "%s/optimizer.safetensors", folder);
  CHECK(lowrank_session_save_state(session, state) == LOWRANK_OK);
  CHECK(lowrank_session_load_state(session, state) == LOWRANK_OK);
  snprintf(state, sizeof state, "%s/missing.safetensors", folder);
  CHECK(lowrank_session_load_state(session, state) == LOWRANK_IO);

  char path[512];
  snprintf(path, sizeof path, "%s/adapter", folder);
  CHECK(lowrank_adapter_save(adapter, path, "base") == LOWRANK_OK);
  CHECK(lowrank_adapter_load(model, path, &loaded) == LOWRANK_OK);
  lowrank_session* second = NULL;
  CHECK(lowrank_session_create(model, loaded, &options, &second) == LOWRANK_OK);
  if (second) {
    CHECK(lowrank_session_evaluate(second, &batch, 1, NULL, NULL, &result) == LOWRANK_OK);
    CHECK(result.loss == trained);
  }
  lowrank_session_free(second);
  lowrank_adapter_free(loaded);
  test_merge(device, model, &batch, trained, folder);

  /* The trained model continues a prompt as it was taught; handles keep what they need alive. */
  lowrank_generator* generator = NULL;
  CHECK(lowrank_generator_create(model, adapter, 32, &generator) == LOWRANK_OK);
  lowrank_session_free(session);
  lowrank_adapter_free(adapter);
  if (!generator) return;
  int32_t token = 0;
  CHECK(lowrank_generator_next(generator, NULL, &token) == LOWRANK_INVALID_ARGUMENT);
  CHECK(lowrank_generator_prefill(generator, kIds, 2, NULL) == LOWRANK_OK);
  float logits[61];
  CHECK(lowrank_generator_logits(generator, logits, 60) == LOWRANK_INVALID_ARGUMENT);
  CHECK(lowrank_generator_logits(generator, logits, 61) == LOWRANK_OK);
  for (int i = 2; i < 6; ++i) {
    CHECK(lowrank_generator_next(generator, NULL, &token) == LOWRANK_OK);
    CHECK(token == kIds[i]);
  }
  lowrank_generator_free(generator);
}

static void test_errors(lowrank_device* device) {
  lowrank_model* model = NULL;
  CHECK(lowrank_model_load(device, "/nowhere", NULL, NULL, NULL, NULL, &model) != LOWRANK_OK);
  CHECK(model == NULL && strlen(lowrank_last_error()) > 0);
  CHECK(strstr(lowrank_last_error_where(), "/nowhere") != NULL);
  CHECK(lowrank_model_load(NULL, "/nowhere", NULL, NULL, NULL, NULL, &model) ==
        LOWRANK_INVALID_ARGUMENT);
  CHECK(lowrank_model_create(device, "{", NULL, 1, &model) == LOWRANK_INVALID_FILE);
  lowrank_model_options options;
  lowrank_model_options_init(&options);
  options.compute = 17;
  CHECK(lowrank_model_create(device, kConfig, &options, 1, &model) == LOWRANK_INVALID_ARGUMENT);
  lowrank_device_options device_options;
  lowrank_device* other = NULL;
  lowrank_device_options_init(&device_options);
  device_options.name = "abacus";
  CHECK(lowrank_device_open(&device_options, &other) == LOWRANK_INVALID_ARGUMENT);
  CHECK(other == NULL && strlen(lowrank_last_error_hint()) > 0);
}

int main(void) {
  char folder[] = "/tmp/lowrank-c-XXXXXX";
  char* mkdtemp(char*);
  if (!mkdtemp(folder)) return 1;
  lowrank_device* device = NULL;
  lowrank_model* model = NULL;
  CHECK(strlen(lowrank_version()) > 0);
  CHECK(lowrank_device_open(NULL, &device) == LOWRANK_OK);
  CHECK(lowrank_model_create(device, kConfig, NULL, 7, &model) == LOWRANK_OK);
  if (model) {
    test_model(model);
    test_training(device, model, folder);
  }
  test_errors(device);
  lowrank_model_free(model);
  lowrank_device_free(device);
  char command[600];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  if (system(command) != 0) ++failed;
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
