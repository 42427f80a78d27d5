// Trains the base model's tokenizer: byte-level BPE (Sennrich et al., 2016) with numbers in groups of up
// to three digits, each group one token (as in Llama 3), and writes the Hugging Face files. An order
// number is then two tokens of different kinds, which is easier to copy than five alike.
//
//   node examples/base-model/train_tokenizer.mjs OUTPUT_FOLDER

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { makeChats } from '../support/make_chats.mjs';
import { corpus } from './corpus.mjs';

export const SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];
const WORD_MERGES = 1789;
const DOCUMENTS = 20_000;

// The printable stand-ins that byte-level BPE writes for the 256 bytes (GPT-2's table).
function byteAlphabet() {
  const keep = [];
  for (let b = 33; b <= 126; b++) keep.push(b);
  for (let b = 161; b <= 172; b++) keep.push(b);
  for (let b = 174; b <= 255; b++) keep.push(b);
  const table = new Map(keep.map((b) => [b, String.fromCharCode(b)]));
  let extra = 0;
  for (let b = 0; b < 256; b++) if (!table.has(b)) table.set(b, String.fromCharCode(256 + extra++));
  return table;
}

// GPT-2's pattern, but digits in groups of up to three.
const SPLIT_PATTERN =
  "\\p{N}{1,3}|'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const SPLIT = new RegExp(SPLIT_PATTERN, 'gu');
const DIGITS = [...'0123456789'];
const PAIRS = DIGITS.flatMap((a) => DIGITS.map((b) => `${a} ${b}`));
/** Every two and three digits, in the order of their values. */
const DIGIT_MERGES = [
  ...PAIRS,
  ...PAIRS.flatMap((pair) => DIGITS.map((c) => `${pair.replace(' ', '')} ${c}`)),
];

function countWords(alphabet) {
  const counts = new Map();
  const add = (text) => {
    for (const [word] of text.matchAll(SPLIT)) {
      if (/^\p{N}/u.test(word)) continue;
      const symbols = [...Buffer.from(word, 'utf8')].map((b) => alphabet.get(b)).join('');
      counts.set(symbols, (counts.get(symbols) ?? 0) + 1);
    }
  };
  const documents = corpus(1);
  for (let i = 0; i < DOCUMENTS; i++) {
    const { text, messages } = documents.next().value;
    if (text !== undefined) add(text);
    for (const { role, content } of messages ?? []) add(`${role}\n${content}`);
  }
  for (const { messages } of makeChats(2000, 7)) for (const { content } of messages) add(content);
  return counts;
}

/** Merges the most frequent pair again and again; ties go to the pair that sorts first. */
function learnMerges(counts, wanted) {
  const words = [...counts].map(([word, count]) => ({ symbols: [...word], count }));
  const merges = [];
  while (merges.length < wanted) {
    const pairs = new Map();
    for (const { symbols, count } of words)
      for (let i = 0; i + 1 < symbols.length; i++) {
        const pair = `${symbols[i]} ${symbols[i + 1]}`;
        pairs.set(pair, (pairs.get(pair) ?? 0) + count);
      }
    let best = null;
    let most = 1;
    for (const [pair, count] of pairs)
      if (count > most || (count === most && best !== null && pair < best)) {
        best = pair;
        most = count;
      }
    if (best === null) break;
    merges.push(best);
    const [left, right] = best.split(' ');
    for (const word of words) {
      const { symbols } = word;
      for (let i = 0; i + 1 < symbols.length; i++)
        if (symbols[i] === left && symbols[i + 1] === right) symbols.splice(i, 2, left + right);
    }
  }
  return merges;
}

export const CHAT_TEMPLATE = `{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- message.content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
`;

export function writeTokenizer(folder) {
  const alphabet = byteAlphabet();
  const merges = [...DIGIT_MERGES, ...learnMerges(countWords(alphabet), WORD_MERGES)];
  const tokens = [
    ...SPECIAL,
    ...[...alphabet.values()].sort(),
    ...merges.map((m) => m.replace(' ', '')),
  ];
  const special = (content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const byteLevel = {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: false,
  };
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL.map(special),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: SPLIT_PATTERN }, behavior: 'Isolated', invert: false },
        byteLevel,
      ],
    },
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map((m) => m.split(' ')),
    },
  };
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    eos_token: '<|im_end|>',
    pad_token: '<|endoftext|>',
    bos_token: null,
    unk_token: null,
    model_max_length: 512,
    clean_up_tokenization_spaces: false,
  };
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer) + '\n');
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config, null, 2) + '\n');
  writeFileSync(join(folder, 'chat_template.jinja'), CHAT_TEMPLATE);
}

if (process.argv[1]?.endsWith('train_tokenizer.mjs')) writeTokenizer(process.argv[2]);
