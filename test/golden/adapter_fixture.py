"""Writes test/golden/adapter/: a tiny Llama, LoRA adapters as PEFT saves them, the merged weights and
logits that PEFT computes (needs torch, transformers and peft).

    python test/golden/adapter_fixture.py

model/ is the base; each adapter's folder also holds expected.safetensors: `logits` of the base with
the adapter over `input_ids`, and with a `merged.` prefix every tensor that merging changes.
"""

import json
import pathlib
import shutil

import peft
import torch
import transformers
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "adapter"
IDS = torch.tensor([[1, 5, 9, 30, 2, 17, 0, 39]])

CASES = {
    "plain": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "all_linear": dict(r=2, lora_alpha=3, use_rslora=True, target_modules="all-linear"),
    # Overlapping keys: the first one counts, in the order of the file, which PEFT sorts.
    "patterns": dict(
        r=4, lora_alpha=8, target_modules=r".*\.(q|down)_proj",
        rank_pattern={r"model\.layers\.1\.self_attn\.q_proj": 3, "q_proj": 2},
        alpha_pattern={"down_proj": 6, r"layers\.1\.mlp\.down_proj": 5},
    ),
    "narrowed": dict(r=2, lora_alpha=4, target_modules=["o_proj", "up_proj"],
                     layers_to_transform=[1]),
    "saved": dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                  modules_to_save=["lm_head", "embed_tokens", "model.norm"]),
}  # fmt: skip


def make_model(tied=False):
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    return model


def write_case(name, options, base):
    model = transformers.LlamaForCausalLM.from_pretrained(base).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for parameter_name, parameter in wrapped.named_parameters():
            if "lora_" in parameter_name or "modules_to_save" in parameter_name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped.eval()
    folder = FOLDER / name
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink()
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text())
    config["base_model_name_or_path"] = "base"  # no path of the machine that made it
    # PEFT keeps targets in a set, whose order changes from run to run.
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    config_path.write_text(json.dumps(config, indent=2) + "\n")
    with torch.no_grad():
        logits = wrapped(IDS).logits[0]
        merged = wrapped.merge_and_unload().state_dict()
    expected = {"logits": logits, "input_ids": IDS[0].to(torch.int32)}
    for key, value in merged.items():
        if key not in before or not torch.equal(before[key], value):
            expected["merged." + key] = value
    save_file({k: v.contiguous().clone() for k, v in expected.items()},
              folder / "expected.safetensors", metadata={"format": "pt"})


def main():
    torch.manual_seed(20)
    shutil.rmtree(FOLDER, ignore_errors=True)
    base = FOLDER / "model"
    make_model().save_pretrained(base)
    tied = FOLDER / "tied_model"
    make_model(tied=True).save_pretrained(tied)
    for name, options in CASES.items():
        write_case(name, options, base)
    write_case("tied_saved", dict(r=2, lora_alpha=4, target_modules=["v_proj"],
                                  modules_to_save=["embed_tokens"]), tied)


if __name__ == "__main__":
    main()
