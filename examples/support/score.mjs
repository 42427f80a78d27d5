// Scores an answer against the ticket that was wanted, field by field.

export const FIELDS = ['order', 'item', 'problem', 'wish', 'urgency'];

/** The `name: value` lines of a text; the first one of a name counts. */
export function parseTicket(text) {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const line of text.split('\n')) {
    const at = line.indexOf(': ');
    if (at > 0) fields[line.slice(0, at)] ??= line.slice(at + 2);
  }
  return fields;
}

/** `fields`: how many of the five are exactly right; `whole`: the text is the ticket and no more. */
export function scoreAnswer(wanted, answer) {
  const expected = parseTicket(wanted);
  const found = parseTicket(answer);
  return {
    fields: FIELDS.filter((name) => found[name] === expected[name]).length,
    whole: answer.trim() === wanted,
  };
}

/** Shares between 0 and 1 over pairs of [wanted, answer]. */
export function scoreAnswers(pairs) {
  const scores = pairs.map(([wanted, answer]) => scoreAnswer(wanted, answer));
  return {
    fields: scores.reduce((sum, s) => sum + s.fields, 0) / (FIELDS.length * scores.length),
    whole: scores.filter((s) => s.whole).length / scores.length,
  };
}
