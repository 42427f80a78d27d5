// The little world of the example: a mail-order shop called Harbour & Pine, its customers, its goods
// and what goes wrong. Everything is invented here; the same seed always tells the same stories.

/** Seeded random numbers (mulberry32) with the few draws the stories need. */
export function createRandom(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return {
    chance: (p) => next() < p,
    below: (n) => Math.floor(next() * n),
    pick: (list) => list[Math.floor(next() * list.length)],
    shuffle(list) {
      const out = [...list];
      for (let i = out.length - 1; i > 0; i--) {
        const j = Math.floor(next() * (i + 1));
        [out[i], out[j]] = [out[j], out[i]];
      }
      return out;
    },
  };
}

// prettier-ignore
export const FIRST_NAMES =
  'Mara Jonas Edith Tomas Lena Oscar Priya Nadia Hugo Iris Pavel Amina Felix Greta Omar Clara Victor Sofia Emil Ruth Adam Hana Leo Marta Simon Yara Peter Nina Karl Dora Ivan Elsa Noah Tilda Bruno Anna Milo Vera Anton Freya'.split(
    ' ',
  );
export const LAST_NAMES =
  'Lind Berger Novak Haas Moreau Okafor Silva Keller Rossi Dahl Patel Fischer Jensen Kovac Weber Lopez Brandt Nilsen Costa Meyer Adler Braun Petrov Sato Walsh Hart Vogel Larsen Romano Stone'.split(
    ' ',
  );
// prettier-ignore
export const ITEMS = [
  'desk lamp', 'wool blanket', 'kettle', 'oak chair', 'rain jacket', 'backpack', 'coffee grinder', 'wall clock',
  'cast iron pan', 'linen shirt', 'garden hose', 'bookshelf', 'tea set', 'hiking boots', 'floor rug', 'bread knife',
  'picture frame', 'camping stove', 'bath towel', 'toolbox', 'reading chair', 'travel mug', 'bedside table', 'wool scarf',
  'mixing bowl', 'folding table', 'winter gloves', 'radio', 'plant pot', 'sleeping bag',
];
export const COLOURS = ['blue', 'green', 'grey', 'white', 'black', 'red', 'brown', 'yellow'];
export const DAYS = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'];
export const CITIES = [
  'Bergen',
  'Lyon',
  'Porto',
  'Graz',
  'Leeds',
  'Turku',
  'Ghent',
  'Malmo',
  'Basel',
  'Gdansk',
];

// Each kind of trouble: how customers put it. {item}, {order}, {day}, {colour}, {other} are filled in.
// prettier-ignore
export const PROBLEMS = {
  damaged: [
    'the {item} arrived broken', 'my {item} came with a crack in it', 'the {item} was damaged when I opened the box',
    'there is a deep scratch on the {item}', 'the {item} fell apart on the first day', 'one side of the {item} is bent',
    'the box was crushed and the {item} is broken', 'the {item} has a hole in it',
  ],
  late: [
    'the {item} has not arrived yet', 'I am still waiting for my {item}', 'my {item} should have been here on {day}',
    'the parcel with the {item} is more than a week late', 'nothing has come and I ordered the {item} two weeks ago',
    'the tracking page for my {item} has not moved since {day}', 'where is my {item}',
  ],
  wrong: [
    'I got a {other} instead of the {item}', 'you sent me the wrong {item}', 'I ordered a {colour} {item} and got another colour',
    'this is not the {item} that I ordered', 'the {item} is the wrong size', 'somebody packed a {other}, not my {item}',
  ],
  billing: [
    'I was charged twice for the {item}', 'the price on my bill for the {item} is wrong', 'you took the money for the {item} two times',
    'my card was charged but the {item} order was cancelled', 'the discount for the {item} is missing on the bill',
  ],
  defect: [
    'the {item} stopped working after two days', 'the {item} does not work at all', 'my {item} makes a strange noise',
    'the {item} worked until {day} and then it just died', 'I cannot get the {item} to work', 'the {item} smells of burning',
  ],
};

