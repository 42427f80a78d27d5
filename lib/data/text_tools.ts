// Tokenizer, template and ids of a model folder, as far as the rows turn out to need them.
import path from 'node:path';
import { ChatTemplate } from '../chat_template.js';
import { LowrankError } from '../errors.js';
import { readJsonObject, Tokenizer } from '../tokenizer.js';
import type { CheckedPrepareOptions } from './options.js';
import type { TextTools } from './tokenize.js';

export interface ModelTools extends TextTools {
  /** Why there is no tokenizer; matters once a row is text. */
  tokenizerError?: LowrankError;
  stopTokenIds: readonly number[];
  /** Tokens of the model's vocabulary; undefined = not known. */
  vocabularySize?: number;
}

export async function loadModelTools(options: CheckedPrepareOptions): Promise<ModelTools> {
  const { model } = options;
  let { tokenizer, template, vocabularySize } = options;
  let tokenizerError: LowrankError | undefined;
  const config = model === undefined ? {} : await readJsonObject(path.join(model, 'config.json'));
  if (!tokenizer && model !== undefined) {
    try {
      tokenizer = await Tokenizer.load(model);
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      tokenizerError = error;
    }
  }
  if (!template && tokenizer && options.chatTemplate !== undefined) {
    template = await ChatTemplate.fromFile(options.chatTemplate, tokenizer);
  }
  if (!template && tokenizer && model !== undefined)
    template = await ChatTemplate.load(model, tokenizer);
  const size = config['vocab_size'];
  if (vocabularySize === undefined && typeof size === 'number') vocabularySize = size;
  return {
    tokenizer,
    template,
    templateVariables: options.templateVariables,
    tokenizerError,
    vocabularySize,
    stopTokenIds:
      options.stopTokenIds ?? (await knownStopTokens(config, model, tokenizer, template)),
  };
}

async function knownStopTokens(
  config: Record<string, unknown>,
  model: string | undefined,
  tokenizer: Tokenizer | undefined,
  template: ChatTemplate | undefined,
): Promise<number[]> {
  if (tokenizer) {
    const ofTemplate = (template?.turnEnds() ?? []).map((token) => tokenizer.tokenToId(token));
    return [
      ...new Set([...tokenizer.stopTokenIds, ...ofTemplate.filter((id) => id !== undefined)]),
    ];
  }
  const generation =
    model === undefined ? {} : await readJsonObject(path.join(model, 'generation_config.json'));
  const ids = [generation['eos_token_id'], config['eos_token_id']].flat();
  return [...new Set(ids.filter((id): id is number => Number.isInteger(id)))];
}
