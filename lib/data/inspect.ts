// A data set for people to look at: examples with the mask in colour, and what was read.
import pc from 'picocolors';
import type { Tokenizer } from '../tokenizer.js';
import { segments } from './show.js';
import { SPLIT_NAMES, type DataReport, type Example } from './types.js';

type Colors = ReturnType<typeof pc.createColors>;

export interface ShowOptions {
  color: boolean;
  /** Tokens listed per example; default 256. */
  maxTokens?: number;
}

/** Text (trained parts in colour, or in [[brackets]]), then the tokens one by one. */
export async function showExample(
  example: Example,
  tokenizer: Tokenizer | undefined,
  options: ShowOptions,
): Promise<string> {
  const colors = pc.createColors(options.color);
  const paint = painter(colors, options.color);
  const parts = await segments(example, tokenizer);
  const text = parts.map((part) => paint(part.text, part.weight)).join('');
  const trained = parts.reduce((sum, part) => sum + (part.trained ? part.end - part.start : 0), 0);
  const title = `${example.file}:${example.line}  ${example.inputIds.length} tokens, ${trained} trained`;
  const lines = [colors.bold(title), text.replace(/\n$/, ''), ''];
  if (tokenizer) lines.push(tokenLine(example, tokenizer, colors, options), '');
  return lines.join('\n');
}

function painter(colors: Colors, color: boolean): (text: string, weight: number) => string {
  return (text, weight) => {
    if (weight === 0) return paintLines(text, colors.dim);
    const note = weight === 1 ? '' : `×${weight}`;
    if (!color) return `[[${text}]]${note}`;
    return paintLines(text, weight === 1 ? colors.green : colors.yellow) + colors.yellow(note);
  };
}

// Terminals and pagers reset colours at the end of a line.
function paintLines(text: string, paint: (line: string) => string): string {
  return text
    .split('\n')
    .map((line) => (line === '' ? '' : paint(line)))
    .join('\n');
}

// The vocabulary's own spelling: it shows where a token carries the space before a word.
function tokenLine(
  { inputIds, labels }: Example,
  tokenizer: Tokenizer,
  colors: Colors,
  { color, maxTokens = 256 }: ShowOptions,
): string {
  const shown = Array.from(inputIds.subarray(0, maxTokens), (id, i) => {
    const token = tokenizer.idToToken(id) ?? `#${id}`;
    const trained = labels[i]! >= 0;
    if (!color) return trained ? `[${token}]` : token;
    const painted = trained ? colors.green(token) : colors.dim(token);
    return i % 2 === 0 ? painted : colors.underline(painted);
  });
  const more = inputIds.length - shown.length;
  return shown.join(color ? '' : ' ') + (more > 0 ? colors.dim(` ... and ${more} more`) : '');
}

/** What was read, and what is worth a look. */
export function showReport(report: DataReport, options: { color: boolean }): string {
  const colors = pc.createColors(options.color);
  const count = (value: number): string => value.toLocaleString('en-US');
  const lines = [colors.bold(report.sources.join(', '))];
  const add = (name: string, value: string): void => {
    lines.push(`  ${colors.dim(name.padEnd(14))}${value}`);
  };
  for (const { format, rows, description } of report.formats) {
    add('rows', `${count(rows)} ${format}: ${description}`);
  }
  if (report.badRowCount > 0) add('bad rows', colors.red(count(report.badRowCount)));
  for (const name of SPLIT_NAMES) {
    const { examples, tokens, labelTokens } = report.splits[name];
    const share = tokens === 0 ? 0 : (100 * labelTokens) / tokens;
    add(
      name,
      `${count(examples)} examples, ${count(tokens)} tokens, ${count(labelTokens)} trained (${share.toFixed(1)} %)`,
    );
  }
  const { min, mean, p50, p90, p99, max } = report.lengths;
  add(
    'tokens',
    `min ${min}, median ${p50}, mean ${mean.toFixed(1)}, 90 % ${p90}, 99 % ${p99}, max ${max}`,
  );
  if (report.withStopToken !== undefined) {
    add('stop token', `trained in ${count(report.withStopToken)} examples`);
  }
  for (const warning of report.warnings)
    lines.push(`  ${colors.yellow('warning')}       ${warning}`);
  for (const { file, line, message } of report.badRows.slice(0, 20)) {
    lines.push(`  ${colors.red('bad row')}       ${file}:${line}: ${message}`);
  }
  if (report.badRowCount > 20)
    lines.push(`  ... and ${count(report.badRowCount - 20)} more bad rows`);
  return lines.join('\n');
}
