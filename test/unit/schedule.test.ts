import { describe, expect, test } from 'vitest';

import { createSchedule, resolveSteps } from '../../lib/train/schedule.js';

// Expected values were computed with transformers' get_scheduler (5.18): learning rate 1, 10 steps,
// 2 warmup steps, as seen by optimizer steps 1 to 10. test/golden/schedule_fixture.py remakes them.
import golden from '../golden/schedules.json' with { type: 'json' };

describe('schedules follow transformers', () => {
  for (const [name, { options, rates }] of Object.entries(golden.cases)) {
    test(`${name}`, () => {
      const rate = createSchedule(options as Parameters<typeof createSchedule>[0]);
      rates.forEach((expected, i) => expect(rate(i + 1)).toBeCloseTo(expected, 10));
    });
  }
});

test('a warmup below 1 is a share of all steps, rounded up', () => {
  expect(resolveSteps(0.15, 10)).toBe(2);
  expect(resolveSteps(3, 10)).toBe(3);
  expect(resolveSteps(0, 10)).toBe(0);
});
