"""Writes test/golden/models: tiny random models of every family with what torch, transformers and
peft compute from their files. Needs those three and safetensors:

    python test/golden/generate.py

Per model: config.json and model.safetensors, a PEFT adapter, and golden.safetensors with
  ids, labels, offsets      one packed row of two documents
  <dtype>.logits            of the base model, every document in a forward pass of its own
  <dtype>.loss, <dtype>.lora.<name>   with the adapter: mean over label tokens and its gradients
  full.loss, full.<name>    gradients of every parameter (f32; where FULL says so)
  inv_freq, attention_factor   of the rotary embedding
curves.safetensors has 20 AdamW steps of LoRA, QLoRA (NF4, plain and nested) and full fine-tuning,
merged.safetensors the merged weights. manifest.json: versions and SHA-256 of every file.
"""

import hashlib
import json
import pathlib
import shutil

import peft
import torch
import transformers
from safetensors.torch import save_file

import quantization_fixture as quantization

FOLDER = pathlib.Path(__file__).parent / "models"
VOCABULARY = 101
# The first is the longest, so that dynamic scaling sees the same length in both.
DOCUMENTS = (19, 17)
SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=44, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None)  # fmt: skip


def rope(kind, **fields):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **fields}}


# name: (model_type, what differs from SIZES)
MODELS = {
    "llama": ("llama", {}),
    "llama_tied_v4": ("llama", {"tie_word_embeddings": True}),
    "llama_biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_linear_v4": ("llama", rope("linear", factor=4.0)),
    "llama_dynamic": ("llama", {"max_position_embeddings": 16, **rope("dynamic", factor=2.0)}),
    "llama_yarn": ("llama", rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama_llama3": ("llama", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                   original_max_position_embeddings=24)),  # fmt: skip
    "mistral": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 6,
                        "max_window_layers": 2, "rope_parameters": {"rope_type": "default",
                        "rope_theta": 1000000.0}}),  # fmt: skip
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {"num_hidden_layers": 3, "no_rope_layers": [1, 0, 1],
                            "tie_word_embeddings": True}),  # fmt: skip
}
FULL = {"llama", "llama_tied_v4", "llama_biases", "mistral", "qwen2", "qwen3", "smollm3"}
F32_FILES = {"llama_tied_v4", "qwen3"}
ADAPTERS = {
    "adapter": dict(r=4, lora_alpha=8, target_modules="all-linear"),
    "adapter_patterns": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
                             use_rslora=True, rank_pattern={"q_proj": 3, "layers.1.mlp.down_proj": 6},
                             alpha_pattern={"v_proj": 5}, modules_to_save=["lm_head"]),  # fmt: skip
}


def fill(model, generator):
    """Values whose effect can be seen: unit gain through linears, norms and biases off 1 and 0."""
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if "norm" in name:
            value.data = 1 + 0.2 * noise
        elif value.dim() == 1:
            value.data = 0.1 * noise
        else:
            untied_embedding = "embed" in name and not model.config.tie_word_embeddings
            value.data = noise * (0.7 if untied_embedding else value.shape[1] ** -0.5)


