import { setImmediate as tick } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { checkBatchOptions } from '../../lib/data/options.js';
import { identity } from '../../lib/data/order.js';
import { boundBatches, planBatches } from '../../lib/data/plan.js';
import { atOnce, inTurns, Pause, PIECE, type Pieces } from '../../lib/pause.js';

describe('pauses', () => {
  test('several at once take turns: one per turn of the event loop', async () => {
    const log: string[] = [];
    let running = 3;
    const work = async (name: string): Promise<void> => {
      const pause = new Pause();
      for (let i = 0; i < 4; i++) {
        await pause.turn();
        log.push(name);
      }
      running--;
    };
    const ticker = async (): Promise<void> => {
      while (running > 0) {
        await tick();
        log.push('|');
      }
    };
    await Promise.all([ticker(), work('a'), work('b'), work('c')]);
    const perTurn = log.join('').split('|');
    expect(perTurn.every((names) => names.length <= 1)).toBe(true);
    expect(perTurn.join('')).toBe('abc'.repeat(4));
  });

  test('an aborted signal stops the work', async () => {
    const controller = new AbortController();
    function* endless(): Pieces<never> {
      for (let i = 0; ; i++) {
        if (i === 10) controller.abort();
        yield;
      }
    }
    await expect(inTurns(endless(), controller.signal)).rejects.toMatchObject({
      code: 'ERR_LOWRANK_ABORTED',
    });
  });
});

describe('planning in pieces', () => {
  const count = 30 * PIECE;
  const sizes = {
    length: (i: number) => 2 + ((i * 7919) % 500),
    labelTokens: (i: number) => 1 + (i % 3),
  };

  test.each([{}, { packing: true }, { groupByLength: true }, { maxTokens: 900 }])(
    '%j: pauses after a few thousand examples, and plans the same',
    async (variant) => {
      const options = checkBatchOptions({ shuffle: true, perDeviceBatchSize: 4, ...variant });
      for (const work of [planBatches, boundBatches]) {
        const pieces = work(identity(count), sizes, options, 512);
        let yields = 0;
        let step = pieces.next();
        for (; !step.done; step = pieces.next()) yields++;
        expect(yields).toBeGreaterThanOrEqual(count / PIECE);
        expect(await inTurns<unknown>(work(identity(count), sizes, options, 512))).toEqual(
          step.value,
        );
        expect(atOnce<unknown>(work(identity(count), sizes, options, 512))).toEqual(step.value);
      }
    },
  );
});
