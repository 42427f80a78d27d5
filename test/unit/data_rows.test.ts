import { describe, expect, test } from 'vitest';
import { RowError } from '../../lib/data/row_error.js';
import { parseRow } from '../../lib/data/rows.js';

const question = { role: 'user', content: 'q' };
const answer = { role: 'assistant', content: 'a' };

describe('rows that are recognised', () => {
  test('messages', () => {
    expect(
      parseRow({ messages: [question, { ...answer, weight: 0.5 }], tools: [{ x: 1 }], id: 3 }),
    ).toEqual({
      kind: 'chat',
      format: 'chat',
      messages: [question, { ...answer, weight: 0.5 }],
      tools: [{ x: 1 }],
    });
  });

  test('messages with parts, nulls, and arguments in JSON', () => {
    const fn = { name: 'f', arguments: '{"x": 1}' };
    const row = parseRow({
      messages: [
        { role: 'user', content: [{ type: 'text', text: 'a' }, 'b'], name: null },
        { role: 'assistant', content: null, tool_calls: [{ type: 'function', function: fn }] },
        { role: 'tool', content: 't', tool_call_id: '1' },
        { role: 'model', content: 'm' },
      ],
      tools: '[]',
    });
    expect(row).toMatchObject({
      messages: [
        { role: 'user', content: 'ab' },
        { content: '', tool_calls: [{ function: { name: 'f', arguments: { x: 1 } } }] },
        { role: 'tool', tool_call_id: '1' },
        { role: 'assistant', content: 'm' },
      ],
    });
    expect(row).not.toHaveProperty('tools');
    expect(row).not.toHaveProperty(['messages', 0, 'name']);
  });

  test('ShareGPT', () => {
    const row = parseRow({
      system: 's',
      tools: '[{"name": "f"}]',
      conversations: [
        { from: 'human', value: 'q' },
        { from: 'function_call', value: '{"name": "f", "arguments": {"x": 1}}' },
        { from: 'observation', value: 'o' },
        { from: 'gpt', value: 'a', weight: 0 },
      ],
    });
    expect(row).toEqual({
      kind: 'chat',
      format: 'sharegpt',
      tools: [{ name: 'f' }],
      messages: [
        { role: 'system', content: 's' },
        question,
        {
          role: 'assistant',
          content: '',
          tool_calls: [{ type: 'function', function: { name: 'f', arguments: { x: 1 } } }],
        },
        { role: 'tool', content: 'o' },
        { ...answer, weight: 0 },
      ],
    });
  });

  test('"conversations" with roles are messages', () => {
    expect(parseRow({ conversations: [question, answer] })).toMatchObject({ format: 'chat' });
  });

  test('Alpaca', () => {
    expect(
      parseRow({
        instruction: 'do',
        input: 'this',
        output: 'a',
        system: 's',
        history: [['q', 'x']],
      }),
    ).toEqual({
      kind: 'chat',
      format: 'alpaca',
      messages: [
        { role: 'system', content: 's' },
        question,
        { role: 'assistant', content: 'x' },
        { role: 'user', content: 'do\n\nthis' },
        answer,
      ],
      alpaca: {
        prompt: 's\n\n### Instruction:\ndo\n\n### Input:\nthis\n\n### Response:\n',
        completion: 'a',
      },
    });
    expect(parseRow({ instruction: 'do', input: '', output: 'a' })).toMatchObject({
      messages: [{ content: 'do' }, answer],
      alpaca: { prompt: '### Instruction:\ndo\n\n### Response:\n' },
    });
  });

  test('prompt and completion, as strings and as messages', () => {
    expect(parseRow({ prompt: 'p', completion: 'c' })).toMatchObject({ kind: 'completion' });
    const earlier = { role: 'assistant', content: 'earlier' };
    expect(parseRow({ prompt: [question, earlier, question], completion: [answer] })).toMatchObject(
      {
        kind: 'chat',
        format: 'prompt-completion',
        messages: [question, { ...earlier, weight: 0 }, question, answer],
      },
    );
  });

  test('text, and tokens', () => {
    expect(parseRow({ text: 't', source: 'x' })).toMatchObject({ kind: 'text', text: 't' });
    expect(
      parseRow({ input_ids: [1, 2n], labels: [-100, 2], attention_mask: [1, 1] }),
    ).toMatchObject({
      kind: 'tokens',
      inputIds: [1, 2],
      labels: [-100, 2],
    });
    expect(parseRow({ input_ids: Int32Array.of(1, 2) })).toMatchObject({ labels: [1, 2] });
  });
});

