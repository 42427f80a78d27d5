// The other side of bench/compare.mjs and scripts/gpu/curves.mjs: lowrank, with the same commands and answers as peft_peer.py.
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

import { loadAddon } from '../../dist/native/load_addon.js';
import { nativeModelOptions, nativeSessionOptions } from '../../dist/train/native_options.js';
import { trainingSchema } from '../../dist/train/options.js';

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const answer = (values) => process.stdout.write(JSON.stringify(values) + '\n');

const options = JSON.parse((await lines.next()).value);
const addon = loadAddon();
const device = {
  device: options.device ?? 'cpu',
  ...(options.threads ? { threads: options.threads } : {}),
  ...(options.isa ? { isa: options.isa } : {}),
};
const model = await addon.loadModel(device, options.model, {
  ...nativeModelOptions({ dtype: options.dtype, method: options.method, doubleQuant: false }),
  maxLength: options.seq,
  copyWeights: options.copyWeights ?? true,
});
const adapter = options.method === 'full' ? null : await model.loadAdapter(options.adapter);
const size = options.batch * options.seq;
const session = await model.createSession(
  adapter,
  nativeSessionOptions(trainingSchema.parse({ weightDecay: 0, maxGradNorm: 1 }), {
    maxTokens: size,
  }),
);
const bytes = readFileSync(options.tokens);
const tokens = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const documentOffsets = Int32Array.from({ length: options.batch + 1 }, (_, i) => i * options.seq);

function batch(index) {
  const first = (index % Math.floor(tokens.length / size)) * size;
  const inputIds = tokens.slice(first, first + size);
  return { inputIds, labels: inputIds, documentOffsets };
}

// safetensors: the length of a JSON header, the header, the values.
function writeTensors(file, tensors) {
  let offset = 0;
  const header = {};
  for (const [name, values] of Object.entries(tensors)) {
    const end = offset + values.byteLength;
    header[name] = { dtype: 'F32', shape: [values.length], data_offsets: [offset, end] };
    offset = end;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const parts = Object.values(tensors).map((v) =>
    Buffer.from(v.buffer, v.byteOffset, v.byteLength),
  );
  writeFileSync(file, Buffer.concat([length, text, ...parts]));
}

let step = 0;
answer({ ready: true, threads: addon.describeDevice(device).threads, isa: model.info().isa });
for await (const line of lines) {
  const [command, file] = line.split(' ');
  if (command === 'step') {
    const next = batch(step++);
    const begin = performance.now();
    const { loss } = await session.step([next], { learningRate: options.learningRate, step });
    answer({ seconds: (performance.now() - begin) / 1000, loss });
  } else if (command === 'gradients') {
    const { gradients } = await session.gradients([batch(0)], 1);
    writeTensors(file, gradients);
    answer({ done: true });
  } else if (command === 'memory') {
    answer({ bytes: addon.memory().peakResidentBytes });
  } else break;
}
