// Texts, tokens and masks against what Transformers made of the same templates (test/golden).
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ChatTemplate, type ChatMessage } from '../../lib/chat_template.js';
import { parseRow } from '../../lib/data/rows.js';
import { tokenWeights } from '../../lib/token_weights.js';
import { Tokenizer } from '../../lib/tokenizer.js';

const golden = path.join(import.meta.dirname, '../golden/templates');

interface Expected {
  special: string[];
  tools: unknown[];
  needsTools: string[];
  chats: Record<string, ChatMessage[]>;
  cases: {
    tokenizer: string;
    template: string;
    chat: string;
    bos: string | null;
    eos: string;
    text: string | null;
    ids: number[];
    mask: string;
  }[];
}
const expected = JSON.parse(readFileSync(path.join(golden, 'expected.json'), 'utf8')) as Expected;
const tokenizers = new Map<string, Tokenizer>();
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'lowrank-template-'));
  for (const kind of ['bytes', 'pieces']) {
    const model = path.join(folder, kind);
    mkdirSync(model);
    writeFileSync(
      path.join(model, 'tokenizer.json'),
      readFileSync(path.join(golden, `tokenizer_${kind}.json`)),
    );
    tokenizers.set(kind, await Tokenizer.load(model));
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function source(name: string, tagged: boolean): string {
  const text = readFileSync(path.join(golden, `${name}.jinja`), 'utf8').replace(/\n$/, '');
  if (tagged) return text;
  const plain = text.replace(
    /{%([-+]?)\s*(?:end)?generation\s*([-+]?)%}/g,
    '{%$1 if true %}{% endif $2%}',
  );
  expect(plain).not.toBe(text);
  return plain;
}

function load(name: string, tagged: boolean, bos: string | null, eos: string): ChatTemplate {
  return new ChatTemplate(
    { default: source(name, tagged) },
    {
      where: `${name}.jinja`,
      specialTokens: { ...(bos !== null && { bos_token: bos }), eos_token: eos },
      stopTokens: [eos],
      allSpecialTokens: expected.special,
    },
  );
}

describe.each([
  ['with generation tags', true],
  ['without generation tags', false],
])('%s', (_, tagged) => {
  test.each(
    expected.cases.map(
      (item) => [`${item.template}, ${item.chat}, ${item.tokenizer}`, item] as const,
    ),
  )('%s', async (__, { tokenizer: kind, template: name, chat, bos, eos, text, ids, mask }) => {
    const tokenizer = tokenizers.get(kind)!;
    const template = load(name, tagged, bos, eos);
    expect(template.hasGenerationTags).toBe(tagged);
    const row = parseRow({ messages: expected.chats[chat]! });
    if (row.kind !== 'chat') throw new TypeError(row.kind);
    const tools = expected.needsTools.includes(chat) ? expected.tools : undefined;
    const rendered = template.renderWithSpans(row.messages, { tools });
    expect(rendered.text).toBe(text ?? rendered.text);
    expect(template.render(row.messages, { tools })).toBe(rendered.text);
    const encoding = await tokenizer.encode(rendered.text, { offsets: true });
    expect(Array.from(encoding.ids)).toEqual(ids);
    const weights = tokenWeights(rendered.text, encoding.offsets!, rendered.spans);
    const trained = async (bits: ArrayLike<number>): Promise<string> =>
      tokenizer.decode(ids.filter((___, i) => bits[i] === 1));
    // First as text, which says more when it fails.
    expect(await trained(weights)).toBe(await trained(Array.from(mask, Number)));
    expect(Array.from(weights).join('')).toBe(mask);
  });
});
