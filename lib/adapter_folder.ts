// An adapter's folder as PEFT writes it: configuration, tensors, and the model card (README.md) that
// hub tools read for the base model.
import { stat } from 'node:fs/promises';
import { join } from 'node:path';

import { stringify } from 'yaml';

import type { NativeAdapter, NativeAdapterInfo } from './native/addon.js';
import { writeFileAtomic } from './train/atomic.js';

/** What a training run knows about the adapter that it made. */
export interface TrainingSummary {
  examples: number;
  steps: number;
  tokens: number;
  labelTokens: number;
}

/** A card that is in the folder already is left alone: people write theirs there. */
export async function saveAdapterFolder(
  adapter: NativeAdapter,
  folder: string,
  baseModelName: string,
  training?: TrainingSummary,
): Promise<void> {
  await adapter.save(folder, baseModelName);
  const file = join(folder, 'README.md');
  const exists = await stat(file).catch(() => null);
  if (!exists) await writeFileAtomic(file, modelCard(adapter.info(), baseModelName, training));
}

export function modelCard(
  { options, modules, parameters }: NativeAdapterInfo,
  baseModelName: string,
  training?: TrainingSummary,
): string {
  const base = baseModelName === '' ? undefined : baseModelName;
  const metadata = {
    ...(base === undefined ? {} : { base_model: base }),
    library_name: 'peft',
    pipeline_tag: 'text-generation',
    tags: [...(base === undefined ? [] : [`base_model:adapter:${base}`]), 'lora', 'lowrank'],
  };
  const targets =
    options.targetPattern === '' ? options.targetModules.join(', ') : options.targetPattern;
  const facts = [
    ...(base === undefined ? [] : [`Base model: \`${base}\``]),
    `Method: LoRA, r ${options.r}, alpha ${options.loraAlpha}, dropout ${options.loraDropout}` +
      (options.useRslora ? ', rank-stabilized scale' : ''),
    `Adapted: ${modules.length} linear layers (\`${targets}\`), ${parameters} trained parameters`,
    ...(options.modulesToSave.length > 0
      ? [`Trained in full: ${options.modulesToSave.join(', ')}`]
      : []),
    ...(training
      ? [
          `Data: ${training.examples} examples; ${training.steps} steps over ${training.tokens} tokens, ` +
            `of which ${training.labelTokens} were learnt`,
        ]
      : []),
  ];
  const lines = facts.map((fact) => `- ${fact}`).join('\n');
  return `---\n${stringify(metadata, { lineWidth: 0 })}---\n\n# LoRA adapter\n\n${lines}\n\nTrained with lowrank; loads with PEFT.\n`;
}