def write_model(name, folder):
    model_type, fields = MODELS[name]
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **fields})
    dtype = torch.float32 if name in F32_FILES else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_config(config)
    fill(model, torch.Generator().manual_seed(len(name)))
    model.to(dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name.endswith("_v4"):
        as_version_4(folder / "config.json")


def as_version_4(file):
    config = json.loads(file.read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **parameters}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.40.0"
    file.write_text(json.dumps(config, indent=2) + "\n")


def load(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager").eval()  # fmt: skip


def write_adapter(folder, name, seed):
    config = peft.LoraConfig(**ADAPTERS[name], task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(load(folder), config)
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, value in model.named_parameters():
        if "lora_" in parameter_name:
            value.data = torch.randn(value.shape, generator=generator) * value.shape[1] ** -0.5 * 0.5
        elif "modules_to_save" in parameter_name:
            value.data = value + 0.1 * torch.randn(value.shape, generator=generator)
    model.save_pretrained(folder / name)
    (folder / name / "README.md").unlink(missing_ok=True)
    file = folder / name / "adapter_config.json"
    saved = json.loads(file.read_text())
    saved["base_model_name_or_path"] = None
    if isinstance(saved["target_modules"], list):
        saved["target_modules"].sort()
    file.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")


def batch(seed):
    """A packed row; the first third of a document is a prompt without labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (sum(DOCUMENTS),), generator=generator)
    labels, begin = ids.clone(), 0
    for length in DOCUMENTS:
        labels[begin : begin + length // 3] = -100
        begin += length
    return ids, labels


def split(tensor):
    return tensor.split(DOCUMENTS)


def all_logits(model, ids):
    return torch.cat([model(document[None]).logits[0] for document in split(ids)])


def sum_of_losses(model, ids, labels):
    """Summed over label tokens, and how many there are; each document by itself."""
    total, count = 0, 0
    for document, wanted in zip(split(ids), split(labels), strict=True):
        logits = model(document[None]).logits[0, :-1].float()
        total = total + torch.nn.functional.cross_entropy(
            logits, wanted[1:], ignore_index=-100, reduction="sum")  # fmt: skip
        count += (wanted[1:] != -100).sum().item()
    return total, count


def peft_name(name):
    return name.replace(".default", "").replace(".modules_to_save", "")


def gradients(model, ids, labels, prefix):
    total, count = sum_of_losses(model, ids, labels)
    loss = total / count
    loss.backward()
    out = {f"{prefix}loss": loss.detach().float().reshape(1)}
    for name, value in model.named_parameters():
        if value.requires_grad:
            out[f"{prefix}{peft_name(name)}"] = value.grad.float()
    return out


def with_adapter(folder, name, dtype):
    return peft.PeftModel.from_pretrained(load(folder, dtype), folder / name, is_trainable=True).eval()


def golden(name, folder):
    ids, labels = batch(seed=1)
    out = {"ids": ids.int(), "labels": labels.int(),
           "offsets": torch.tensor([0, DOCUMENTS[0], sum(DOCUMENTS)], dtype=torch.int32)}  # fmt: skip
    for label, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        model = load(folder, dtype)
        with torch.no_grad():
            out[f"{label}.logits"] = all_logits(model, ids).float()
        if dtype == torch.float32:
            rotary = model.model.rotary_emb
            out["inv_freq"] = rotary.inv_freq.clone()
            out["attention_factor"] = torch.tensor([float(rotary.attention_scaling)])
        out |= gradients(with_adapter(folder, "adapter", dtype), ids, labels, f"{label}.lora.")
        if (folder / "adapter_patterns").exists() and dtype == torch.float32:
            model = with_adapter(folder, "adapter_patterns", dtype)
            out |= gradients(model, ids, labels, f"{label}.patterns.")
    if name in FULL:
        out |= gradients(load(folder), ids, labels, "full.")
    save_file({key: value.contiguous() for key, value in out.items()}, folder / "golden.safetensors")


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


def curve(model, batches, steps=20, learning_rate=5e-3, weight_decay=0.1):
    """Each step takes two micro-batches, weighted by label tokens; clipped to norm 1."""
    trained = [value for value in model.parameters() if value.requires_grad]
    decayed = [value for value in trained if value.dim() > 1]
    plain = [value for value in trained if value.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=learning_rate)  # fmt: skip
    losses, norms = [], []
    for step in range(steps):
        now = [batches[(2 * step + i) % len(batches)] for i in range(2)]
        results = [sum_of_losses(model, *one) for one in now]
        loss = sum(total for total, _ in results) / sum(count for _, count in results)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return torch.tensor(losses), torch.tensor(norms)


def write_curves(folder):
    batches = [batch(seed=10 + i) for i in range(6)]
    out = {"ids": torch.stack([ids for ids, _ in batches]).int(),
           "labels": torch.stack([labels for _, labels in batches]).int()}  # fmt: skip
    adapter = folder / "adapter"
    runs = {
        "lora": lambda: with_adapter(folder, "adapter", torch.float32),
        "qlora": lambda: peft.PeftModel.from_pretrained(quantize(load(folder), False), adapter, is_trainable=True),
        "qlora_double": lambda: peft.PeftModel.from_pretrained(quantize(load(folder), True), adapter, is_trainable=True),
        "full": lambda: load(folder),
    }  # fmt: skip
    for name, make in runs.items():
        out[f"{name}.loss"], out[f"{name}.grad_norm"] = curve(make(), batches)
    save_file(out, folder / "curves.safetensors")


def write_merged(folder):
    merged = with_adapter(folder, "adapter", torch.float32).merge_and_unload()
    weights = {name: value.to(torch.bfloat16) for name, value in merged.state_dict().items() if "_proj" in name}
    save_file(weights, folder / "merged.safetensors")


def main():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in MODELS:
        folder = FOLDER / name
        folder.mkdir(parents=True)
        write_model(name, folder)
        write_adapter(folder, "adapter", seed=3)
        if name == "llama":
            write_adapter(folder, "adapter_patterns", seed=4)
        golden(name, folder)
    write_curves(FOLDER / "llama")
    write_merged(FOLDER / "llama")
    files = {str(file.relative_to(FOLDER)): hashlib.sha256(file.read_bytes()).hexdigest()
             for file in sorted(FOLDER.rglob("*")) if file.is_file()}  # fmt: skip
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    (FOLDER / "manifest.json").write_text(json.dumps({"versions": versions, "files": files}, indent=1) + "\n")


if __name__ == "__main__":
    main()
