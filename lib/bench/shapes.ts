// Named model shapes for benches; weights are random, so nothing is downloaded.

import { readFile } from 'node:fs/promises';

import { LowrankError } from '../errors.js';

interface Shape {
  model_type: string;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  vocab_size: number;
  rope_theta: number;
  tie_word_embeddings: boolean;
  attention_bias?: boolean;
}

const SHAPES: Record<string, Shape> = {
  'smollm2-135m': {
    model_type: 'llama',
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    head_dim: 64,
    vocab_size: 49152,
    rope_theta: 100000,
    tie_word_embeddings: true,
  },
  'qwen2.5-0.5b': {
    model_type: 'qwen2',
    hidden_size: 896,
    intermediate_size: 4864,
    num_hidden_layers: 24,
    num_attention_heads: 14,
    num_key_value_heads: 2,
    head_dim: 64,
    vocab_size: 151936,
    rope_theta: 1000000,
    tie_word_embeddings: true,
  },
  'qwen3-0.6b': {
    model_type: 'qwen3',
    hidden_size: 1024,
    intermediate_size: 3072,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    num_key_value_heads: 8,
    head_dim: 128,
    vocab_size: 151936,
    rope_theta: 1000000,
    tie_word_embeddings: true,
    attention_bias: false,
  },
  'qwen3-1.7b': {
    model_type: 'qwen3',
    hidden_size: 2048,
    intermediate_size: 6144,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    num_key_value_heads: 8,
    head_dim: 128,
    vocab_size: 151936,
    rope_theta: 1000000,
    tie_word_embeddings: true,
    attention_bias: false,
  },
  'llama-3.1-8b': {
    model_type: 'llama',
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 128,
    vocab_size: 128256,
    rope_theta: 500000,
    tie_word_embeddings: false,
  },
};

export const SHAPE_NAMES = Object.keys(SHAPES);

/** The config.json text of a named shape with weights of type `dtype`, or of a config.json file. */
export async function shapeConfig(name: string, dtype: 'f32' | 'bf16'): Promise<string> {
  const shape = SHAPES[name];
  if (shape)
    return JSON.stringify({
      ...shape,
      hidden_act: 'silu',
      rms_norm_eps: 1e-6,
      max_position_embeddings: 32768,
      initializer_range: 0.02,
      torch_dtype: dtype === 'bf16' ? 'bfloat16' : 'float32',
      bos_token_id: 1,
      eos_token_id: 2,
    });
  return readFile(name, 'utf8').catch(() => {
    throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', `there is no shape '${name}'`, {
      where: '--shape',
      hint: `use ${SHAPE_NAMES.join(', ')}, or a config.json`,
    });
  });
}

interface FlopInput {
  layers: number;
  hidden: number;
  intermediate: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabulary: number;
}

/**
 * Floating-point operations per trained token as counted for MFU: 2 per multiply-add of the forward
 * pass, twice that of the backward pass for what is trained, once for frozen weights (no weight
 * gradient): frozen linears and head 4 N, trained ones 6 N, adapters 6 N, causal attention
 * 6 L s d with half of s seen on average. `recompute` counts what makes the blocks' activations
 * again, all of a forward pass but the last linear, which MFU gives no credit for;
 * `adapterParameters` is then without that linear's.
 */
export function flopsPerToken(
  model: FlopInput,
  sequence: number,
  method: 'lora' | 'qlora' | 'full' | 'recompute',
  adapterParameters: number,
): number {
  const attention = model.heads * model.headDim;
  const again = method === 'recompute';
  const block =
    2 * model.hidden * attention +
    2 * model.hidden * model.kvHeads * model.headDim +
    (again ? 2 : 3) * model.hidden * model.intermediate;
  const head = again ? 0 : model.vocabulary * model.hidden;
  const weights = { recompute: 2, lora: 4, qlora: 4, full: 6 }[method];
  const others = again ? 2 : 6;
  return (
    weights * (block * model.layers + head) +
    others * (model.layers * sequence * attention + adapterParameters)
  );
}
