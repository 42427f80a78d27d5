// A model folder's text side (tokenizer, configuration, template) in a temporary folder.
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { onTestFinished } from 'vitest';

const golden = path.join(import.meta.dirname, '../../golden/templates');

/** A folder that goes away with the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'lowrank-test-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface TextModelOptions {
  kind?: 'bytes' | 'pieces';
  /** Name of a template in test/golden/templates; null = none. */
  template?: string | null;
  config?: Record<string, unknown>;
  tokenizerConfig?: Record<string, unknown>;
}

export function writeTextModel(options: TextModelOptions = {}): string {
  const folder = path.join(temporaryFolder(), 'model');
  mkdirSync(folder);
  cpSync(
    path.join(golden, `tokenizer_${options.kind ?? 'bytes'}.json`),
    path.join(folder, 'tokenizer.json'),
  );
  const template = options.template === undefined ? 'chatml' : options.template;
  if (template !== null) {
    cpSync(path.join(golden, `${template}.jinja`), path.join(folder, 'chat_template.jinja'));
  }
  writeJson(path.join(folder, 'tokenizer_config.json'), {
    eos_token: '<|im_end|>',
    pad_token: '<pad>',
    ...options.tokenizerConfig,
  });
  writeJson(path.join(folder, 'config.json'), { vocab_size: 600, ...options.config });
  return folder;
}

export function writeJson(file: string, value: unknown): void {
  writeFileSync(file, JSON.stringify(value));
}

/** Rows as JSON lines. */
export function writeLines(file: string, rows: readonly unknown[]): string {
  writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return file;
}

export function chat(
  question: string,
  answer: string,
): { messages: { role: string; content: string }[] } {
  return {
    messages: [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ],
  };
}
