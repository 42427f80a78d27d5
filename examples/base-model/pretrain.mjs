// Makes the base model from nothing: tokenizer, random weights, and full fine-tuning on the corpus.
//
//   node examples/base-model/pretrain.mjs [--output FOLDER] [--steps N] [--run FOLDER]
//
// The run folder keeps checkpoints; the same command again goes on from the last one.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { createReporter } from '../../dist/cli/progress.js';
import { ChatTemplate, Model, Tokenizer, Trainer, loadDataset } from '../../dist/index.js';
import { createRandom } from '../support/world.mjs';
import { corpus } from './corpus.mjs';
import { writeTokenizer } from './train_tokenizer.mjs';

const SEQUENCE = 512; // tokens per packed sequence
const SEQUENCES = 2; // per step
const CORPUS_SEED = 2026;
const REPEATS = 0.35; // of the documents

const { values } = parseArgs({
  options: {
    output: { type: 'string', default: fileURLToPath(new URL('.', import.meta.url)) },
    run: { type: 'string', default: 'runs/base-model' },
    steps: { type: 'string', default: '1800' },
    documents: { type: 'string', default: '30000' },
  },
});
const steps = Number(values.steps);

writeTokenizer(values.output);
const tokenizer = await Tokenizer.load(values.output);
const template = await ChatTemplate.load(values.output, tokenizer);
const id = (token) => tokenizer.tokenToId(token);

const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: Math.ceil(tokenizer.vocabularySize / 64) * 64,
  hidden_size: 192,
  intermediate_size: 512,
  num_hidden_layers: 4,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 32,
  hidden_act: 'silu',
  max_position_embeddings: 512,
  rope_theta: 10000,
  rms_norm_eps: 1e-5,
  initializer_range: 0.04,
  tie_word_embeddings: true,
  attention_bias: false,
  mlp_bias: false,
  bos_token_id: null,
  eos_token_id: [id('<|im_end|>'), id('<|endoftext|>')],
  pad_token_id: id('<|endoftext|>'),
  torch_dtype: 'bfloat16',
};

// Documents of the corpus, chats as the template writes them, and among them random tokens said
// twice: these give every token an embedding and teach copying early (Olsson et al., 2022).
async function* rows() {
  const random = createRandom(CORPUS_SEED + 1);
  const end = id('<|endoftext|>');
  const texts = corpus(CORPUS_SEED);
  for (let made = 0; made < Number(values.documents); made++) {
    if (random.chance(REPEATS)) {
      const once = Array.from({ length: 8 + random.below(25) }, () =>
        random.below(tokenizer.vocabularySize),
      );
      yield { input_ids: [...once, ...once, end] };
      continue;
    }
    const { text, messages } = texts.next().value;
    const { ids } = await tokenizer.encode(text ?? template.render(messages));
    yield { input_ids: [...ids, end] };
  }
}

const fresh = await Model.create(config, { seed: 1 });
const start = join(values.run, 'start');
mkdirSync(start, { recursive: true });
await fresh.save(start);
await fresh.dispose();

const model = await Model.load(start, { trainable: true });
const trainer = new Trainer({
  model,
  method: { type: 'full' },
  train: await loadDataset(rows, { name: 'corpus' }),
  outputDir: values.run,
  resumeFromCheckpoint: 'last',
  maxSteps: steps,
  perDeviceTrainBatchSize: SEQUENCES,
  maxLength: SEQUENCE,
  packing: true,
  splitRatio: '99/1/0',
  lrSchedulerType: 'cosine',
  learningRate: 3e-3,
  warmupSteps: 60,
  weightDecay: 0.05,
  adamBeta2: 0.98,
  allowNoStopToken: true,
  evalSteps: 400,
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
