// The pretraining corpus of the example base model: invented stories, notes, reading questions and
// shop conversations, written by rules from one seed. It never shows the tickets of the example data
// set: the base model knows the world and how to chat, not the task.

import {
  CITIES,
  COLOURS,
  DAYS,
  FIRST_NAMES,
  ITEMS,
  createCase,
  createRandom,
  orderNumber,
  sentence,
} from '../support/world.mjs';

// prettier-ignore
const REPLIES = {
  damaged: ['I am sorry that the {item} did not reach you in one piece.', 'That is not how the {item} should arrive.',
    'I am sorry about the broken {item}.'],
  late: ['I am sorry that you are still waiting for the {item}.', 'The {item} should have reached you by now.',
    'I have asked the carrier where the {item} is.'],
  wrong: ['I am sorry that we packed the wrong thing.', 'It looks like somebody mixed up the {item} in our store.',
    'That is our mistake, you should have got the {item}.'],
  billing: ['I have looked at the bill for the {item}.', 'I am sorry about the trouble with the bill for the {item}.',
    'The payment for the {item} should not look like that.'],
  defect: ['I am sorry that the {item} does not do its work.', 'A {item} should last much longer than that.',
    'I am sorry about the trouble with the {item}.'],
};
// prettier-ignore
const PROMISES = {
  refund: ['You will get the money for order {order} back within five days.', 'I have sent the money for {order} back to you.',
    'We refund order {order} today.'],
  replacement: ['A new {item} for order {order} leaves our store tomorrow.', 'I have sent you another {item} under {order}.',
    'We replace it and keep the number {order}.'],
  repair: ['Please send it to us with the number {order} and we will repair it.', 'Our workshop will fix the {item} of order {order}.',
    'We will repair it, please write {order} on the box.'],
  information: ['I will look into order {order} and write to you on {day}.', 'I have asked about {order} and will tell you more on {day}.',
    'You will hear from me about {order} by {day}.'],
};
// prettier-ignore
const SYSTEMS = ['You are a friendly assistant.', 'You answer letters to a shop.', 'You are a helpful assistant.',
  'You work for the Harbour & Pine shop.', 'Answer in full sentences.', 'Answer in a few words.'];
const PLACES = [
  'market',
  'harbour',
  'station',
  'library',
  'bakery',
  'workshop',
  'garden',
  'museum',
  'school',
  'park',
];
const FEELINGS = ['happy', 'tired', 'proud', 'surprised', 'calm', 'hungry', 'curious'];
// prettier-ignore
const WEATHER = ['It was raining.', 'The sun was shining.', 'It was cold and windy.', 'Snow lay on the roofs.', 'Fog came up from the sea.'];

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, key) => values[key]);

/** A customer's letter and a reply in prose that repeats what matters in it. */
function letter(random) {
  const told = createCase(random);
  const name = told.name.split(' ')[0];
  const reply = [
    random.chance(0.6) ? `Dear ${name},` : 'Hello,',
    fill(random.pick(REPLIES[told.problem]), told),
    fill(random.pick(PROMISES[told.wish]), told),
    told.urgency === 'high' ? 'I know that it is urgent.' : '',
    random.chance(0.3) ? 'Thank you for your patience.' : '',
  ]
    .filter(Boolean)
    .join(' ');
  return chat(random, told.message, reply);
}

function chat(random, question, answer) {
  const messages = [
    { role: 'user', content: question },
    { role: 'assistant', content: answer },
  ];
  if (random.chance(0.6)) messages.unshift({ role: 'system', content: random.pick(SYSTEMS) });
  return { messages };
}

/** A question about a letter or a note, answered with words that stand in it. */
function reading(random) {
  const told = createCase(random);
  const [question, answer] = random.pick([
    ['What is the order number?', told.order],
    ['Which item and which order?', `${told.item}, ${told.order}`],
    ['Which order and which item?', `Order ${told.order}, ${told.item}.`],
    ['Which order is it about?', `It is about order ${told.order}.`],
    ['What thing is it about?', `It is about a ${told.item}.`],
    ['Which item does the customer write about?', told.item],
    [
      'Is it urgent?',
      told.urgency === 'high'
        ? 'Yes, it is urgent.'
        : told.urgency === 'low'
          ? 'No, there is no hurry.'
          : 'The customer does not say.',
    ],
    [
      'What does the customer want?',
      {
        refund: 'The customer wants the money back.',
        replacement: 'The customer wants a new one.',
        repair: 'The customer wants a repair.',
        information: 'The customer wants to know more.',
      }[told.wish],
    ],
    [
      'What is wrong?',
      {
        damaged: 'It arrived damaged.',
        late: 'It is late.',
        wrong: 'It is the wrong thing.',
        billing: 'There is a mistake in the bill.',
        defect: 'It does not work.',
      }[told.problem],
    ],
  ]);
  return chat(random, `${told.message}\n${question}`, answer);
}

