"""Adapters both ways: what the engine saves PEFT loads with the same values, and what PEFT saves the
engine loads with the same values and logits. Fresh random models; the seed is printed."""

import pathlib
import random
import sys
import tempfile

import numpy
import peft
import torch
import transformers
from safetensors.torch import load_file

from engine import Model

transformers.utils.logging.disable_progress_bar()
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(2**31)
VOCABULARY = 97
CASES = {
    "suffixes": dict(r=4, lora_alpha=8, targets=["q_proj", "down_proj"]),
    "all-linear, rsLoRA": dict(r=8, lora_alpha=12, use_rslora=True, targets=["all-linear"]),
    "modules_to_save": dict(r=2, lora_alpha=4, targets=["v_proj"],
                            saved=["lm_head", "embed_tokens", "norm"]),
}  # fmt: skip
FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}


def make_base(family, folder):
    config_class, model_class = FAMILIES[family]
    config = config_class(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=112, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
        initializer_range=0.2, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        pad_token_id=0)  # fmt: skip
    model = model_class(config).eval()
    model.save_pretrained(folder)
    return model


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def check_equal(actual, expected, what):
    assert actual.keys() == expected.keys(), f"{what}: names {actual.keys() ^ expected.keys()}"
    for name, value in expected.items():
        assert torch.equal(actual[name].float(), value.float()), f"{what}: {name} differs"


def check(family, case, folder):
    options = dict(CASES[case])
    targets, saved = options.pop("targets"), options.pop("saved", [])
    make_base(family, folder / "base")
    engine = Model(folder / "base")

    def load_peft(name):
        base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
        return peft.PeftModel.from_pretrained(base, folder / name).eval()

    ours = engine.create_adapter(
        targets, saved, seed=SEED,
        **{**options, "use_rslora": int(options.get("use_rslora", False))})
    engine.save_adapter(ours, folder / "ours")
    wrapped = load_peft("ours")
    wrapped.save_pretrained(folder / "peft_again")
    check_equal(tensors(folder / "peft_again"), tensors(folder / "ours"), "ours in PEFT")

    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    wrapped.save_pretrained(folder / "theirs")
    theirs = engine.load_adapter(folder / "theirs")
    engine.save_adapter(theirs, folder / "ours_again")
    check_equal(tensors(folder / "ours_again"), tensors(folder / "theirs"), "theirs in ours")

    ids = torch.randint(VOCABULARY, (1, 23))
    for name in ("theirs", "ours_again"):
        with torch.no_grad():
            expected = load_peft(name)(ids).logits[0, -1].numpy()
        actual = engine.last_logits(ids[0].tolist(), VOCABULARY, theirs)
        # Two f32 evaluations of 3 layers with sums of some hundred terms.
        bound = 500 * 2.0**-24 * numpy.abs(expected).max()
        difference = numpy.abs(actual - expected).max()
        assert difference <= bound, f"{name}: logits differ by {difference}, bound {bound}"


def main():
    print(f"seed {SEED}")
    torch.manual_seed(SEED)
    failed = 0
    for family in FAMILIES:
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    check(family, case, pathlib.Path(folder))
                    print(f"ok   {family}: {case}")
                except (AssertionError, RuntimeError) as error:
                    failed += 1
                    print(f"FAIL {family}: {case}: {error}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
