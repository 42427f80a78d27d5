import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { ChatTemplate } from '../../lib/chat_template.js';
import { TextStream } from '../../lib/text_stream.js';
import { Tokenizer } from '../../lib/tokenizer.js';
import { temporaryFolder, writeJson, writeTextModel } from './support/text_model.js';

const CHAT = [
  { role: 'user', content: 'hello' },
  { role: 'assistant', content: 'world' },
];

describe('Tokenizer.load', () => {
  test('takes special tokens as strings or objects, from any of the files', async () => {
    const folder = writeTextModel({
      config: { eos_token_id: 2, bos_token_id: 1 },
      tokenizerConfig: {
        eos_token: { content: '<|im_end|>', special: true },
        model_max_length: 512,
      },
    });
    writeJson(path.join(folder, 'special_tokens_map.json'), { unk_token: { content: '<unk>' } });
    writeJson(path.join(folder, 'generation_config.json'), { eos_token_id: [5, 7] });
    const tokenizer = await Tokenizer.load(folder);
    expect(tokenizer.specialTokens).toEqual({
      eos_token: '<|im_end|>',
      pad_token: '<pad>',
      unk_token: '<unk>',
      bos_token: '<s>', // by its id in config.json
    });
    expect(tokenizer.eosTokenId).toBe(5);
    expect(tokenizer.padTokenId).toBe(3);
    expect(tokenizer.bosTokenId).toBe(1);
    expect(tokenizer.stopTokenIds).toEqual([5, 7, 2]);
    expect(tokenizer.modelMaxLength).toBe(512);
  });

  test('an unlimited length is no length', async () => {
    const folder = writeTextModel({ tokenizerConfig: { model_max_length: 1e30 } });
    expect((await Tokenizer.load(folder)).modelMaxLength).toBeUndefined();
  });

  test('truncation and padding of tokenizer.json are switched off', async () => {
    const folder = writeTextModel();
    const file = path.join(folder, 'tokenizer.json');
    const json = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    json['truncation'] = { direction: 'Right', max_length: 4, strategy: 'LongestFirst', stride: 0 };
    json['padding'] = {
      strategy: { Fixed: 8 },
      direction: 'Right',
      pad_to_multiple_of: null,
      pad_id: 3,
      pad_type_id: 0,
      pad_token: '<pad>',
    };
    writeJson(file, json);
    const tokenizer = await Tokenizer.load(folder);
    expect(
      (await tokenizer.encode('what is the weather like in paris today?')).ids.length,
    ).toBeGreaterThan(8);
    expect((await tokenizer.encode('the')).ids).toHaveLength(1);
  });

  test.each([
    ['tokenizer.model', 'has tokenizer.model but no tokenizer.json'],
    ['vocab.json', 'has vocab.json but no tokenizer.json'],
    [undefined, 'has no tokenizer.json'],
  ])('without tokenizer.json but %s', async (other, message) => {
    const folder = temporaryFolder();
    if (other !== undefined) writeFileSync(path.join(folder, other), '');
    const error = await Tokenizer.load(folder).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'ERR_LOWRANK_INVALID_FILE', where: folder });
    expect((error as Error).message).toContain(message);
    const { hint } = error as { hint: string };
    expect(hint).toContain(other === undefined ? 'Copy tokenizer.json' : 'save_pretrained');
  });

  test('a folder that does not exist, and a file that is no tokenizer', async () => {
    await expect(Tokenizer.load('/no/such/folder')).rejects.toThrow(
      'there is no such model folder',
    );
    const folder = writeTextModel();
    writeFileSync(path.join(folder, 'tokenizer.json'), '{"model": 1}');
    await expect(Tokenizer.load(folder)).rejects.toMatchObject({
      code: 'ERR_LOWRANK_INVALID_FILE',
      where: path.join(folder, 'tokenizer.json'),
    });
    writeTextModel();
    const other = writeTextModel();
    writeFileSync(path.join(other, 'tokenizer_config.json'), '{"eos_token":');
    await expect(Tokenizer.load(other)).rejects.toThrow('not valid JSON');
  });
});

