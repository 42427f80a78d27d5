// Builds of the native tests beside the usual one, each in a folder of its own: with sanitizers, and
// for arm64, whose programs run under qemu.
import { mkdirSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { ScriptError, buildFolder, hasCommand, root, run } from './checkout.mjs';
import { cudaToolkit } from './cuda_toolkit.mjs';

// -O1: the sanitizers see more than at -O2, and it builds in half the time.
const sanitized = (sanitizers) => [
  `LOWRANK_SANITIZE=${sanitizers}`,
  'CMAKE_BUILD_TYPE=Debug',
  'CMAKE_CXX_FLAGS_DEBUG=-O1',
];

const variants = {
  // Every test.
  asan: {
    options: sanitized('address,undefined'),
    env: {
      ASAN_OPTIONS: 'detect_leaks=1:strict_string_checks=1',
      UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
    },
  },
  // Where threads meet: the pool, a shared device, training, generation.
  tsan: {
    options: sanitized('thread'),
    tests: [
      'thread_pool_test',
      'train_shared_device_test',
      'train_session_test',
      'train_state_test',
      'generator_test',
    ],
    env: { TSAN_OPTIONS: 'halt_on_error=1:second_deadlock_stack=1' },
  },
  // The plug-in for one architecture, and the test that loads it.
  cuda: {
    toolkit: cudaToolkit,
    options: ['LOWRANK_CUDA=ON', 'LOWRANK_C_LIBRARY=OFF'],
    tests: ['cuda_plugin_test'],
  },
  // Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user-static
  arm64: {
    commands: ['aarch64-linux-gnu-g++', 'qemu-aarch64-static'],
    options: [
      'CMAKE_SYSTEM_NAME=Linux',
      'CMAKE_SYSTEM_PROCESSOR=aarch64',
      'CMAKE_C_COMPILER=aarch64-linux-gnu-gcc',
      'CMAKE_CXX_COMPILER=aarch64-linux-gnu-g++',
      'CMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64-static;-L;/usr/aarch64-linux-gnu',
    ],
  },
};

/** Returns the build folder, the names of the tests to run ([] = all) and their environment. */
export function buildVariant(name) {
  const { commands = [], toolkit, options, tests = [], env = {} } = variants[name];
  const missing = commands.filter((command) => !hasCommand(command));
  if (missing.length > 0) throw new ScriptError(`missing: ${missing.join(', ')}`);
  const folder = path.join(buildFolder, name);
  mkdirSync(folder, { recursive: true });
  const tools = toolkit?.() ?? { options: [], env: {} };
  const all = ['LOWRANK_TESTS=ON', ...options, ...tools.options];
  const configure = all.map((option) => `-D${option}`);
  if (hasCommand('ninja')) configure.push('-GNinja');
  if (hasCommand('ccache')) configure.push('-DCMAKE_CXX_COMPILER_LAUNCHER=ccache');
  run('cmake', ['-S', root, '-B', folder, ...configure], { capture: true, env: tools.env });
  const build = ['--build', folder, '--parallel', String(os.availableParallelism())];
  const targets = tests.length > 0 ? ['--target', ...tests] : [];
  run('cmake', [...build, ...targets], { capture: true, env: tools.env });
  return { folder, tests, env };
}
