// Makes the base model from nothing: tokenizer, random weights, and full fine-tuning in two stages.
//
//   node examples/base-model/pretrain.mjs [--output FOLDER] [--run FOLDER]
//
// The run folder keeps checkpoints; the same command again goes on from the last one.

import { existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { createReporter } from '../../dist/cli/progress.js';
import { ChatTemplate, Model, Tokenizer, Trainer, loadDataset } from '../../dist/index.js';
import { createRandom } from '../support/world.mjs';
import { corpus } from './corpus.mjs';
import { SPECIAL, writeTokenizer } from './train_tokenizer.mjs';

const SEED = 2026;
const DOCUMENTS = 30_000;

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
  num_key_value_heads: 2,
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
 * Token ids of documents: the corpus, chats as the template writes them. `repeats` is the share of
 * random tokens said twice: they give every token an embedding and teach copying by induction heads
 * (Olsson et al., 2022).
 */
async function* rows(repeats) {
  const random = createRandom(SEED + 1);
  const texts = corpus(SEED, { repeats: repeats > 0 });
  for (let made = 0; made < DOCUMENTS; made++) {
    if (repeats > 0 && random.chance(repeats)) {
      const once = Array.from(
        { length: 8 + random.below(25) },
        () => SPECIAL.length + random.below(tokenizer.vocabularySize - SPECIAL.length),
      );
      yield { input_ids: [...once, ...once, END] };
      continue;
    }
    const { text, messages } = texts.next().value;
    const { ids } = await tokenizer.encode(text ?? template.render(messages));
    yield { input_ids: [...ids, END] };
  }
}

/** Full fine-tuning of the model in `from`; the result is saved in bf16 as `to`. */
async function stage(name, from, to, repeats, options) {
  const model = await Model.load(from, { trainable: true });
  const trainer = new Trainer({
    model,
    method: { type: 'full' },
    train: await loadDataset(() => rows(repeats), { name: 'corpus' }),
    outputDir: path.join(values.run, name),
    resumeFromCheckpoint: 'last',
    maxLength: 512,
    splitRatio: '99/1/0',
    lrSchedulerType: 'cosine',
    warmupSteps: 60,
    weightDecay: 0.05,
    adamBeta2: 0.98,
    allowNoStopToken: true,
    evalSteps: 400,
    saveSteps: 400,
    saveTotalLimit: 2,
    seed: 1,
    ...options,
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
  await finished.save(to, { dtype: 'bf16' });
  await finished.dispose();
}

const fresh = path.join(values.run, 'fresh');
const prose = path.join(values.run, 'prose');
mkdirSync(fresh, { recursive: true });
if (!existsSync(prose)) {
  const model = await Model.create(config, { seed: 1 });
  await model.save(fresh);
  await model.dispose();
  await stage('1', fresh, prose, 0, {
    maxSteps: 2000,
    learningRate: 3e-3,
    packing: true,
    perDeviceTrainBatchSize: 2,
  });
}
await stage('2', prose, values.output, 0.2, {
  maxSteps: 1700,
  learningRate: 2e-3,
  perDeviceTrainBatchSize: 10,
});
console.log(`The base model lies in ${values.output}`);
