// Options checked against a schema; the first problem becomes a LowrankError that names its key.
import type { z } from 'zod';

import { LowrankError } from './errors.js';

export function parseOptions<S extends z.ZodType>(
  schema: S,
  value: unknown,
  name: string,
): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue, ...others] = result.error.issues;
  const place = [name, ...(issue?.path ?? []).map(String)].join('.');
  throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', issue?.message ?? 'not valid', {
    where: place,
    hint: others.length > 0 ? `and ${others.length} more` : undefined,
  });
}
