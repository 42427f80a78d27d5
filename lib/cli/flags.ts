// Command-line flags from an option schema: one table, so that flags, config files, the API and the
// JSON schema never differ. Defaults stay in the schema; commander only collects what was given.

import { Option, type Command } from 'commander';
import type { z } from 'zod';

import { LowrankError } from '../errors.js';

type Shape = Record<string, z.ZodType>;

interface Flag {
  kind: 'boolean' | 'number' | 'string' | 'list' | 'json';
  choices?: readonly string[];
  default?: unknown;
}

export const kebab = (name: string) => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
export const camel = (name: string) =>
  name.replace(/[-_]+(\w)/g, (_, c: string) => c.toUpperCase());

/* eslint-disable-next-line @typescript-eslint/no-explicit-any -- zod's own introspection is untyped */
type Definition = { def: any };

function describeSchema(schema: z.ZodType): Flag {
  let { def } = schema as unknown as Definition;
  let fallback: unknown;
  while (def.type === 'default' || def.type === 'optional') {
    if (def.type === 'default') fallback = def.defaultValue;
    def = def.innerType.def;
  }
  const flag = { default: fallback };
  switch (def.type) {
    case 'boolean':
      return { ...flag, kind: 'boolean' };
    case 'number':
      return { ...flag, kind: 'number' };
    case 'array':
      return { ...flag, kind: 'list' };
    case 'record':
      return { ...flag, kind: 'json' };
    case 'enum':
      return {
        ...flag,
        kind: 'string',
        choices: Object.values(def.entries as Record<string, string>),
      };
    default:
      return { ...flag, kind: 'string' };
  }
}

function parseNumber(flag: string) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() === '' || Number.isNaN(value))
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', `'${text}' is not a number`, {
        where: flag,
      });
    return value;
  };
}

function parseJson(flag: string) {
  return (text: string): unknown => {
    try {
      return JSON.parse(text);
    } catch (cause) {
      throw new LowrankError(
        'ERR_LOWRANK_INVALID_ARGUMENT',
        `not JSON: ${(cause as Error).message}`,
        {
          where: flag,
          hint: `for example ${flag} '{"q_proj": 8}'`,
        },
      );
    }
  };
}

/** Adds one flag per key of the shape. */
export function addFlags(command: Command, shape: Shape): Command {
  for (const [key, schema] of Object.entries(shape)) {
    const flag = describeSchema(schema);
    const name = `--${kebab(key)}`;
    const shown =
      flag.default === undefined || flag.kind === 'json' || flag.kind === 'list'
        ? ''
        : ` (default: ${String(flag.default)})`;
    const text = `${schema.description ?? ''}${shown}`;
    if (flag.kind === 'boolean') {
      command.addOption(new Option(name, text));
      command.addOption(
        new Option(`--no-${kebab(key)}`, `turn ${name} off`).hideHelp(flag.default !== true),
      );
      // commander makes --no-x imply x = true when it isn't given; only what was given counts here.
      command.setOptionValue(key, undefined);
      continue;
    }
    const option = new Option(
      `${name} <${flag.kind === 'number' ? 'n' : flag.kind === 'json' ? 'json' : 'value'}>`,
      text,
    );
    if (flag.choices) option.choices(flag.choices);
    else if (flag.kind === 'number') option.argParser(parseNumber(name));
    else if (flag.kind === 'json') option.argParser(parseJson(name));
    else if (flag.kind === 'list')
      option.argParser((value: string) => value.split(',').map((item) => item.trim()));
    command.addOption(option);
  }
  return command;
}

/** Validates merged values; every problem is one line naming its flag. */
export function parseOptions<S extends z.ZodType>(
  schema: S,
  values: Record<string, unknown>,
  place: (key: string) => string,
): z.output<S> {
  const result = schema.safeParse(values);
  if (result.success) return result.data;
  const lines = result.error.issues.map((issue) => {
    const key = String(issue.path[0] ?? '');
    const missing = issue.code === 'invalid_type' && values[key] === undefined;
    return `${place(key)}: ${missing ? 'is required' : issue.message}`;
  });
  throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', lines.join('\n'), {
    hint: 'run the command with --help to see what it takes',
  });
}