// prettier-ignore
export const WISHES = {
  refund: [
    'I want my money back', 'please refund me', 'I would like a refund', 'please send the money back to my card',
    'can I get my money back', 'a refund would be best',
  ],
  replacement: [
    'please send me a new one', 'I would like a replacement', 'can you send another one', 'please replace it',
    'I need you to send the right one', 'could I get a new one',
  ],
  repair: [
    'can it be repaired', 'I would like to have it repaired', 'could you repair it', 'please fix it for me',
    'I would rather have it fixed',
  ],
  information: [
    'can you tell me what is going on', 'please let me know what happens next', 'I would just like to know what happened',
    'could you look into it', 'please tell me what I should do', 'can you check this for me',
  ],
};

// Which wishes make sense for which trouble.
export const SENSIBLE = {
  damaged: ['refund', 'replacement', 'repair'],
  late: ['refund', 'information', 'replacement'],
  wrong: ['refund', 'replacement', 'information'],
  billing: ['refund', 'information'],
  defect: ['refund', 'replacement', 'repair', 'information'],
};

// prettier-ignore
export const URGENT = [
  'It is urgent.', 'I need this solved today.', 'This cannot wait.', 'Please hurry, I need it by {day}.',
  'This is very urgent for me.', 'I need an answer right away.',
];
export const CALM = [
  'There is no hurry.',
  'Take your time.',
  'Whenever you have a moment.',
  'It is not urgent.',
];
// prettier-ignore
export const GREETINGS = ['Hello,', 'Hi,', 'Good morning,', 'Good evening,', 'Dear team,', 'Hi there,', 'Hello Harbour & Pine,', ''];
export const CLOSINGS = [
  'Thank you.',
  'Thanks.',
  'Kind regards, {name}',
  'Best, {name}',
  'Thank you, {name}',
  '{name}',
  '',
];
// prettier-ignore
const ORDER_PHRASES = [
  'My order number is {order}.', 'The order is {order}.', 'Order {order}.', 'It is about order {order}.',
  'This is for order {order}.', 'You can find it under {order}.',
];

export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export function orderNumber(random) {
  const digits = Array.from({ length: 5 }, () => random.below(10)).join('');
  return `HP-${digits}`;
}

/** One customer's trouble: the facts, and how the customer writes them down. */
export function createCase(random) {
  const problem = random.pick(Object.keys(PROBLEMS));
  const wish = random.pick(SENSIBLE[problem]);
  const item = random.pick(ITEMS);
  let other = random.pick(ITEMS);
  while (other === item) other = random.pick(ITEMS);
  const facts = {
    problem,
    wish,
    item,
    other,
    order: orderNumber(random),
    colour: random.pick(COLOURS),
    day: random.pick(DAYS),
    city: random.pick(CITIES),
    name: `${random.pick(FIRST_NAMES)} ${random.pick(LAST_NAMES)}`,
    urgency: random.pick(['high', 'normal', 'normal', 'low']),
  };
  return { ...facts, message: writeMessage(random, facts) };
}

function writeMessage(random, facts) {
  const say = (list) => fill(random.pick(list), facts);
  const trouble = say(PROBLEMS[facts.problem]);
  const wish = say(WISHES[facts.wish]);
  const isQuestion = (text) => /^(can|could|where)\b/.test(text);
  const parts = [`${sentence(trouble)}${isQuestion(trouble) ? '?' : '.'}`];
  parts.push(`${sentence(wish)}${isQuestion(wish) ? '?' : '.'}`);
  const order = say(ORDER_PHRASES);
  if (random.chance(0.5)) parts.unshift(order);
  else parts.splice(1, 0, order);
  if (facts.urgency === 'high') parts.push(say(URGENT));
  if (facts.urgency === 'low') parts.push(say(CALM));
  const text = [say(GREETINGS), ...parts, say(CLOSINGS)].filter(Boolean).join(' ');
  return random.chance(0.15) ? text.toLowerCase().replace(/hp-/g, 'HP-') : text;
}
