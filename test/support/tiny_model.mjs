// A model folder made of nothing: random weights, a tokenizer with one token per byte, a chat
// template. Plain JavaScript over the addon alone, so that child processes and packages can use it.
import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

/** The addon of this checkout. */
export function loadBuild() {
  const file = process.env.LOWRANK_BINARY ?? path.join(root, 'build', 'Release', 'lowrank.node');
  return createRequire(import.meta.url)(file);
}

const specialTokens = ['<|start|>', '<|end|>', '<|pad|>'];

export const tinyConfig = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  initializer_range: 0.05,
  tie_word_embeddings: true,
  vocab_size: 256 + specialTokens.length,
  bos_token_id: 256,
  eos_token_id: 257,
  pad_token_id: 258,
  torch_dtype: 'float32',
};

export const device = { device: 'cpu', threads: 1 };
export const modelOptions = { compute: 'f32', quantization: 'none', trainable: false };

export const loraOptions = {
  r: 4,
  loraAlpha: 8,
  loraDropout: 0,
  useRslora: false,
  targetModules: ['all-linear'],
  targetPattern: '',
  rankPattern: {},
  alphaPattern: {},
  modulesToSave: [],
};

export const sessionOptions = {
  optimizer: 'adamw',
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0,
  maxGradNorm: 1,
  seed: 1,
  maxTokens: 64,
  checkpointing: 'none',
};

/** `tokens` tokens of a fixed pattern, as one document. */
export function microBatch(tokens = 24) {
  const inputIds = Int32Array.from({ length: tokens }, (_, i) => 97 + (i % 5));
  return { inputIds, labels: inputIds.slice(), documentOffsets: Int32Array.of(0, tokens) };
}

// The alphabet of byte-level tokenizers (GPT-2): printable bytes stand for themselves, the others for
// characters from U+0100 on.
function byteAlphabet() {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable =
      (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
    return String.fromCodePoint(printable ? byte : next++);
  });
}

function tokenizerJson() {
  const vocab = Object.fromEntries(byteAlphabet().map((character, byte) => [character, byte]));
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, i) => ({
      id: 256 + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: 'ByteLevel',
      add_prefix_space: false,
      trim_offsets: true,
      use_regex: true,
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges: [],
    },
  };
}

const chatTemplate =
  "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>{% endfor %}" +
  '{% if add_generation_prompt %}<|start|>assistant\n{% endif %}';

/** Writes the folder and returns its path. */
export async function writeTinyModel(addon, folder, { seed = 1, config = {} } = {}) {
  mkdirSync(folder, { recursive: true });
  const text = JSON.stringify({ ...tinyConfig, ...config });
  const model = await addon.createModel(device, text, modelOptions, seed);
  await model.save(folder, 'f32');
  await model.dispose();
  const write = (name, content) => writeFileSync(path.join(folder, name), content);
  write('tokenizer.json', JSON.stringify(tokenizerJson()));
  write(
    'tokenizer_config.json',
    JSON.stringify({ bos_token: '<|start|>', eos_token: '<|end|>', pad_token: '<|pad|>' }),
  );
  write('chat_template.jinja', chatTemplate);
  return folder;
}
