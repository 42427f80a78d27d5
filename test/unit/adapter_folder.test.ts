import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { modelCard } from '../../lib/adapter_folder.js';

const info = {
  options: {
    r: 8,
    loraAlpha: 16,
    loraDropout: 0.05,
    useRslora: true,
    targetModules: ['q_proj', 'v_proj'],
    targetPattern: '',
    rankPattern: {},
    alphaPattern: {},
    modulesToSave: ['lm_head'],
  },
  modules: ['model.layers.0.self_attn.q_proj', 'model.layers.0.self_attn.v_proj'],
  parameters: 4096,
};

function metadataOf(card: string): unknown {
  const [before, metadata] = card.split(/^---$/m);
  expect(before).toBe('');
  return parse(metadata!);
}

describe('the model card', () => {
  test('tells hub tools the base model and the library', () => {
    expect(metadataOf(modelCard(info, 'Qwen/Qwen2.5-0.5B'))).toEqual({
      base_model: 'Qwen/Qwen2.5-0.5B',
      library_name: 'peft',
      pipeline_tag: 'text-generation',
      tags: ['base_model:adapter:Qwen/Qwen2.5-0.5B', 'lora', 'lowrank'],
    });
    // Any path is a YAML string, and a fresh model has no name.
    expect(metadataOf(modelCard(info, './a: b # "c"'))).toMatchObject({
      base_model: './a: b # "c"',
    });
    expect(metadataOf(modelCard(info, ''))).toEqual({
      library_name: 'peft',
      pipeline_tag: 'text-generation',
      tags: ['lora', 'lowrank'],
    });
  });

  test('tells people what was trained, and on how much', () => {
    const training = { examples: 480, steps: 90, tokens: 12345, labelTokens: 6789 };
    const card = modelCard(info, 'base', training);
    for (const fact of [
      'r 8, alpha 16, dropout 0.05, rank-stabilized',
      '2 linear layers (`q_proj, v_proj`), 4096',
      'Trained in full: lm_head',
      '480 examples; 90 steps over 12345 tokens, of which 6789',
    ])
      expect(card).toContain(fact);
    expect(modelCard(info, 'base')).not.toContain('Data:');
  });
});
