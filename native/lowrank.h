/*
 * lowrank's C interface: fine-tuning and generation with language models, for programs in any
 * language that can call C.
 *
 * Conventions
 *   - A function that can fail returns a lowrank_status. After anything but LOWRANK_OK,
 *     lowrank_last_error() of the same thread says what is wrong, and outputs are untouched.
 *   - Structs begin with struct_bytes, so that programs built against an older header keep working.
 *     Fill options with their *_init function, then change fields. For outputs set struct_bytes to
 *     sizeof before the call.
 *   - Handles are freed with their *_free function, in any order; a handle keeps what it was made
 *     from alive. Freeing NULL does nothing.
 *   - Different handles may be used from different threads. Handles of one device share its
 *     workers; their operations take turns.
 *   - Strings are UTF-8. Strings and arrays that are passed in are copied before the call returns.
 *   - Nothing prints, exits or aborts the process.
 */
#ifndef LOWRANK_H_
#define LOWRANK_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(LOWRANK_BUILD_LIBRARY)
#define LOWRANK_API __declspec(dllexport)
#else
#define LOWRANK_API __declspec(dllimport)
#endif
#else
#define LOWRANK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lowrank_status {
  LOWRANK_OK = 0,
  LOWRANK_INVALID_ARGUMENT = 1, /* a caller's value is wrong */
  LOWRANK_INVALID_FILE = 2,     /* a file is malformed, truncated or has the wrong shape */
  LOWRANK_IO = 3,               /* the operating system refused */
  LOWRANK_UNSUPPORTED = 4,      /* valid, but not something this engine can do */
  LOWRANK_OUT_OF_MEMORY = 5,    /* the memory plan or an allocation doesn't fit */
  LOWRANK_BACKEND = 6,          /* a device failed */
  LOWRANK_NOT_FINITE = 7,       /* a loss, gradient or logit became NaN or infinite */
  LOWRANK_ABORTED = 8,          /* an abort flag was set */
  LOWRANK_INTERNAL = 9          /* a bug */
} lowrank_status;

/* "0.1.0" */
LOWRANK_API const char* lowrank_version(void);

/* Of this thread's last failure; never NULL, valid until the thread's next failing call. */
LOWRANK_API const char* lowrank_last_error(void);       /* what is wrong */
LOWRANK_API const char* lowrank_last_error_where(void); /* file, tensor, key; may be empty */
LOWRANK_API const char* lowrank_last_error_hint(void);  /* what to do; may be empty */

/* ---- Abort flags: set from any thread, checked by long calls ------------------------------- */

typedef struct lowrank_abort lowrank_abort;
LOWRANK_API lowrank_status lowrank_abort_create(lowrank_abort** out);
LOWRANK_API void lowrank_abort_set(lowrank_abort* flag);
LOWRANK_API void lowrank_abort_clear(lowrank_abort* flag);
/* Not while a call that got the flag is running. */
LOWRANK_API void lowrank_abort_free(lowrank_abort* flag);

/* ---- Devices ------------------------------------------------------------------------------- */

typedef struct lowrank_device lowrank_device;
typedef struct lowrank_device_options {
  size_t struct_bytes;
  const char* name; /* "cpu", "cuda", "cuda:N" or "auto" (the default) */
  const char* isa;  /* NULL = the best, or reference, avx2, avx512, avx512_bf16, amx, neon */
  int32_t threads;  /* 0 = one per physical core */
  int32_t ordinal;  /* which one, where there are several */
} lowrank_device_options;

LOWRANK_API void lowrank_device_options_init(lowrank_device_options* options);
/* options may be NULL: the defaults. */
LOWRANK_API lowrank_status lowrank_device_open(const lowrank_device_options* options,
                                               lowrank_device** out);
LOWRANK_API void lowrank_device_free(lowrank_device* device);

/* ---- Models -------------------------------------------------------------------------------- */

typedef enum lowrank_dtype { LOWRANK_F32 = 0, LOWRANK_BF16 = 1, LOWRANK_F16 = 2 } lowrank_dtype;
typedef enum lowrank_quantization {
  LOWRANK_QUANTIZATION_NONE = 0,
  LOWRANK_QUANTIZATION_NF4 = 1,
  LOWRANK_QUANTIZATION_NF4_DOUBLE = 2
} lowrank_quantization;

typedef struct lowrank_model lowrank_model;
typedef struct lowrank_model_options {
  size_t struct_bytes;
  int32_t compute;      /* lowrank_dtype of activations: LOWRANK_F32 or LOWRANK_BF16 */
  int32_t quantization; /* lowrank_quantization */
  int32_t trainable;    /* 1: every weight gets an f32 copy that can be trained */
  int32_t max_length;   /* longest text; 0 = what the model was made for */
  int32_t copy_weights; /* 1: not read from the mapped file, where memory allows; faster */
} lowrank_model_options;

