import { describe, expect, test } from 'vitest';
import { ChatTemplate, type ChatMessage, type RenderOptions } from '../../lib/chat_template.js';
import { tokenWeights } from '../../lib/token_weights.js';

const CHATML =
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

function chatTemplate(
  source: string,
  stopTokens = ['<|im_end|>'],
  special: string[] = [],
): ChatTemplate {
  return new ChatTemplate({ default: source }, { stopTokens, allSpecialTokens: special });
}

function spans(template: ChatTemplate, messages: ChatMessage[], options?: RenderOptions): string[] {
  const rendered = template.renderWithSpans(messages, options);
  return rendered.spans.map(({ start, end }) => rendered.text.slice(start, end));
}

const user = (content: string): ChatMessage => ({ role: 'user', content });
const assistant = (content: string, more: object = {}): ChatMessage => ({
  role: 'assistant',
  content,
  ...more,
});

describe('weights of messages', () => {
  const messages = [
    user('a'),
    assistant('b', { weight: 0 }),
    user('c'),
    assistant('d', { weight: 0.5 }),
  ];

  test('0 leaves a message out, its end of turn too', () => {
    const { text, spans: found } = chatTemplate(CHATML).renderWithSpans(messages);
    expect(found).toEqual([
      { start: text.indexOf('d<'), end: text.length - 1, message: 3, weight: 0.5 },
    ]);
  });

  test('the same with generation tags', () => {
    const tagged =
      "{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' %}" +
      "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    const { text, spans: found } = chatTemplate(tagged).renderWithSpans(messages);
    expect(found).toEqual([
      { start: text.indexOf('d<'), end: text.length, message: 3, weight: 0.5 },
    ]);
  });

  test('tags on the last answer alone belong to that message', () => {
    const tagged =
      "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}" +
      "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}";
    const { spans: found } = chatTemplate(tagged).renderWithSpans(messages);
    expect(found).toMatchObject([{ message: 3, weight: 0.5 }]);
  });

  test('a weight is never shown to the template', () => {
    const template = chatTemplate('{% for m in messages %}{{ m.weight is defined }}{% endfor %}');
    expect(template.render(messages)).toBe('falsefalsefalsefalse');
  });
});

describe('the end of a turn', () => {
  test('behind tags that leave it out', () => {
    const tagged =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% generation %}{{ m.content }}{% endgeneration %}" +
      "{{ '<|im_end|>\\n' }}{% endfor %}";
    expect(spans(chatTemplate(tagged), [assistant('b'), assistant('d')])).toEqual([
      'b<|im_end|>',
      'd<|im_end|>',
    ]);
  });

  test('a special token that is no stop token of the configuration', () => {
    const source = CHATML.replaceAll('<|im_end|>', '<end_of_turn>');
    const template = chatTemplate(source, ['<eos>'], ['<|im_start|>', '<end_of_turn>', '<eos>']);
    expect(template.turnEnds()).toEqual(['<eos>', '<end_of_turn>']);
    expect(spans(template, [user('a'), assistant('b')])).toEqual(['b<end_of_turn>']);
  });

  test('a default system prompt that ends as the turns do', () => {
    const source =
      "{{ '<|start|>system: be kind<|end|>' }}{% for m in messages %}{{ '<|start|>' + m.role + ':' + m.content }}" +
      "{{ '<|return|>' if loop.last else '<|end|>' }}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '<|start|>assistant:' }}{% endif %}";
    const template = chatTemplate(source, ['<|return|>'], ['<|start|>', '<|end|>', '<|return|>']);
    expect(spans(template, [user('a'), assistant('b'), user('c'), assistant('d')])).toEqual([
      'b<|end|>',
      'd<|return|>',
    ]);
  });

  test('tags around the answer and its end apart', () => {
    const tagged =
      "{% for m in messages %}{{ m.role }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}" +
      "{% generation %}{{ '<|im_end|>\\n' }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    const messages = [
      user('a'),
      assistant('b', { weight: 0 }),
      user('c'),
      assistant('d', { weight: 0.5 }),
    ];
    const found = chatTemplate(tagged).renderWithSpans(messages);
    expect(found.spans.map(({ message, weight }) => [message, weight])).toEqual([
      [3, 0.5],
      [3, 0.5],
    ]);
    expect(spans(chatTemplate(tagged), messages)).toEqual(['d', '<|im_end|>\n']);
  });

  test('the opening of the next turn is not an end', () => {
    const source =
      "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}{{ '</s>' }}";
    const template = chatTemplate(source, ['</s>'], ['<|user|>', '<|assistant|>', '</s>']);
    expect(template.turnEnds()).toEqual(['</s>']);
    expect(spans(template, [user('a'), assistant('b'), user('c'), assistant('d')])).toEqual([
      'b',
      'd</s>',
    ]);
  });

  test('a stop token further on is not of this turn', () => {
    const source =
      "{% for m in messages %}{{ m.role + ':' + m.content + ';' }}{% endfor %}{{ '</s>' }}";
    const template = chatTemplate(source, ['</s>']);
    expect(spans(template, [assistant('b'), user('c</s>')])).toEqual(['b']);
  });
});

describe('what is never trained', () => {
  test('system, user and tool messages', () => {
    const messages = [
      { role: 'system', content: 's' },
      user('a'),
      { role: 'tool', content: 't' },
      assistant('b'),
    ];
    expect(spans(chatTemplate(CHATML), messages)).toEqual(['b<|im_end|>']);
    expect(spans(chatTemplate(CHATML), messages.slice(0, 3))).toEqual([]);
  });

  test('an answer that the template drops', () => {
    const source =
      "{% for m in messages %}{% if m.role == 'user' or loop.last %}{{ m.role + m.content + '<|im_end|>' }}{% endif %}{% endfor %}";
    const messages = [user('a'), assistant('dropped'), user('c'), assistant('d')];
    expect(spans(chatTemplate(source), messages)).toEqual(['d<|im_end|>']);
  });
});

