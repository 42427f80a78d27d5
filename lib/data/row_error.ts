// What is wrong with a row, in words; shared by the parsers of rows.

/** What is wrong with a row, and what to do. */
export class RowError extends Error {}

export type Fields = Record<string, unknown>;

export function parseJson(text: string, what: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new RowError(
      `${what} holds a string that is not valid JSON: ${(cause as Error).message}.`,
    );
  }
}

// U+FDD0 to U+FDEF never occur in text; the mask is found with them as marks.
export function checkText(text: string, at: string): void {
  const found = /[\ufdd0-\ufdef]/.exec(text);
  if (!found) return;
  const code = found[0].charCodeAt(0).toString(16).toUpperCase();
  throw new RowError(`${at} contains U+${code}, which is not a character of text. Remove it.`);
}

export function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object') return `an object with the keys ${quoteAll(Object.keys(value))}`;
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

export function quoteAll(keys: readonly string[]): string {
  const shown = keys.slice(0, 8).map((key) => `"${key}"`);
  return (shown.join(', ') || '(none)') + (keys.length > 8 ? ', ...' : '');
}