typedef struct lowrank_model_info {
  size_t struct_bytes;
  int64_t vocabulary, hidden, intermediate, layers, heads, kv_heads, head_dim, max_positions;
  int64_t parameters;
  uint64_t weight_bytes; /* as held on the device */
  int32_t tied_embeddings;
  int32_t bos_token_id; /* -1 = none */
  int32_t eos_token_id; /* the first; -1 = none */
  int32_t pad_token_id; /* -1 = none */
} lowrank_model_info;

typedef void (*lowrank_progress)(int64_t done, int64_t total, void* user);

LOWRANK_API void lowrank_model_options_init(lowrank_model_options* options);
/* Reads a Hugging Face folder. options, progress and abort may be NULL. */
LOWRANK_API lowrank_status lowrank_model_load(lowrank_device* device, const char* folder,
                                              const lowrank_model_options* options,
                                              lowrank_progress progress, void* user,
                                              const lowrank_abort* abort, lowrank_model** out);
/* Random weights for a config.json's text. */
LOWRANK_API lowrank_status lowrank_model_create(lowrank_device* device, const char* config_json,
                                                const lowrank_model_options* options, uint64_t seed,
                                                lowrank_model** out);
LOWRANK_API lowrank_status lowrank_model_get_info(const lowrank_model* model,
                                                  lowrank_model_info* info);
/* Writes config.json and safetensors of this lowrank_dtype. Not for quantized models. */
LOWRANK_API lowrank_status lowrank_model_save(const lowrank_model* model, const char* folder,
                                              int32_t dtype);
LOWRANK_API void lowrank_model_free(lowrank_model* model);

/* ---- LoRA adapters, in PEFT's format -------------------------------------------------------- */

typedef struct lowrank_adapter lowrank_adapter;
typedef struct lowrank_lora_options {
  size_t struct_bytes;
  int32_t r;
  int32_t use_rslora;
  double lora_alpha;
  double lora_dropout;
  const char* const* target_modules; /* names or their ends; "all-linear" alone = every linear */
  size_t target_module_count;
  const char* target_pattern; /* a regular expression on the full name, instead; may be NULL */
  const char* const* modules_to_save; /* trained in full: "lm_head", "embed_tokens" */
  size_t modules_to_save_count;
  const char* const* rank_pattern_names;
  const int32_t* rank_pattern_values;
  size_t rank_pattern_count;
  const char* const* alpha_pattern_names;
  const double* alpha_pattern_values;
  size_t alpha_pattern_count;
} lowrank_lora_options;

/* r = 8, lora_alpha = 8, every linear. */
LOWRANK_API void lowrank_lora_options_init(lowrank_lora_options* options);
LOWRANK_API lowrank_status lowrank_adapter_create(const lowrank_model* model,
                                                  const lowrank_lora_options* options,
                                                  uint64_t seed, lowrank_adapter** out);
LOWRANK_API lowrank_status lowrank_adapter_load(const lowrank_model* model, const char* folder,
                                                lowrank_adapter** out);
/* base_model_name goes into adapter_config.json; NULL = the model's folder. */
LOWRANK_API lowrank_status lowrank_adapter_save(const lowrank_adapter* adapter, const char* folder,
                                                const char* base_model_name);
LOWRANK_API void lowrank_adapter_free(lowrank_adapter* adapter);
/* Writes the model with the adapter added to its weights, computed in f32 from the original weights
 * and stored in their type; reloads it and compares logits on a fixed input. progress and
 * max_logit_difference may be NULL. */
LOWRANK_API lowrank_status lowrank_merge(lowrank_device* device, const char* model_folder,
                                         const char* adapter_folder, const char* output_folder,
                                         lowrank_progress progress, void* user,
                                         double* max_logit_difference);

/* ---- Training ------------------------------------------------------------------------------ */

typedef enum lowrank_optimizer {
  LOWRANK_ADAMW = 0,
  LOWRANK_ADAMW_8BIT = 1 /* block-wise 8-bit states */
} lowrank_optimizer;
typedef enum lowrank_checkpointing {
  LOWRANK_CHECKPOINTING_NONE = 0,
  LOWRANK_CHECKPOINTING_BLOCK = 1,
  LOWRANK_CHECKPOINTING_AUTO = 2 /* recompute as little as fits */
} lowrank_checkpointing;

typedef struct lowrank_session lowrank_session;
typedef struct lowrank_session_options {
  size_t struct_bytes;
  int32_t optimizer;     /* lowrank_optimizer */
  int32_t checkpointing; /* lowrank_checkpointing */
  double beta1, beta2, eps;
  float weight_decay;     /* never on norms and biases */
  float max_grad_norm;    /* 0 = no clipping */
  uint64_t seed;          /* dropout */
  int64_t max_tokens;     /* largest micro-batch; must be set */
  int64_t max_labels;     /* 0 = max_tokens */
  uint64_t memory_budget; /* bytes; 0 = what the device has free */
} lowrank_session_options;

