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
const ABOUT = [
  'Thank you for writing about order {order}.',
  'I have found order {order}.',
  'This is about order {order}, the {item}.',
];
const LAST_WORDS = [
  'Thank you for your patience.',
  'Please keep the number {order}.',
  'If you write again, please name {order}.',
];
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
const WEATHER = ['It was raining.', 'The sun was shining.', 'It was cold and windy.', 'Snow lay on the roofs.', 'Fog came up from the sea.',
  'The tide was high.', 'The tide was low.', 'It was a normal day.'];

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, key) => values[key]);

/** A customer's letter and a reply in prose that repeats what matters in it. */
function letter(random) {
  const told = createCase(random);
  const name = told.name.split(' ')[0];
  const reply = [
    random.chance(0.6) ? `Dear ${name},` : 'Hello,',
    random.chance(0.5) ? fill(random.pick(ABOUT), told) : '',
    fill(random.pick(REPLIES[told.problem]), told),
    fill(random.pick(PROMISES[told.wish]), told),
    told.urgency === 'high' ? 'I know that it is urgent.' : '',
    random.chance(0.3) ? fill(random.pick(LAST_WORDS), told) : '',
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

const WISHES = {
  refund: 'The customer wants the money back.',
  replacement: 'The customer wants a new one.',
  repair: 'The customer wants a repair.',
  information: 'The customer wants to know more.',
};
const TROUBLES = {
  damaged: 'It arrived damaged.',
  late: 'It is late.',
  wrong: 'It is the wrong thing.',
  billing: 'There is a mistake in the bill.',
  defect: 'It does not work.',
};
const HURRY = {
  high: 'Yes, it is urgent.',
  normal: 'The customer does not say.',
  low: 'No, there is no hurry.',
};

/** A letter and some questions about it, answered with words that stand in it. */
function reading(random) {
  const { message, order, item, problem, wish, urgency } = createCase(random);
  const asked = random
    .shuffle([
      random.pick([
        ['What is the order number?', order],
        ['Which order is it about?', `It is about order ${order}.`],
        ['Which item and which order?', `${item}, ${order}`],
        ['Which order and which item?', `Order ${order}, ${item}.`],
        ['Say the number again.', `${order}, ${order}`],
      ]),
      random.pick([
        ['What thing is it about?', `It is about a ${item}.`],
        ['Which item does the customer write about?', item],
      ]),
      ['Is it urgent?', HURRY[urgency]],
      ['What does the customer want?', WISHES[wish]],
      ['What is wrong?', TROUBLES[problem]],
    ])
    .slice(0, 2 + random.below(3));
  const [[question, answer], ...more] = asked;
  const document = chat(random, `${message}\n${question}`, answer);
  for (const [next, reply] of more)
    document.messages.push({ role: 'user', content: next }, { role: 'assistant', content: reply });
  return document;
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

/** Things without rhyme or reason, said again and again: nothing teaches copying faster. */
function repeat(random) {
  const things = random.shuffle([
    orderNumber(random),
    ...Array.from({ length: random.below(4) }, () =>
      random.pick([random.pick(ITEMS), random.pick(FIRST_NAMES), random.pick(CITIES)]),
    ),
  ]);
  const again = () => random.shuffle(things).join(random.pick([', ', '\n', ' and ']));
  if (random.chance(0.5)) return { text: Array.from({ length: 4 }, again).join('\n') };
  const said = things.join(', ');
  return chat(random, `Say it again: ${said}`, `${said}\n${said}`);
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

/** Endless documents: `{text}` or `{messages}`. */
export function* corpus(seed) {
  const random = createRandom(seed);
  for (;;) {
    const kind = random.below(10);
    if (kind < 2) yield letter(random);
    else if (kind < 5) yield reading(random);
    else if (kind < 6) yield notes(random);
    else if (kind < 9) yield repeat(random);
    else yield story(random);
  }
}
