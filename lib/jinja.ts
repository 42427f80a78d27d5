// @huggingface/jinja, brought closer to what Transformers makes of a chat template: `{% generation %}` and
// the arguments of strip(), both of which it drops without a word, and line ends of Windows.
import { Template } from '@huggingface/jinja';
import { LowrankError } from './errors.js';

// Noncharacters: Unicode keeps them out of text for good, so they can stand for marks of our own.
export const SPAN_START = '\ufdd0';
export const SPAN_END = '\ufdd1';

export interface CompiledTemplate {
  /** Text with SPAN_START and SPAN_END around what the template marks as generated. */
  render(variables: Record<string, unknown>): string;
  hasGenerationTags: boolean;
}

export function compileTemplate(source: string, where: string): CompiledTemplate {
  // Jinja reads every line end as a newline. With a following `{%-` jinja.js would also lose the newline before a generation tag. As `if` blocks
  // that print a mark on each side the tags keep their whitespace control.
  const unix = source.replace(/\r\n?/g, '\n');
  const opened = unix.replace(
    /{%([-+]?)\s*generation\s*([-+]?)%}/g,
    (_, a: string, b: string) => `{%${a} if true %}{{ "${SPAN_START}" }}{% if true ${b}%}`,
  );
  const rewritten = opened.replace(
    /{%([-+]?)\s*endgeneration\s*([-+]?)%}/g,
    (_, a: string, b: string) => `{%${a} endif %}{{ "${SPAN_END}" }}{% endif ${b}%}`,
  );
  let template: Template;
  try {
    template = new Template(rewritten);
  } catch (cause) {
    throw new LowrankError(
      'ERR_LOWRANK_INVALID_FILE',
      `not a usable chat template: ${cause instanceof Error ? cause.message : String(cause)}`,
      { where, hint: 'Give a template of your own with --chat-template FILE.', cause },
    );
  }
  replaceStripCalls(template.parsed);
  return {
    render: (variables) => template.render({ ...STRIP_FUNCTIONS, ...variables }),
    hasGenerationTags: opened !== unix,
  };
}

const STRIP_FUNCTIONS = {
  lowrank_strip: (text: string, characters: string) => strip(text, characters, true, true),
  lowrank_lstrip: (text: string, characters: string) => strip(text, characters, true, false),
  lowrank_rstrip: (text: string, characters: string) => strip(text, characters, false, true),
};

// Python's str.strip(characters): any of the characters, as often as they come.
function strip(text: string, characters: string, left: boolean, right: boolean): string {
  const set = new Set(characters);
  const points = Array.from(text);
  let start = 0;
  let end = points.length;
  while (left && start < end && set.has(points[start]!)) start++;
  while (right && end > start && set.has(points[end - 1]!)) end--;
  return points.slice(start, end).join('');
}

interface Node {
  type?: string;
  value?: unknown;
  callee?: Node & { object?: Node; property?: Node; computed?: boolean };
  args?: Node[];
}

// text.strip(x) becomes lowrank_strip(text, x); without an argument the library's own is right.
function replaceStripCalls(node: unknown): void {
  if (typeof node !== 'object' || node === null) return;
  for (const child of Object.values(node)) replaceStripCalls(child);
  const { type, callee, args } = node as Node;
  if (type !== 'CallExpression' || callee?.type !== 'MemberExpression' || callee.computed) return;
  const { object, property } = callee;
  const name = `lowrank_${String(property?.value)}`;
  if (!object || !property || args?.length !== 1 || !(name in STRIP_FUNCTIONS)) return;
  property.value = name;
  (node as Node).callee = property;
  (node as Node).args = [object, ...args];
}
