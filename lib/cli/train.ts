// `lowrank train`

import { z } from 'zod';
import type { Command } from 'commander';

import { runTraining } from '../train/run.js';
import { commandSchema, commandShape, trainingShape } from '../train/options.js';
import { readConfigFile } from './config_file.js';
import { addFlags, kebab, parseOptions } from './flags.js';
import { createReporter } from './progress.js';
import { stopOnSignals } from './signals.js';

const shape = { ...commandShape, ...trainingShape };

export function addTrain(program: Command): void {
  const command = program
    .command('train')
    .description('Fine-tune a model on a data set.')
    .option('--config <file>', 'take options from a YAML or JSON file; flags win')
    .option('--json', 'print events as JSON lines')
    .option('--print-config-schema', 'print the JSON schema of the config file and exit');
  addFlags(command, shape);
  command.action(async () => {
    const given = command.opts<Record<string, unknown>>();
    if (given['printConfigSchema']) {
      const schema = z.toJSONSchema(commandSchema, { io: 'input' });
      process.stdout.write(JSON.stringify(schema, null, 2) + '\n');
      return;
    }
    await train(given);
  });
}

async function train(given: Record<string, unknown>): Promise<void> {
  const { config, json, printConfigSchema: _, ...flags } = given;
  const file =
    config === undefined ? null : await readConfigFile(String(config), Object.keys(shape));
  const fromFlags = Object.fromEntries(Object.entries(flags).filter(([, v]) => v !== undefined));
  const options = parseOptions(commandSchema, { ...file?.values, ...fromFlags }, (key) =>
    key in fromFlags ? `--${kebab(key)}` : (file?.place(key) ?? `--${kebab(key)}`),
  );
  const stop = stopOnSignals();
  const reporter = createReporter(json === true);
  try {
    for await (const event of runTraining(options, { signal: stop.signal })) {
      reporter.event(event);
      if (event.type === 'end' && event.reason === 'aborted') process.exitCode = 130;
    }
  } finally {
    reporter.close();
    stop.release();
  }
}
