// Makes the base model from nothing: tokenizer, random weights, and full fine-tuning.
//
//   node examples/base-model/pretrain.mjs [--output FOLDER] [--run FOLDER]
//
// The run folder keeps checkpoints; the same command again goes on from the last one.

import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { createReporter } from '../../dist/cli/progress.js';
import { ChatTemplate, Model, Tokenizer, Trainer, loadDataset } from '../../dist/index.js';
import { createRandom } from '../support/world.mjs';
import { corpus } from './corpus.mjs';
import { SPECIAL, writeTokenizer } from './train_tokenizer.mjs';

const SEED = 2026;
const STEPS = 2800;
const BATCH = 16;
/** Documents: a hundredth is for validation, and no other one is seen twice. */
const DOCUMENTS = Math.ceil((STEPS * BATCH) / 0.98);
/** The share of documents that are random tokens said twice. */
const RANDOM = 0.1;

const { values } = parseArgs({
  options: {
    output: { type: 'string', default: fileURLToPath(new URL('.', import.meta.url)) },
    run: { type: 'string', default: 'runs/base-model' },
  },
});

writeTokenizer(values.output);
const tokenizer = await Tokenizer.load(values.output);
const template = await ChatTemplate.load(values.output, tokenizer);
const [END, , TURN_END] = SPECIAL.map((token) => tokenizer.tokenToId(token));

const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: Math.ceil(tokenizer.vocabularySize / 64) * 64,
  hidden_size: 192,
  intermediate_size: 512,
  num_hidden_layers: 4,
  num_attention_heads: 6,
  num_key_value_heads: 3,
  head_dim: 32,
  hidden_act: 'silu',
  max_position_embeddings: 512,
  rope_theta: 10000,
  rms_norm_eps: 1e-5,
  initializer_range: 0.02,
  tie_word_embeddings: true,
  attention_bias: false,
  mlp_bias: false,
  bos_token_id: null,
  eos_token_id: [TURN_END, END],
  pad_token_id: END,
  torch_dtype: 'bfloat16',
};

/**
 * Token ids of documents: the corpus, chats as the template writes them, and random tokens said twice.
 * Without these the tokens that the corpus lacks would all end in one embedding, and no adapter could
 * tell them apart.
 */
async function* rows() {
  const random = createRandom(SEED + 1);
  const texts = corpus(SEED);
  const token = () => SPECIAL.length + random.below(tokenizer.vocabularySize - SPECIAL.length);
  for (let made = 0; made < DOCUMENTS; made++) {
    if (random.chance(RANDOM)) {
      const once = Array.from({ length: 8 + random.below(17) }, token);
      yield { input_ids: [...once, ...once, END] };
      continue;
    }
    const { text, messages } = texts.next().value;
    const { ids } = await tokenizer.encode(text ?? template.render(messages));
    yield { input_ids: [...ids, END] };
  }
}

const fresh = path.join(values.run, 'fresh');
mkdirSync(fresh, { recursive: true });
const untrained = await Model.create(config, { seed: 1 });
await untrained.save(fresh);
await untrained.dispose();

const model = await Model.load(fresh, { trainable: true });
const trainer = new Trainer({
  model,
  method: { type: 'full' },
  train: await loadDataset(() => rows(), { name: 'corpus' }),
  outputDir: path.join(values.run, 'training'),
  resumeFromCheckpoint: 'last',
  maxSteps: STEPS,
  perDeviceTrainBatchSize: BATCH,
  maxLength: 512,
  splitRatio: '99/1/0',
  learningRate: 3e-3,
  lrSchedulerType: 'cosine',
  warmupSteps: 60,
  weightDecay: 0.05,
  adamBeta2: 0.98,
  allowNoStopToken: true,
  evalSteps: 200,
  saveSteps: 400,
  saveTotalLimit: 2,
  seed: 1,
});
const reporter = createReporter(false);
let trained = '';
for await (const event of trainer.run()) {
  reporter.event(event);
  if (event.type === 'end') trained = event.outputPath;
}
reporter.close();
await model.dispose();
const finished = await Model.load(trained);
await finished.save(values.output, { dtype: 'bf16' });
await finished.dispose();
console.log(`The base model lies in ${values.output}`);