describe('templates with a mind of their own', () => {
  test('content in upper case, in JSON, or shown twice', () => {
    const upper = CHATML.replace('m.content', '(m.content | upper)');
    expect(spans(chatTemplate(upper), [user('a'), assistant('b')])).toEqual(['B<|im_end|>']);
    const json = CHATML.replace('m.content', '(m.content | tojson)');
    expect(spans(chatTemplate(json), [user('a'), assistant('b "c"')])).toEqual([
      '"b \\"c\\""<|im_end|>',
    ]);
    const twice = CHATML.replace('m.content', "(m.content + ' / ' + m.content)");
    expect(spans(chatTemplate(twice), [user('a'), assistant('b')])).toEqual(['b / b<|im_end|>']);
  });

  test('calls of tools where each call must be answered', () => {
    const source =
      '{% for m in messages %}{% if m.role == "tool" and not messages[loop.index0 - 1].tool_calls %}' +
      "{{ raise_exception('an answer without a call') }}{% endif %}{{ '<|im_start|>' + m.role + '\\n' }}" +
      '{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %}' +
      "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    const call = { type: 'function', function: { name: 'weather', arguments: { city: 'Paris' } } };
    const messages = [
      user('a'),
      assistant('', { tool_calls: [call] }),
      { role: 'tool', content: 'warm' },
      assistant('b'),
    ];
    expect(spans(chatTemplate(source), messages)).toEqual([
      `${JSON.stringify([call])
        .replaceAll(/([,:])"/g, '$1 "')
        .replaceAll(':{', ': {')}<|im_end|>`,
      'b<|im_end|>',
    ]);
  });

  test('the messages are not changed', () => {
    const messages = [user('a'), assistant(' b ', { weight: 0.5, reasoning_content: 'c' })];
    const copy = structuredClone(messages);
    chatTemplate(CHATML).renderWithSpans(messages);
    expect(messages).toEqual(copy);
  });
});

describe('as Jinja has it', () => {
  test('strip takes characters', () => {
    const render = (expression: string): string =>
      chatTemplate(`{{ ${expression} }}`).render([user('\n\t x \n')]);
    const content = 'messages[0].content';
    expect(render(`'[' + ${content}.lstrip('\\n') + ']'`)).toBe('[\t x \n]');
    expect(render(`'[' + ${content}.rstrip('\\n ') + ']'`)).toBe('[\n\t x]');
    expect(render(`'[' + ${content}.strip('\\n').strip('\\t ') + ']'`)).toBe('[x]');
    expect(render(`'[' + ${content}.strip() + ']'`)).toBe('[x]');
    expect(render(`'🦙🦙a🦙'.strip('🦙')`)).toBe('a');
    const macro = `{% macro f(x) %}{{ x.strip('a') }}{% endmacro %}{{ f('aba') }}`;
    expect(chatTemplate(macro).render([])).toBe('b');
  });

  test('line ends of Windows are newlines', () => {
    const template = chatTemplate(
      '{% if true %}\r\n{% generation %}\r\na{% endgeneration %}\r\n{% endif %}\r\nb\r\n',
    );
    expect(template.hasGenerationTags).toBe(true);
    expect(template.render([])).toBe('ab');
  });
});

describe('an empty thought of the template', () => {
  const thinking = (opening: string): ChatTemplate =>
    chatTemplate(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' and '<think>' not in m.content %}" +
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{{ m.content + '<|im_end|>\\n' }}{% endfor %}" +
        `{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n${opening}' }}{% endif %}`,
    );

  test.each([
    ['', 'b<|im_end|>', '<think>\n\n</think>\n\nb<|im_end|>'],
    ['<think>\\n', 'b<|im_end|>', '\n</think>\n\nb<|im_end|>'],
    ['<think>\\n\\n</think>\\n\\n', 'b<|im_end|>', 'b<|im_end|>'],
  ])('is not trained unless the data has it (prompt ends with %j)', (opening, without, given) => {
    expect(spans(thinking(opening), [user('a'), assistant('b')])).toEqual([without]);
    const answer = assistant('<think>\n\n</think>\n\nb');
    expect(spans(thinking(opening), [user('a'), answer])).toEqual([given]);
  });
});

describe('tokenWeights', () => {
  test('a token counts when it overlaps a span; empty tokens never do', () => {
    const offsets = Uint32Array.from([0, 0, 0, 2, 2, 4, 4, 6, 6, 6, 6, 8]);
    const one = tokenWeights('abcdefgh', offsets, [{ start: 3, end: 5, weight: 1 }]);
    expect(Array.from(one)).toEqual([0, 0, 1, 1, 0, 0]);
    const exact = tokenWeights('abcdefgh', offsets, [{ start: 2, end: 6, weight: 2 }]);
    expect(Array.from(exact)).toEqual([0, 0, 2, 2, 0, 0]);
  });

  test('spans in UTF-16 units, offsets in code points', () => {
    const text = '🦙🦙ab🦙';
    const offsets = Uint32Array.from([0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 4, 5]);
    const weights = tokenWeights(text, offsets, [
      { start: 2, end: 4, weight: 1 },
      { start: text.indexOf('b'), end: text.length, weight: 0.5 },
    ]);
    expect(Array.from(weights)).toEqual([0, 1, 0, 0.5, 0.5, 0.5]);
  });
});