describe('rows that are refused, with what to do', () => {
  test.each<[unknown, RegExp]>([
    [3, /must be an object, found 3\. Known rows/],
    [[1], /must be an object, found a list of 1/],
    [{}, /the row is empty\. Known rows/],
    [{ question: 'q', answer: 'a' }, /the keys "question", "answer" match no known row/],
    [{ prompt: 'p' }, /Add "completion" to "prompt"/],
    [{ instruction: 'p' }, /Add "output" to "instruction"/],
    [{ prompt: 'p', chosen: 'a', rejected: 'b' }, /preference training.*not supported yet/],
    [{ prompt: 'p', completion: 'c', label: true }, /unpaired preference/],
    [{ prompt: 'p', completions: ['c'] }, /step-wise supervision/],
    [{ text: 't', label: 1 }, /classification/],
    [{ text: 4 }, /"text" must be a string, found 4/],
    [{ text: '' }, /"text" is empty/],
    [{ text: 'a\ufdd0' }, /U\+FDD0.*Remove it/],
    [{ prompt: 'p', completion: ['c'] }, /two strings or two lists/],
    [{ prompt: 'p', completion: '' }, /"completion" is empty/],
    [
      { prompt: [question], completion: [question] },
      /"completion" has no message of the assistant/,
    ],
    [{ instruction: 'i', output: '' }, /"output" is empty/],
    [{ instruction: 5, output: 'o' }, /"instruction" must be a string/],
    [{ instruction: 'i', output: 'o', history: ['x'] }, /"history" must be a list of/],
    [{ messages: 'x' }, /"messages" must be a list/],
    [{ messages: [] }, /"messages" is empty/],
    [{ messages: [question] }, /no message of the assistant/],
    [{ messages: ['x'] }, /"messages"\[0\] must be an object/],
    [{ messages: [{ content: 'x' }] }, /"messages"\[0\] has no "role"\. Use "system"/],
    [{ messages: [{ role: 'bot', content: 'x' }] }, /unknown role "bot"/],
    [{ messages: [question, { role: 'assistant' }] }, /"messages"\[1\] has no "content"/],
    [
      { messages: [{ role: 'user', content: { a: 1 } }] },
      /"content" that is an object with the keys "a"/,
    ],
    [
      { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
      /part of type "image_url"/,
    ],
    [{ messages: [question, { ...answer, weight: -1 }] }, /weight -1\. Use 0/],
    [{ messages: [question, { ...answer, weight: 'x' }] }, /weight "x"/],
    [{ messages: [question, { ...answer, tool_calls: 'x' }] }, /"tool_calls" that are "x"/],
    [
      { messages: [question, { ...answer, tool_calls: [{}] }] },
      /tool_calls\[0\] names no function/,
    ],
    [
      { messages: [question, { ...answer, tool_calls: [{ name: 'f', arguments: '{' }] }] },
      /tool_calls\[0\] holds a string that is not valid JSON/,
    ],
    [{ messages: [question, answer], tools: { a: 1 } }, /"tools" must be a list/],
    [{ messages: [question, answer], tools: '[' }, /tools holds a string that is not valid JSON/],
    [{ conversations: [{ from: 'robot', value: 'x' }] }, /"from": "robot"\. Use one of human/],
    [{ conversations: [{ from: 'gpt', value: 1 }] }, /"value" that is 1/],
    [{ input_ids: 'x' }, /"input_ids" must be a list of integers/],
    [{ input_ids: [] }, /"input_ids" is empty/],
    [{ input_ids: [1, -1] }, /"input_ids"\[1\] is -1/],
    [{ input_ids: [1, 1.5] }, /"input_ids"\[1\] is 1\.5/],
    [{ input_ids: [1, 2], labels: [1] }, /"labels" has 1 entries and "input_ids" 2/],
    [{ input_ids: [1], labels: [-5] }, /"labels"\[0\] is -5\. Use a token id, or -100/],
  ])('%j', (row, message) => {
    expect(() => parseRow(row)).toThrow(RowError);
    expect(() => parseRow(row)).toThrow(message);
  });
});
