// Writes the example data set: customer messages to Harbour & Pine, each answered with the ticket that
// the shop's desk would open. The answers can be scored field by field.
//
//   node examples/support/make_chats.mjs [rows] > examples/support/chats.jsonl

import { createCase, createRandom } from './world.mjs';

export const SYSTEM = 'You open tickets for the Harbour & Pine shop.';

export const PROBLEM_NAMES = {
  damaged: 'damaged item',
  late: 'late delivery',
  wrong: 'wrong item',
  billing: 'billing',
  defect: 'defect',
};

/** The ticket for a case, one field per line. */
export function ticket({ order, item, problem, wish, urgency }) {
  return [
    `order: ${order}`,
    `item: ${item}`,
    `problem: ${PROBLEM_NAMES[problem]}`,
    `wish: ${wish}`,
    `urgency: ${urgency}`,
  ].join('\n');
}

export function makeChats(rows, seed = 20261) {
  const random = createRandom(seed);
  const seen = new Set();
  const chats = [];
  while (chats.length < rows) {
    const told = createCase(random);
    if (seen.has(told.message)) continue;
    seen.add(told.message);
    chats.push({
      messages: [
        { role: 'system', content: SYSTEM },
        { role: 'user', content: told.message },
        { role: 'assistant', content: ticket(told) },
      ],
    });
  }
  return chats;
}

if (process.argv[1] && import.meta.url.endsWith(process.argv[1].split('/').pop())) {
  const rows = Number(process.argv[2] ?? 600);
  for (const chat of makeChats(rows)) process.stdout.write(JSON.stringify(chat) + '\n');
}