describe('encoding', () => {
  test('offsets count code points', async () => {
    const tokenizer = await Tokenizer.load(writeTextModel());
    const text = 'a🦙b日';
    const { ids, offsets } = await tokenizer.encode(text, { offsets: true });
    const points = Array.from(text);
    expect(offsets).toHaveLength(2 * ids.length);
    expect(Array.from(offsets!.subarray(0, 2))).toEqual([0, 1]);
    expect(Array.from(offsets!.subarray(-2))).toEqual([3, 4]);
    expect(points).toHaveLength(4);
    expect(await tokenizer.decode(ids)).toBe(text);
  });

  test('a batch is the same as one by one', async () => {
    const tokenizer = await Tokenizer.load(writeTextModel());
    const texts = ['hello', '', 'the cat<|im_end|>', '🦙'];
    const batch = await tokenizer.encodeBatch(texts, { offsets: true });
    for (const [i, text] of texts.entries()) {
      expect(batch[i]).toEqual(await tokenizer.encode(text, { offsets: true }));
    }
    expect(await tokenizer.encodeBatch([])).toEqual([]);
  });

  test('special tokens in the text are recognised, and can be left out when decoding', async () => {
    const tokenizer = await Tokenizer.load(writeTextModel());
    const { ids } = await tokenizer.encode('cat<|im_end|>');
    expect(ids.at(-1)).toBe(tokenizer.eosTokenId);
    expect(await tokenizer.decode(ids)).toBe('cat<|im_end|>');
    expect(await tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('cat');
    expect(tokenizer.idToToken(5)).toBe('<|im_end|>');
    expect(tokenizer.tokenToId('<|im_end|>')).toBe(5);
    expect(tokenizer.tokenToId('no such token')).toBeUndefined();
  });

  test.each(['bytes', 'pieces'] as const)(
    'a stream gives the text in whole characters (%s)',
    async (kind) => {
      const tokenizer = await Tokenizer.load(writeTextModel({ kind }));
      const text = 'hello 🦙🔥 日本 the cat  é';
      const { ids } = await tokenizer.encode(text);
      const stream = new TextStream(tokenizer);
      const parts: string[] = [];
      for (const id of ids) parts.push(await stream.push(id));
      parts.push(await stream.end());
      expect(parts.join('')).toBe(await tokenizer.decode(ids));
      expect(parts.some((part) => part.includes('\ufffd'))).toBe(false);
      expect(parts.filter((part) => part !== '').length).toBeGreaterThan(5);
    },
  );
});

describe('one BOS and no more', () => {
  // A tokenizer that writes BOS itself, as Llama's do.
  function writesBos(): string {
    const folder = writeTextModel({
      template: 'inst',
      tokenizerConfig: { bos_token: '<s>', eos_token: '</s>' },
    });
    const file = path.join(folder, 'tokenizer.json');
    const json = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    json['post_processor'] = {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    };
    writeJson(file, json);
    return folder;
  }

  test('of a template and a tokenizer that both write one', async () => {
    const folder = writesBos();
    const tokenizer = await Tokenizer.load(folder);
    const template = (await ChatTemplate.load(folder, tokenizer))!;
    const text = template.render(CHAT);
    expect(text.startsWith('<s>')).toBe(true);
    for (const addSpecialTokens of [false, true]) {
      const { ids, offsets } = await tokenizer.encode(text, { addSpecialTokens, offsets: true });
      expect(Array.from(ids).filter((id) => id === 1)).toHaveLength(1);
      expect(offsets).toHaveLength(2 * ids.length);
      expect(offsets!.at(-1)).toBe(Array.from(text).length);
    }
  });

  test('of plain text', async () => {
    const tokenizer = await Tokenizer.load(writesBos());
    expect((await tokenizer.encode('the cat', { addSpecialTokens: true })).ids[0]).toBe(1);
    expect((await tokenizer.encode('the cat')).ids[0]).not.toBe(1);
  });
});

describe('ChatTemplate.load', () => {
  const simple = '{% for m in messages %}{{ m.content }}{% endfor %}';

  async function load(folder: string): Promise<ChatTemplate | undefined> {
    return ChatTemplate.load(folder, await Tokenizer.load(folder));
  }

  test('looks in the places in their order', async () => {
    const folder = writeTextModel({
      template: null,
      tokenizerConfig: { chat_template: `config ${simple}` },
    });
    expect((await load(folder))!.render(CHAT)).toBe('config helloworld');
    writeJson(path.join(folder, 'chat_template.json'), { chat_template: `json ${simple}` });
    expect((await load(folder))!.render(CHAT)).toBe('json helloworld');
    writeFileSync(path.join(folder, 'chat_template.jinja'), `file ${simple}`);
    const more = path.join(folder, 'additional_chat_templates');
    mkdirSync(more);
    writeFileSync(path.join(more, 'tool_use.jinja'), `tools ${simple}`);
    const template = (await load(folder))!;
    expect(template.render(CHAT)).toBe('file helloworld');
    expect(template.render(CHAT, { tools: [{}] })).toBe('tools helloworld');
    rmSync(more, { recursive: true });
    expect((await load(folder))!.render(CHAT, { tools: [{}] })).toBe('file helloworld');
  });

  test('reads a list of named templates', async () => {
    const list = [
      { name: 'default', template: `one ${simple}` },
      { name: 'tool_use', template: `two ${simple}` },
    ];
    const folder = writeTextModel({ template: null, tokenizerConfig: { chat_template: list } });
    const template = (await load(folder))!;
    expect(template.render(CHAT)).toBe('one helloworld');
    expect(template.render(CHAT, { tools: [{}] })).toBe('two helloworld');
  });

  test('none, a wrong one, and one without "default"', async () => {
    expect(await load(writeTextModel({ template: null }))).toBeUndefined();
    const wrong = writeTextModel({ template: null, tokenizerConfig: { chat_template: 3 } });
    await expect(load(wrong)).rejects.toThrow('must be a string or a list');
    const broken = writeTextModel({
      template: null,
      tokenizerConfig: { chat_template: '{% for %}' },
    });
    await expect(load(broken)).rejects.toThrow('not a usable chat template');
    const unnamed = writeTextModel({
      template: null,
      tokenizerConfig: { chat_template: [{ name: 'rag', template: simple }] },
    });
    await expect(load(unnamed)).rejects.toThrow('no chat template named "default"; found: rag');
  });

  test('what the template raises becomes an error of the data', async () => {
    const template = (await load(writeTextModel({ template: 'inst' })))!;
    expect(() => template.render([...CHAT].reverse())).toThrow('must take turns');
  });

  test('variables reach the template', async () => {
    const folder = writeTextModel({ template: 'thinking' });
    const template = (await load(folder))!;
    const user = CHAT.slice(0, 1);
    const options = { addGenerationPrompt: true };
    expect(template.render(user, options)).not.toContain('<think>');
    const variables = { enable_thinking: false };
    expect(template.render(user, { ...options, variables })).toContain('<think>\n\n</think>');
  });
});
