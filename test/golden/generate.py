"""Writes test/golden/models: tiny random models of every family with what torch, transformers and
peft compute from their files. Needs those three and safetensors:

    python test/golden/generate.py

Per model: config.json and model.safetensors, a PEFT adapter, and golden.safetensors with
  ids, labels, offsets      one packed row of two documents
  f32.logits                of the base model, every document in a forward pass of its own
  f32.lora.loss, f32.lora.<name>   with the adapter: mean over label tokens and its gradients
  bf16.distance.logits, .loss, .lora, .lora.<name>   how far, relative to its norm, what torch
      computes with a bf16 model lies from these; .lora of all gradients together
  full.loss, full.<name>    gradients of every parameter (f32; where FULL says so)
  inv_freq, attention_factor   of the rotary embedding
Every family is there with weights stored in every type; the models of VARIANTS use the adapter of
the model they vary. merged.safetensors has merged weights; see curves.py for the training runs.
manifest.json: versions and SHA-256 of every file.
"""

import hashlib
import json
import pathlib
import shutil

import peft
import torch
import transformers
from safetensors.torch import save_file

import curves
from reference import (DOCUMENTS, VOCABULARY, all_logits, batch, distance, gradients, load,
                       with_adapter)  # fmt: skip

FOLDER = pathlib.Path(__file__).parent / "models"
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
# The families in the types that the models above don't store: {name: (model varied, type)}
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
VARIANTS = {f"{name}_{kind}": (name, kind) for name, kinds in (
    ("llama", ["f16"]), ("mistral", ["f32", "f16"]), ("qwen2", ["f32", "f16"]),
    ("qwen3", ["bf16", "f16"]), ("smollm3", ["f32", "f16"])) for kind in kinds}  # fmt: skip
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
    varied, kind = VARIANTS.get(name, (name, "f32" if name in F32_FILES else "bf16"))
    model_type, fields = MODELS[varied]
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **fields})
    dtype = TYPES[kind]
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


def golden(name, folder):
    ids, labels = batch(seed=1)
    adapter = folder.parent / VARIANTS.get(name, (name,))[0] / "adapter"
    model = load(folder)
    rotary = model.model.rotary_emb
    with torch.no_grad():
        exact = {"logits": all_logits(model, ids)}
    exact |= gradients(with_adapter(model, adapter), ids, labels, "lora.")
    model = load(folder, torch.bfloat16)
    with torch.no_grad():
        rounded = {"logits": all_logits(model, ids).float()}
    rounded |= gradients(with_adapter(model, adapter), ids, labels, "lora.")

    out = {"ids": ids.int(), "labels": labels.int(),
           "offsets": torch.tensor([0, DOCUMENTS[0], sum(DOCUMENTS)], dtype=torch.int32),
           "inv_freq": rotary.inv_freq.clone(),
           "attention_factor": torch.tensor([float(rotary.attention_scaling)])}  # fmt: skip
    for key, value in exact.items():
        out[f"f32.{key}"] = value
        out[f"bf16.distance.{key.replace('lora.loss', 'loss')}"] = distance(rounded[key], value)
    trained = [key for key in exact if "lora_" in key]
    together = [torch.cat([values[key].reshape(-1) for key in trained]) for values in (rounded, exact)]
    out["bf16.distance.lora"] = distance(*together)
    if (folder / "adapter_patterns").exists():
        model = with_adapter(load(folder), folder / "adapter_patterns")
        out |= gradients(model, ids, labels, "f32.patterns.")
    if name in FULL:
        out |= gradients(load(folder), ids, labels, "full.")
    save_file({key: value.contiguous() for key, value in out.items()}, folder / "golden.safetensors")


def write_merged(folder):
    merged = with_adapter(load(folder), folder / "adapter").merge_and_unload()
    weights = {name: value.to(torch.bfloat16) for name, value in merged.state_dict().items() if "_proj" in name}
    save_file(weights, folder / "merged.safetensors")


def main():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in [*MODELS, *VARIANTS]:
        folder = FOLDER / name
        folder.mkdir(parents=True)
        write_model(name, folder)
        if name in MODELS:
            write_adapter(folder, "adapter", seed=3)
        if name == "llama":
            write_adapter(folder, "adapter_patterns", seed=4)
        golden(name, folder)
    curves.write(FOLDER, fill)
    write_merged(FOLDER / "llama")
    files = {str(file.relative_to(FOLDER)): hashlib.sha256(file.read_bytes()).hexdigest()
             for file in sorted(FOLDER.rglob("*")) if file.is_file()}  # fmt: skip
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    (FOLDER / "manifest.json").write_text(json.dumps({"versions": versions, "files": files}, indent=1) + "\n")


if __name__ == "__main__":
    main()
