// The tokenizer of a Hugging Face model folder. The `tokenizers` package is hidden behind this class,
// so that its coming 1.0 (a smaller interface) touches one file.
import { createHash } from 'node:crypto';
import { access, readFile } from 'node:fs/promises';
import path from 'node:path';
import { Tokenizer as NativeTokenizer, type Encoding as NativeEncoding } from 'tokenizers';
import { LowrankError } from './errors.js';
import { Pause } from './pause.js';

export interface Encoding {
  ids: Int32Array;
  /** Two numbers per token: [start, end) in the text, in Unicode code points. Only when asked for. */
  offsets?: Uint32Array;
}

export interface EncodeOptions {
  /** Let the tokenizer add its own BOS/EOS as its post-processor says. Default false. */
  addSpecialTokens?: boolean;
  offsets?: boolean;
}

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

type JsonObject = Record<string, unknown>;

const SPECIAL_NAMES = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const;

export class Tokenizer {
  /** Special tokens by their configuration name (`eos_token`, ...); what chat templates see. */
  readonly specialTokens: Readonly<Record<string, string>>;
  /** Tokens outside the model's vocabulary proper, in order of id. */
  readonly addedTokens: readonly AddedToken[];
  readonly eosTokenId: number | undefined;
  readonly bosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  /** Every token that ends a generation: of the tokenizer, generation_config.json and config.json. */
  readonly stopTokenIds: readonly number[];
  /** From tokenizer_config.json; undefined when absent or "unlimited". */
  readonly modelMaxLength: number | undefined;
  /** SHA-256 over everything that influences encoding. */
  readonly fingerprint: string;
  /** The folder it was loaded from. */
  readonly folder: string;
  /** The parsed tokenizer_config.json (empty when absent). */
  readonly config: Readonly<JsonObject>;

  private readonly native: NativeTokenizer;

  private constructor(
    native: NativeTokenizer,
    folder: string,
    tokenizerJson: string,
    files: {
      config: JsonObject;
      specialTokensMap: JsonObject;
      generation: JsonObject;
      model: JsonObject;
    },
  ) {
    this.native = native;
    this.folder = folder;
    this.config = files.config;
    const parsed = JSON.parse(tokenizerJson) as { added_tokens?: AddedToken[] };
    this.addedTokens = (parsed.added_tokens ?? [])
      .map(({ id, content, special }) => ({ id, content, special }))
      .sort((a, b) => a.id - b.id);

    const special: Record<string, string> = {};
    for (const name of SPECIAL_NAMES) {
      const token = tokenContent(files.config[name]) ?? tokenContent(files.specialTokensMap[name]);
      if (token !== undefined) special[name] = token;
    }
    const idOf = (name: string, ...fallbacks: unknown[]): number | undefined => {
      const token = special[name];
      const id = token === undefined ? undefined : this.tokenToId(token);
      if (id !== undefined) return id;
      const fallback = fallbacks.flatMap(tokenIds)[0];
      if (fallback !== undefined && token === undefined) {
        const content = native.idToToken(fallback);
        if (content !== null) special[name] = content;
      }
      return fallback;
    };
    const { generation, model } = files;
    this.bosTokenId = idOf('bos_token', generation['bos_token_id'], model['bos_token_id']);
    this.eosTokenId = idOf('eos_token', generation['eos_token_id'], model['eos_token_id']);
    this.padTokenId = idOf('pad_token', generation['pad_token_id'], model['pad_token_id']);
    this.stopTokenIds = [
      ...new Set([
        ...(this.eosTokenId === undefined ? [] : [this.eosTokenId]),
        ...tokenIds(generation['eos_token_id']),
        ...tokenIds(model['eos_token_id']),
      ]),
    ];
    this.specialTokens = special;
    const limit = files.config['model_max_length'];
    this.modelMaxLength =
      typeof limit === 'number' && limit > 0 && limit < 1e12 ? limit : undefined;
    this.fingerprint = createHash('sha256')
      .update(tokenizerJson)
      .update(JSON.stringify([special, this.stopTokenIds]))
      .digest('hex');
  }

  /** Loads `tokenizer.json` and what stands beside it. Throws ERR_LOWRANK_INVALID_FILE with a hint. */
  static async load(folder: string): Promise<Tokenizer> {
    const file = path.join(folder, 'tokenizer.json');
    let text: string;
    try {
      text = await readFile(file, 'utf8');
    } catch (cause) {
      throw await missingTokenizer(folder, cause);
    }
    let native: NativeTokenizer;
    try {
      native = NativeTokenizer.fromString(text);
    } catch (cause) {
      throw new LowrankError(
        'ERR_LOWRANK_INVALID_FILE',
        `not a usable tokenizer: ${cause instanceof Error ? cause.message : String(cause)}`,
        {
          where: file,
          hint: 'Download the file again, or write it anew with save_pretrained() of a fast tokenizer.',
          cause,
        },
      );
    }
    // Some folders were saved with a length limit or padding; either would silently change the data.
    native.disableTruncation();
    native.disablePadding();
    const [config, specialTokensMap, generation, model] = await Promise.all(
      [
        'tokenizer_config.json',
        'special_tokens_map.json',
        'generation_config.json',
        'config.json',
      ].map((name) => readJsonObject(path.join(folder, name))),
    );
    return new Tokenizer(native, folder, text, {
      config: config!,
      specialTokensMap: specialTokensMap!,
      generation: generation!,
      model: model!,
    });
  }

