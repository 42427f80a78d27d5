"""Training runs for generate.py, each 20 steps of two micro-batches:

llama/curves.safetensors     loss and gradient norm of LoRA, QLoRA (NF4, plain and nested) and full
                             fine-tuning in f32, and of LoRA and QLoRA over a bf16 model
llama_wide/                  a model with matrices of the size from which AdamW's states have 8 bits,
                             and what full fine-tuning leaves: computed in f64, and under
                             distance. how far from it an f32 run lies, relative to its norm
llama/dropout.safetensors    gradients with LoRA dropout, by the masks that native/core/random.h
                             defines
"""

import numpy
import torch
import transformers
from safetensors.torch import save_file

import quantization_fixture as quantization
from reference import (DOCUMENTS, VOCABULARY, batch, distance, load, peft_name, split,
                       sum_of_losses, with_adapter)  # fmt: skip

STEPS, LEARNING_RATE, WEIGHT_DECAY, BETAS, EPS = 20, 5e-3, 0.1, (0.9, 0.999), 1e-8
# bitsandbytes keeps f32 states of smaller tensors (min_8bit_size).
SMALLEST_8BIT = 4096


def quantize(model, nested):
    """The linears of the blocks as NF4 stores them, dequantized."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            packed, absmax, restored = quantization.nf4(module.weight.data)
            if nested:
                codes = torch.stack([packed >> 4, packed & 15], -1).reshape(-1).long()
                absmax = quantization.nested(absmax)[3]
                restored = quantization.unscale(quantization.NF4[codes], absmax, 64)
            module.weight.data = restored.reshape(module.weight.shape)
    return model


class AdamW8bit:
    """One tensor's block-wise states. The update uses them before they are rounded to codes."""

    def __init__(self, value):
        count = value.numel()
        self.maps = quantization.dynamic_map(True), quantization.dynamic_map(False)
        self.codes = [quantization.codes(torch.zeros(count), codes) for codes in self.maps]
        self.absmax = [torch.zeros(-(-count // 256)) for _ in self.maps]
        self.step = 0

    def decoded(self, i):
        return quantization.unscale(self.maps[i][self.codes[i].long()], self.absmax[i], 256)

    def update(self, value, decay):
        self.step += 1
        gradient = value.grad.reshape(-1).double()
        moments = []
        for i, power in enumerate((gradient, gradient**2)):
            moments.append(BETAS[i] * self.decoded(i).double() + (1 - BETAS[i]) * power)
        m_hat, v_hat = (x / (1 - beta**self.step) for x, beta in zip(moments, BETAS, strict=True))
        new = value.data.reshape(-1).double() * (1 - LEARNING_RATE * decay)
        new -= LEARNING_RATE * m_hat / (v_hat.sqrt() + EPS)
        value.data = new.to(value.dtype).reshape(value.shape)
        for i, moment in enumerate(moments):
            scaled, self.absmax[i] = quantization.scaled_blocks(moment.float(), 256)
            self.codes[i] = quantization.codes(scaled, self.maps[i])


def curve(model, batches, eight_bit=False):
    """Gradients weighted by label tokens and clipped to norm 1. Returns losses, norms and what the
    optimizer holds in the end: {name: AdamW8bit or torch's state}."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    coded = {name: AdamW8bit(value) for name, value in trained.items()
             if eight_bit and value.numel() >= SMALLEST_8BIT}  # fmt: skip
    rest = [value for name, value in trained.items() if name not in coded]
    optimizer = torch.optim.AdamW(
        [{"params": [value for value in rest if value.dim() > 1], "weight_decay": WEIGHT_DECAY},
         {"params": [value for value in rest if value.dim() == 1], "weight_decay": 0.0}],
        lr=LEARNING_RATE, betas=BETAS, eps=EPS)  # fmt: skip
    losses, norms = [], []
    for step in range(STEPS):
        now = [batches[(2 * step + i) % len(batches)] for i in range(2)]
        results = [sum_of_losses(model, *one) for one in now]
        loss = sum(total for total, _ in results) / sum(count for _, count in results)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0).item())
        optimizer.step()
        for name, state in coded.items():
            state.update(trained[name], WEIGHT_DECAY if trained[name].dim() > 1 else 0.0)
        model.zero_grad()
        losses.append(loss.item())
    states = {name: coded.get(name, optimizer.state[value]) for name, value in trained.items()}
    return torch.tensor(losses), torch.tensor(norms), states


def rows():
    batches = [batch(seed=10 + i) for i in range(6)]
    return batches, {"ids": torch.stack([ids for ids, _ in batches]).int(),
                     "labels": torch.stack([labels for _, labels in batches]).int()}  # fmt: skip


def write_curves(folder):
    batches, out = rows()

    def adapted(model, dtype=torch.float32):
        return with_adapter(model.to(dtype), folder / "adapter")

    runs = {
        "lora": lambda: adapted(load(folder)),
        "lora_bf16": lambda: adapted(load(folder), torch.bfloat16),
        "qlora": lambda: adapted(quantize(load(folder), False)),
        "qlora_bf16": lambda: adapted(quantize(load(folder), False), torch.bfloat16),
        "qlora_double": lambda: adapted(quantize(load(folder), True)),
        "full": lambda: load(folder),
    }
    for name, make in runs.items():
        out[f"{name}.loss"], out[f"{name}.grad_norm"], _ = curve(make(), batches)
    save_file(out, folder / "curves.safetensors")


def write_8bit(folder, fill):
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=72, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=None)  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    fill(model, torch.Generator().manual_seed(8))
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    exact, rounded = (run_8bit(load(folder, dtype)) for dtype in (torch.float64, torch.float32))
    out = rows()[1]
    for key, value in exact.items():
        out |= {key: value.float(), f"distance.{key}": distance(rounded[key], value)}
    save_file(out, folder / "curve.safetensors")


def run_8bit(model):
    """Losses, norms, weights of some tensors and their optimizer's moments, codes decoded."""
    loss, norm, states = curve(model, rows()[0], eight_bit=True)
    out = {"loss": loss, "grad_norm": norm}
    for name in ("self_attn.q_proj", "self_attn.k_proj", "input_layernorm"):
        name = f"model.layers.0.{name}.weight"
        state, out[name] = states[name], model.get_parameter(name).data
        for i, moment in enumerate(("exp_avg", "exp_avg_sq")):
            out[f"{name}.{moment}"] = state.decoded(i) if isinstance(state, AdamW8bit) else state[moment]
    return out


MASK64 = 2**64 - 1
DROPOUT, DROPOUT_SEED, DROPOUT_STEP = 0.25, 7, 3
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def random_key(seed, step, site):
    """random_key of native/core/random.h for RandomUse::kDropout."""
    z = seed
    for word in (1, step, site):
        z = (z + 0x9E3779B97F4A7C15 + word) & MASK64
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK64
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK64
        z ^= z >> 31
    return z


def random_bits(key, count):
    """Philox4x32-10 (Salmon et al., SC 2011): 32 bits for each index below count."""
    low = numpy.uint64(2**32 - 1)
    shift = numpy.uint64(32)
    blocks = numpy.arange(-(-count // 4), dtype=numpy.uint64)
    c = [blocks & low, blocks >> shift, blocks * numpy.uint64(0), blocks * numpy.uint64(0)]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        p0, p1 = c[0] * numpy.uint64(0xD2511F53), c[2] * numpy.uint64(0xCD9E8D57)
        c = [p1 >> shift ^ c[1] ^ numpy.uint64(k[0]), p1 & low,
             p0 >> shift ^ c[3] ^ numpy.uint64(k[1]), p0 & low]  # fmt: skip
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return numpy.stack(c, -1).reshape(-1)[:count]


class Mask(torch.nn.Module):
    """Stands where PEFT has its dropout. It is asked for each document in turn."""

    def __init__(self, key, columns):
        super().__init__()
        bits = random_bits(key, sum(DOCUMENTS) * columns).reshape(-1, columns)
        kept = torch.from_numpy(bits >= int(DROPOUT * 2**32))
        self.documents = split(kept / (1 - DROPOUT))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.documents[(self.calls - 1) % len(DOCUMENTS)]


def write_dropout(folder):
    batches = [batch(seed=30 + i) for i in range(2)]
    model = with_adapter(load(folder), folder / "adapter")
    total, count = 0, 0
    for i, one in enumerate(batches):
        seed = random_key(DROPOUT_SEED, DROPOUT_STEP, i)
        for name, module in model.named_modules():
            if hasattr(module, "lora_dropout"):
                parts = name.split(".")
                layer, linear = int(parts[parts.index("layers") + 1]), LINEARS.index(parts[-1])
                key = random_key(seed, layer, linear)
                module.lora_dropout["default"] = Mask(key, module.in_features)
        losses, labels = sum_of_losses(model, *one)
        total, count = total + losses, count + labels
    (total / count).backward()
    out = {"ids": torch.stack([ids for ids, _ in batches]).int(),
           "labels": torch.stack([labels for _, labels in batches]).int(),
           "f32.lora.loss": (total / count).detach().reshape(1)}  # fmt: skip
    for name, value in model.named_parameters():
        if value.requires_grad:
            out[f"f32.lora.{peft_name(name)}"] = value.grad
    save_file(out, folder / "dropout.safetensors")


def write(models, fill):
    write_curves(models / "llama")
    write_dropout(models / "llama")
    write_8bit(models / "llama_wide", fill)
