#!/usr/bin/env node
// The command line. Results for programs go to standard output, everything for people to standard
// error. Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by a signal.

import { readFileSync } from 'node:fs';

import { Command, CommanderError } from 'commander';
import pc from 'picocolors';

import { LowrankError, describeError } from '../errors.js';
import { addBench } from './bench.js';
import { addDoctor } from './doctor.js';
import { addEstimate } from './estimate.js';
import { addEval } from './eval.js';
import { addGenerate } from './generate.js';
import { addInspect } from './inspect.js';
import { addMerge } from './merge.js';
import { addTrain } from './train.js';

function createProgram(): Command {
  const { version } = JSON.parse(
    readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
  ) as { version: string };
  const program = new Command('lowrank')
    .description('Language-model fine-tuning for Node.js, without Python.')
    .version(version)
    .showSuggestionAfterError()
    .exitOverride();
  for (const add of [
    addTrain,
    addEval,
    addGenerate,
    addMerge,
    addInspect,
    addEstimate,
    addDoctor,
    addBench,
  ])
    add(program);
  // Subcommands made with .command() copy these settings only at creation.
  for (const command of program.commands) command.exitOverride().showSuggestionAfterError();
  return program;
}

try {
  await createProgram().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
  else {
    const code = error instanceof LowrankError ? ` [${error.code}]` : '';
    process.stderr.write(`${pc.red('error')}${pc.dim(code)} ${describeError(error)}\n`);
    if (!(error instanceof LowrankError) && error instanceof Error && process.env['LOWRANK_DEBUG'])
      process.stderr.write(`${error.stack}\n`);
    process.exitCode = 1;
  }
}
