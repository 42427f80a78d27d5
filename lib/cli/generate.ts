// `lowrank generate`: the answer goes to standard output as it comes.

import type { Command } from 'commander';
import { z } from 'zod';

import type { Prompt } from '../generate.js';
import { addFlags, kebab, parseOptions } from './flags.js';
import { modelShape, withModel } from './with_model.js';

const shape = {
  ...modelShape,
  prompt: z.string().optional().describe('the prompt; default: standard input'),
  system: z.string().optional().describe('system message'),
  raw: z
    .boolean()
    .default(false)
    .describe('continue the prompt as text, without the chat template'),
  maxNewTokens: z.number().int().positive().default(256).describe('longest answer in tokens'),
  temperature: z.number().nonnegative().default(0).describe('0 = always the most likely token'),
  topK: z
    .number()
    .int()
    .nonnegative()
    .default(0)
    .describe('only the k most likely tokens; 0 = all'),
  topP: z
    .number()
    .positive()
    .max(1)
    .default(1)
    .describe('only the tokens that together have this probability'),
  seed: z.number().int().nonnegative().default(0).describe('of the sampling'),
  stop: z.array(z.string()).default([]).describe('texts that end the answer, separated by commas'),
};
const schema = z.strictObject(shape);

async function readStandardInput(): Promise<string> {
  let text = '';
  for await (const chunk of process.stdin.setEncoding('utf8')) text += chunk;
  return text.replace(/\n$/, '');
}

export function addGenerate(program: Command): void {
  const command = program
    .command('generate')
    .description('Answer a prompt, with or without an adapter.');
  addFlags(command, shape).action(async () => {
    const options = parseOptions(schema, command.opts(), (key) => `--${kebab(key)}`);
    await withModel(options, async ({ model, adapter, signal }) => {
      const text = options.prompt ?? (await readStandardInput());
      const chat = !options.raw && (await model.chatTemplate()) !== undefined;
      const system =
        options.system === undefined ? [] : [{ role: 'system', content: options.system }];
      const prompt: Prompt = chat ? [...system, { role: 'user', content: text }] : text;
      const { maxNewTokens, temperature, topK, topP, seed } = options;
      const generation = model.generate(prompt, {
        maxNewTokens,
        temperature,
        topK,
        topP,
        seed,
        stop: options.stop,
        signal,
        adapter,
      });
      for await (const piece of generation) process.stdout.write(piece);
      process.stdout.write('\n');
    });
  });
}
