// From spans of a text to weights of its tokens.

/**
 * The loss weight of each token (0 = not trained) from spans of the text. A token counts when it
 * overlaps a span, as in Transformers: a tokenizer may join the space before an answer with its first word.
 * `offsets` are in code points.
 */
export function tokenWeights(
  text: string,
  offsets: Uint32Array,
  spans: readonly { start: number; end: number; weight: number }[],
): Float32Array {
  const weights = new Float32Array(offsets.length / 2);
  const bounds = toCodePoints(text, spans);
  let token = 0;
  for (const { start, end, weight } of bounds) {
    while (token > 0 && offsets[2 * token - 1]! > start) token--; // spans may share a token
    for (; token < weights.length && offsets[2 * token]! < end; token++) {
      const from = offsets[2 * token]!;
      const to = offsets[2 * token + 1]!;
      if (to > from && to > start) weights[token] = weight;
    }
  }
  return weights;
}

function toCodePoints<T extends { start: number; end: number }>(
  text: string,
  spans: readonly T[],
): T[] {
  if (!/[\ud800-\udbff]/.test(text)) return [...spans];
  let unit = 0;
  let point = 0;
  const advance = (to: number): number => {
    for (; unit < to; point++) unit += text.codePointAt(unit)! > 0xffff ? 2 : 1;
    return point;
  };
  return spans.map((span) => ({ ...span, start: advance(span.start), end: advance(span.end) }));
}
