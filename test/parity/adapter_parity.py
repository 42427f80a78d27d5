"""Adapters both ways: what the engine saves PEFT loads with the same values, and what PEFT saves the
engine loads with the same values and logits. Fresh random models; the seed is printed."""

import peft
import torch
from safetensors.torch import load_file

import models
from engine import Model

CASES = {
    "suffixes": dict(r=4, lora_alpha=8, targets=["q_proj", "down_proj"]),
    "all-linear, rsLoRA": dict(r=8, lora_alpha=12, use_rslora=True, targets=["all-linear"]),
    "modules_to_save": dict(r=2, lora_alpha=4, targets=["v_proj"],
                            saved=["lm_head", "embed_tokens", "norm"]),
}  # fmt: skip

def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def check_equal(actual, expected, what):
    assert actual.keys() == expected.keys(), f"{what}: names {actual.keys() ^ expected.keys()}"
    for name, value in expected.items():
        assert torch.equal(actual[name].float(), value.float()), f"{what}: {name} differs"


def adapters(family, case, folder, seed):
    options = dict(CASES[case])
    targets, saved = options.pop("targets"), options.pop("saved", [])
    models.make_base(family, folder / "base")
    engine = Model(folder / "base")

    def load_peft(name):
        return peft.PeftModel.from_pretrained(models.load(folder / "base"), folder / name).eval()

    ours = engine.create_adapter(
        targets, saved, seed=seed,
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

    ids = torch.randint(models.VOCABULARY, (1, 23))
    for name in ("theirs", "ours_again"):
        expected = models.last_logits(load_peft(name), ids)
        actual = engine.last_logits(ids[0].tolist(), models.VOCABULARY, theirs)
        models.check_logits(actual, expected, name)


if __name__ == "__main__":
    models.run((adapters, family, case) for family in models.FAMILIES for case in CASES)