/* Packed documents. labels[t] is the token that token t is trained to be, -100 = none: the shift by
 * one happens inside, and a document's first label is never used. */
typedef struct lowrank_micro_batch {
  size_t struct_bytes;
  const int32_t* input_ids;
  const int32_t* labels;
  const float* weights; /* per label; NULL = ones */
  int64_t tokens;
  const int32_t* document_offsets; /* documents + 1: 0, ..., tokens */
  int32_t documents;
} lowrank_micro_batch;

typedef struct lowrank_step_result {
  size_t struct_bytes;
  double loss;      /* nats per unit of label weight over all micro-batches */
  double grad_norm; /* before clipping */
  double weight;    /* sum of label weights */
  double seconds;
  int64_t tokens, label_tokens, correct;
  int32_t aborted; /* 1: nothing was changed */
} lowrank_step_result;

typedef struct lowrank_plan {
  size_t struct_bytes;
  uint64_t total_bytes; /* predicted peak */
  uint64_t weights, adapter, gradients, optimizer, activations, workspace, device;
  int32_t recomputed_layers, layers;
} lowrank_plan;

LOWRANK_API void lowrank_session_options_init(lowrank_session_options* options);
/* Trains the adapter, or every weight of a trainable model when adapter is NULL. */
LOWRANK_API lowrank_status lowrank_session_create(const lowrank_model* model,
                                                  const lowrank_adapter* adapter,
                                                  const lowrank_session_options* options,
                                                  lowrank_session** out);
/* One optimizer step over all micro-batches. step counts from 1. LOWRANK_NOT_FINITE leaves
 * parameters and optimizer as they were; so does an abort, which is LOWRANK_OK with
 * result->aborted. */
LOWRANK_API lowrank_status lowrank_session_step(lowrank_session* session,
                                                const lowrank_micro_batch* batches, size_t count,
                                                float learning_rate, int64_t step,
                                                const lowrank_abort* abort,
                                                lowrank_step_result* result);
/* Loss only. per_token (NULL, or the sum of tokens) gets each label's log-probability at the
 * label's index and 0 elsewhere. */
LOWRANK_API lowrank_status lowrank_session_evaluate(lowrank_session* session,
                                                    const lowrank_micro_batch* batches,
                                                    size_t count, float* per_token,
                                                    const lowrank_abort* abort,
                                                    lowrank_step_result* result);
LOWRANK_API lowrank_status lowrank_session_get_plan(const lowrank_session* session,
                                                    lowrank_plan* plan);
/* Optimizer states, bit-exact; parameters are saved with the adapter or the model. */
LOWRANK_API lowrank_status lowrank_session_save_state(const lowrank_session* session,
                                                      const char* file);
LOWRANK_API lowrank_status lowrank_session_load_state(lowrank_session* session, const char* file);
LOWRANK_API void lowrank_session_free(lowrank_session* session);

/* The plan of a run from a config.json's text alone. lora NULL = full fine-tuning. */
LOWRANK_API lowrank_status lowrank_estimate(lowrank_device* device, const char* config_json,
                                            const lowrank_model_options* model,
                                            const lowrank_lora_options* lora,
                                            const lowrank_session_options* session,
                                            lowrank_plan* plan);

/* ---- Generation ---------------------------------------------------------------------------- */

typedef struct lowrank_generator lowrank_generator;
typedef struct lowrank_sampling_options {
  size_t struct_bytes;
  float temperature; /* 0 = the most likely token */
  float top_p;       /* 1 = off */
  int32_t top_k;     /* 0 = off */
  uint64_t seed;
} lowrank_sampling_options;

LOWRANK_API void lowrank_sampling_options_init(lowrank_sampling_options* options);
/* capacity: tokens of prompt and answer together. adapter may be NULL. */
LOWRANK_API lowrank_status lowrank_generator_create(const lowrank_model* model,
                                                    const lowrank_adapter* adapter,
                                                    int32_t capacity, lowrank_generator** out);
/* Forgets what it holds and reads the prompt. */
LOWRANK_API lowrank_status lowrank_generator_prefill(lowrank_generator* generator,
                                                     const int32_t* ids, size_t count,
                                                     const lowrank_abort* abort);
/* Samples the next token and reads it, so that it can be called again. */
LOWRANK_API lowrank_status lowrank_generator_next(lowrank_generator* generator,
                                                  const lowrank_sampling_options* options,
                                                  int32_t* token);
/* Logits of the next token; count must be the vocabulary's size. */
LOWRANK_API lowrank_status lowrank_generator_logits(lowrank_generator* generator, float* logits,
                                                    size_t count);
LOWRANK_API void lowrank_generator_free(lowrank_generator* generator);

#ifdef __cplusplus
}
#endif

#endif /* LOWRANK_H_ */
