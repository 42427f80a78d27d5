import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { inspectData, type InspectDataOptions } from '../../lib/cli/inspect_data.js';
import {
  chat,
  temporaryFolder,
  writeJson,
  writeLines,
  writeTextModel,
} from './support/text_model.js';

async function inspect(
  rows: readonly unknown[],
  options: Partial<InspectDataOptions> = {},
  color = false,
): Promise<{ status: number; text: string }> {
  const data = writeLines(path.join(temporaryFolder(), 'support.jsonl'), rows);
  let text = '';
  const status = await inspectData(
    { data, model: writeTextModel(), cacheDir: temporaryFolder(), split: [1, 0, 0], ...options },
    { color, write: (part) => (text += part) },
  );
  return { status, text };
}

describe('inspect data', () => {
  const rows = [chat('the cat?', 'hello 🦙'), chat('b', 'c'), chat('d', 'e'), chat('f', 'g')];

  test('text, tokens and mask without colour', async () => {
    const { status, text } = await inspect(rows);
    expect(status).toBe(0);
    expect(text).toMatch(
      /support\.jsonl:1 {2}\d+ tokens, \d+ trained\n<\|im_start\|>user\nthe cat\?<\|im_end\|>\n/,
    );
    expect(text).toContain('<|im_start|>assistant\n[[hello 🦙<|im_end|>]]\n');
    expect(text).toContain('<|im_start|> use r Ċ');
    expect(text).toContain('[<|im_end|>] Ċ');
    expect(text).toContain('support.jsonl:3');
    expect(text).not.toContain('support.jsonl:4');
    expect(text).toContain('4 chat: "messages": chat; trained on what the assistant says');
    expect(text).toMatch(/train +4 examples, [\d,]+ tokens, [\d,]+ trained \(\d+\.\d %\)/);
    expect(text).toContain('trained in 4 examples');
    expect(text).not.toContain('\u001b');
  });

  test('in colour', async () => {
    const messages = [...chat('a', 'b').messages, { role: 'user', content: 'c' }];
    const weighted = { messages: [...messages, { role: 'assistant', content: 'd', weight: 0.5 }] };
    const { text } = await inspect([weighted], {}, true);
    expect(text).toContain('\u001b[32mb<|im_end|>\u001b[39m');
    expect(text).toContain('\u001b[33md<|im_end|>\u001b[39m\u001b[33m×0.5\u001b[39m');
    expect(text).toContain('\u001b[2m<|im_start|>user\u001b[22m');
  });

  test('bad rows are listed and make the status 1', async () => {
    const { status, text } = await inspect([...rows, { x: 1 }], { rows: 0 });
    expect(status).toBe(1);
    expect(text).toMatch(/bad row +\S+support\.jsonl:5: the keys "x" match no known row/);
  });

  test('as JSON', async () => {
    const { status, text } = await inspect(rows, { json: true, rows: 1 });
    expect(status).toBe(0);
    const report = JSON.parse(text) as {
      rows: number;
      examples: { input_ids: number[]; labels: number[] }[];
    };
    expect(report.rows).toBe(4);
    expect(report.examples).toHaveLength(1);
    expect(report.examples[0]!.labels).toHaveLength(report.examples[0]!.input_ids.length);
  });

  test('tokenized rows without a tokenizer', async () => {
    const model = temporaryFolder();
    writeJson(path.join(model, 'config.json'), { vocab_size: 10, eos_token_id: 2 });
    const { status, text } = await inspect([{ input_ids: [1, 5, 2], labels: [-100, 5, 2] }], {
      model,
    });
    expect(status).toBe(0);
    expect(text).toContain('1 [[5 2 ]]');
    await expect(inspect(rows, { model })).rejects.toThrow('the folder has no tokenizer.json');
  });

  test('a template of the user', async () => {
    const chatTemplate = path.join(import.meta.dirname, '../golden/templates/sections.jinja');
    const { text } = await inspect(rows, { chatTemplate, rows: 1 });
    expect(text).toContain('### Instruction:\nthe cat?\n\n### Response:\n[[hello 🦙<|im_end|>]]');
    await expect(inspect(rows, { chatTemplate: '/no/such/file' })).rejects.toThrow(
      'cannot read the chat template',
    );
  });
});
