// What the demo stands on: its chats can be made again and scored, the base model is a whole folder.
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

import { corpus } from '../../examples/base-model/corpus.mjs';
import { makeChats } from '../../examples/support/make_chats.mjs';
import { FIELDS, parseTicket, scoreAnswer, scoreAnswers } from '../../examples/support/score.mjs';
import { Model, loadDataset, evaluate } from '../../lib/index.js';

const examples = fileURLToPath(new URL('../../examples', import.meta.url));
const baseModel = path.join(examples, 'base-model');
const text = readFileSync(path.join(examples, 'support', 'chats.jsonl'), 'utf8');

interface Chat {
  messages: { role: string; content: string }[];
}
const chats = text
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Chat);

describe('example chats', () => {
  it('are what make_chats.mjs writes, byte for byte', () => {
    const made: unknown[] = makeChats(chats.length);
    expect(made.map((chat) => JSON.stringify(chat) + '\n').join('')).toBe(text);
  });

  it('are some hundreds, each with every field, none twice', () => {
    expect(chats.length).toBeGreaterThanOrEqual(300);
    const questions = new Set<string>();
    for (const { messages } of chats) {
      expect(messages.map((message) => message.role)).toEqual(['system', 'user', 'assistant']);
      const fields = parseTicket(messages[2]!.content);
      expect(Object.keys(fields)).toEqual(FIELDS);
      expect(messages[1]!.content).toContain(fields['order']);
      expect(messages[1]!.content.toLowerCase()).toContain(fields['item']);
      questions.add(messages[1]!.content);
    }
    expect(questions.size).toBe(chats.length);
  });

  it('score: an answer against itself is right, against another it is not', () => {
    const answers = chats.map(({ messages }) => messages[2]!.content);
    expect(scoreAnswers(answers.map((a) => [a, a]))).toEqual({ fields: 1, whole: 1 });
    const shifted = answers.map((a, i) => [a, answers[(i + 1) % answers.length]!]);
    const { fields, whole } = scoreAnswers(shifted);
    expect(whole).toBe(0);
    expect(fields).toBeLessThan(0.4);
    const wanted = answers[0]!;
    expect(scoreAnswer(wanted, wanted.replace(/^item: .*$/m, 'item: nothing')).fields).toBe(4);
    expect(scoreAnswer(wanted, `${wanted}\nmore`)).toEqual({ fields: 5, whole: false });
  });
});

describe('corpus of the base model', () => {
  it('never shows a ticket', () => {
    const documents = corpus(1);
    for (let i = 0; i < 3000; i++) {
      const document = documents.next().value as { text?: string } & Partial<Chat>;
      const whole = document.text ?? document.messages!.map((m) => m.content).join('\n');
      expect(whole).not.toMatch(/^(problem|wish|urgency): /m);
    }
  });
});

describe('base model', () => {
  it('is small enough to carry, loads, and answers in its world', async () => {
    expect(statSync(path.join(baseModel, 'model.safetensors')).size).toBeLessThan(8e6);
    const scratch = mkdtempSync(path.join(os.tmpdir(), 'lowrank-demo-'));
    const model = await Model.load(baseModel, { threads: 1 });
    try {
      // It answers letters in prose, names the thing (chance: 1 in 30) and copies the order number
      // (chance: 1 in 100,000).
      let items = 0;
      let orders = 0;
      for (const { messages } of chats.slice(0, 8)) {
        const answer = await model.generate([messages[1]!], { maxNewTokens: 48 }).text();
        const { item, order } = parseTicket(messages[2]!.content);
        if (answer.includes(item!)) items++;
        if (answer.includes(order!)) orders++;
      }
      expect(items).toBeGreaterThanOrEqual(5);
      expect(orders).toBeGreaterThanOrEqual(6);
      const data = await loadDataset(chats.slice(0, 8));
      const { loss } = await evaluate(model, data, { cacheDir: scratch });
      // Not trained for tickets, yet not lost as random weights are (the logarithm of the vocabulary),
      // nor sure that the tickets' words never come, which would cost even more.
      expect(loss).toBeLessThan(Math.log(2688) - 1.3);
    } finally {
      await model.dispose();
      rmSync(scratch, { recursive: true });
    }
  });
});
