"""One side of bench/compare.mjs and scripts/gpu/curves.mjs: PEFT over transformers. Reads a JSON
line of options, then one command a line ("step", "gradients FILE", "memory", "end"); answers each
with a JSON line."""

import json
import os
import pathlib
import resource
import sys
import time

options = json.loads(sys.stdin.readline())
if options["threads"]:
    os.environ["OMP_NUM_THREADS"] = str(options["threads"])

import torch
import transformers
from peft import PeftModel

transformers.logging.set_verbosity_error()
if options["threads"]:
    torch.set_num_threads(options["threads"])
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options["dtype"]]
device = torch.device(options.get("device", "cpu"))
method = options.get("method", "lora")
base = transformers.AutoModelForCausalLM.from_pretrained(options["model"], dtype=dtype)
base.config.use_cache = False
if method == "qlora" and options.get("quantize"):
    # The values that NF4 keeps; how they are stored doesn't change the losses.
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "test" / "golden"))
    from curves import quantize

    base = quantize(base, nested=False).to(dtype)
if method == "full":
    model = base
else:
    model = PeftModel.from_pretrained(base, options["adapter"], is_trainable=True)
model.to(device).train()
trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
# As transformers' Trainer does by default.
optimizer = torch.optim.AdamW([p for _, p in trained], lr=options["learningRate"], betas=(0.9, 0.999),
                              eps=1e-8, weight_decay=0.0, fused=True)  # fmt: skip
step_model = torch.compile(model) if options.get("compile") else model
tokens = torch.frombuffer(bytearray(open(options["tokens"], "rb").read()), dtype=torch.int32).long().to(device)
size = options["batch"] * options["seq"]
batches = tokens[: len(tokens) // size * size].view(-1, options["batch"], options["seq"])
at = 0


def answer(**values):
    print(json.dumps(values), flush=True)


def loss_of(batch):
    return step_model(input_ids=batch, labels=batch, use_cache=False).loss


def step():
    global at
    batch = batches[at % len(batches)]
    at += 1
    begin = time.perf_counter()
    loss = loss_of(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    value = loss.item()
    answer(seconds=time.perf_counter() - begin, loss=value)


def gradients(file):
    """The gradients of the first batch, as safetensors of f32, under PEFT's names."""
    from safetensors.torch import save_file

    loss_of(batches[0]).backward()
    values = {name.replace(".default", ""): p.grad.float().contiguous() for name, p in trained}
    save_file({name: value.cpu() for name, value in values.items()}, file)
    optimizer.zero_grad(set_to_none=True)
    answer(done=True)


answer(ready=True, threads=torch.get_num_threads(), torch=torch.__version__,
       transformers=transformers.__version__)  # fmt: skip
for line in sys.stdin:
    command, *rest = line.split()
    if command == "step":
        step()
    elif command == "gradients":
        gradients(rest[0])
    elif command == "memory":
        on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer(bytes=on_host if device.type == "cpu" else torch.cuda.max_memory_allocated())
    else:
        break