  /** Size of the vocabulary with added tokens (the model's embedding may have more rows). */
  get vocabularySize(): number {
    return this.native.getVocabSize(true);
  }

  async encode(text: string, options: EncodeOptions = {}): Promise<Encoding> {
    const encoding = await this.native.encode(text, null, {
      addSpecialTokens: options.addSpecialTokens ?? false,
    });
    return this.convert(encoding, options);
  }

  /** Encodes on the tokenizer's own threads; the order of the results is that of `texts`. */
  async encodeBatch(texts: readonly string[], options: EncodeOptions = {}): Promise<Encoding[]> {
    if (texts.length === 0) return [];
    const encodings = await this.native.encodeBatch(texts as string[], {
      addSpecialTokens: options.addSpecialTokens ?? false,
    });
    // Copying ids and offsets out of the library costs about as much as encoding did.
    const pause = new Pause();
    const results: Encoding[] = [];
    for (const encoding of encodings) {
      results.push(this.convert(encoding, options));
      if (pause.due) await pause.turn();
    }
    return results;
  }

  async decode(
    ids: ArrayLike<number>,
    options: { skipSpecialTokens?: boolean } = {},
  ): Promise<string> {
    return this.native.decode(Array.from(ids), options.skipSpecialTokens ?? false);
  }

  tokenToId(token: string): number | undefined {
    return this.native.tokenToId(token) ?? undefined;
  }

  /** The vocabulary's own spelling of a token (byte-level alphabets show a space as "Ġ"). */
  idToToken(id: number): string | undefined {
    return this.native.idToToken(id) ?? undefined;
  }

  private convert(encoding: NativeEncoding, options: EncodeOptions): Encoding {
    let ids = Int32Array.from(encoding.getIds());
    // A text that already begins with BOS, through a tokenizer that adds one: keep one.
    const bos = this.bosTokenId;
    const doubled =
      options.addSpecialTokens === true && bos !== undefined && ids[0] === bos && ids[1] === bos;
    if (doubled) ids = ids.subarray(1);
    if (!options.offsets) return { ids };
    const pairs = encoding.getOffsets();
    const skip = doubled ? 1 : 0;
    const offsets = new Uint32Array(2 * ids.length);
    for (let i = 0; i < ids.length; i++) {
      const pair = pairs[i + skip]!;
      offsets[2 * i] = pair[0]!;
      offsets[2 * i + 1] = pair[1]!;
    }
    return { ids, offsets };
  }
}

/** A JSON file that must hold an object; {} when there is no such file. */
export async function readJsonObject(file: string): Promise<JsonObject> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return {};
    throw new LowrankError('ERR_LOWRANK_IO', `cannot read the file: ${(cause as Error).message}`, {
      where: file,
      cause,
    });
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as JsonObject;
  } catch (cause) {
    throw new LowrankError(
      'ERR_LOWRANK_INVALID_FILE',
      `not valid JSON: ${(cause as Error).message}`,
      {
        where: file,
        hint: 'Download the file again.',
        cause,
      },
    );
  }
  throw new LowrankError('ERR_LOWRANK_INVALID_FILE', 'a JSON object was expected', { where: file });
}

// A token in a configuration: a string, or an object of AddedToken's fields.
function tokenContent(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : undefined;
}

function tokenIds(value: unknown): number[] {
  const list = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => Number.isInteger(id) && (id as number) >= 0);
}

async function missingTokenizer(folder: string, cause: unknown): Promise<LowrankError> {
  const exists = (name: string): Promise<boolean> =>
    access(path.join(folder, name)).then(
      () => true,
      () => false,
    );
  if (!(await exists('.'))) {
    return new LowrankError('ERR_LOWRANK_INVALID_FILE', 'there is no such model folder', {
      where: folder,
      hint: 'Give the path of a folder that holds config.json, tokenizer.json and *.safetensors.',
      cause,
    });
  }
  const convert =
    'Convert it once where Python is at hand: ' +
    `AutoTokenizer.from_pretrained("${folder}").save_pretrained("${folder}") writes tokenizer.json.`;
  for (const name of ['tokenizer.model', 'spiece.model', 'vocab.json', 'vocab.txt']) {
    if (!(await exists(name))) continue;
    return new LowrankError(
      'ERR_LOWRANK_INVALID_FILE',
      `the folder has ${name} but no tokenizer.json; only tokenizer.json can be read`,
      { where: folder, hint: convert, cause },
    );
  }
  return new LowrankError('ERR_LOWRANK_INVALID_FILE', 'the folder has no tokenizer.json', {
    where: folder,
    hint: 'Copy tokenizer.json from the model it came from, or train on rows that are already tokenized.',
    cause,
  });
}
