import { describe, expect, it } from 'vitest';

import { StopStrings } from '../../lib/generate.js';

function stream(pieces: string[], stops: string[]) {
  const filter = new StopStrings(stops);
  const out = pieces.map((piece) => filter.push(piece));
  return { out, rest: filter.end(), found: filter.found };
}

describe('StopStrings', () => {
  it('lets everything through at once without stop strings', () => {
    expect(stream(['a', 'b'], [])).toEqual({ out: ['a', 'b'], rest: '', found: false });
  });

  it('holds back what may begin a stop string, across pieces', () => {
    const { out, rest, found } = stream(['one\n', '\nUs', 'er: two'], ['\n\nUser:']);
    expect([out, rest, found]).toEqual([['one', '', ''], '', true]);
  });

  it('releases what turned out not to be one', () => {
    expect(stream(['ab', 'x'], ['abc'])).toEqual({ out: ['', 'abx'], rest: '', found: false });
    expect(stream(['ab'], ['abc'])).toEqual({ out: [''], rest: 'ab', found: false });
  });

  it('keeps the longest possible beginning when it overlaps itself', () => {
    expect(stream(['aa', 'ab'], ['aab'])).toEqual({ out: ['', 'a'], rest: '', found: true });
  });

  it('takes the first of several', () => {
    expect(stream(['xyzw'], ['zw', 'y'])).toEqual({ out: ['x'], rest: '', found: true });
  });

  it('ignores an empty stop string', () => {
    expect(stream(['a'], [''])).toEqual({ out: ['a'], rest: '', found: false });
  });
});