/** Lines of `name: value` and a question about one of them, or the other way round. */
function notes(random) {
  const fields = random
    .shuffle([
      ['name', random.pick(FIRST_NAMES)],
      ['city', random.pick(CITIES)],
      ['order', orderNumber(random)],
      ['colour', random.pick(COLOURS)],
      ['item', random.pick(ITEMS)],
      ['day', random.pick(DAYS)],
      ['number', String(random.below(1000))],
    ])
    .slice(0, 3 + random.below(3));
  if (!fields.some(([key]) => key === 'order'))
    fields[random.below(fields.length)] = ['order', orderNumber(random)];
  const list = fields.map(([key, value]) => `${key}: ${value}`).join('\n');
  const prose = fields.map(([key, value]) => `the ${key} is ${value}`).join(', ');
  const [key, value] = random.pick(fields);
  switch (random.below(6)) {
    case 0:
      return chat(random, `${list}\nWhat is the ${key}?`, `The ${key} is ${value}.`);
    case 1:
      return chat(random, `${sentence(prose)}. What is the ${key}?`, value);
    case 2:
    case 3:
      return chat(random, `Write this as a list: ${prose}.`, list);
    default:
      return { text: `${list}\n\n${sentence(prose)}.` };
  }
}

/** Things without rhyme or reason, said again: nothing teaches copying faster. */
function repeat(random) {
  const things = Array.from({ length: 3 + random.below(6) }, () =>
    random.pick([
      orderNumber(random),
      orderNumber(random),
      random.pick(ITEMS),
      random.pick(FIRST_NAMES),
      random.pick(CITIES),
      String(random.below(100_000)),
    ]),
  ).join(', ');
  if (random.chance(0.5)) return { text: `${things}\n${things}` };
  return chat(random, `Say it again: ${things}`, things);
}

function story(random) {
  const hero = random.pick(FIRST_NAMES);
  let other = random.pick(FIRST_NAMES);
  while (other === hero) other = random.pick(FIRST_NAMES);
  const item = random.pick(ITEMS);
  const colour = random.pick(COLOURS);
  const place = random.pick(PLACES);
  const day = random.pick(DAYS);
  const city = random.pick(CITIES);
  const lines = [
    `On ${day} ${hero} went to the ${place} in ${city}.`,
    random.pick(WEATHER),
    `${hero} was looking for a ${colour} ${item}.`,
    `At the ${place} ${hero} met ${other}, ${random.pick(['an old friend', 'a neighbour', 'a cousin', 'an aunt', 'a teacher'])} of the family.`,
    `"Do you know where I can find a ${item}?" asked ${hero}.`,
    random.chance(0.5)
      ? `"I have a ${item} at home that I do not need," said ${other}. "You can have it."`
      : `"There is a shop in ${random.pick(CITIES)} that sells them," said ${other}. "Ask for the ${colour} one."`,
    `${hero} was ${random.pick(FEELINGS)} and thanked ${other}.`,
    `In the evening the ${colour} ${item} stood in ${hero}'s ${random.pick(['kitchen', 'hall', 'room', 'garden'])}.`,
    `${other} was ${random.pick(FEELINGS)} too.`,
  ].filter((_, i) => i < 3 || random.chance(0.8));
  const text = lines.join(' ');
  if (random.chance(0.4)) {
    const [question, answer] = random.pick([
      ['Who went to the ' + place + '?', hero],
      ['What was the story about?', `It was about a ${colour} ${item}.`],
      ['Where does it happen?', `It happens in ${city}.`],
      ['On which day was it?', `It was on ${day}.`],
    ]);
    return chat(random, `${text}\n${question}`, answer);
  }
  return random.chance(0.5)
    ? { text }
    : chat(random, `Tell me a story about a ${item} in ${city}.`, text);
}

/**
 * Endless documents: `{text}` or `{messages}`. With `repeats`, a tenth of them are things said again.
 */
export function* corpus(seed, { repeats = false } = {}) {
  const random = createRandom(seed);
  const [readings, allNotes] = repeats ? [4, 8] : [5, 9];
  for (;;) {
    const kind = random.below(10);
    if (kind < 2) yield letter(random);
    else if (kind < readings) yield reading(random);
    else if (kind < allNotes) yield notes(random);
    else if (repeats && kind < 9) yield repeat(random);
    else yield story(random);
  }
}
