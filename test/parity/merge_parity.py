"""Merged folders: what the engine merges transformers loads, with the weights and logits of PEFT's
merge_and_unload from the original weights, also after training over NF4."""

import peft
import torch
from safetensors.torch import load_file

import models
from engine import Model, merge

OPTIONS = dict(r=4, lora_alpha=12, use_rslora=True, target_modules="all-linear")
# QLoRA trains over NF4 weights, but is merged into the original ones.
QUANTIZATION = {"plain": 0, "nf4": 1, "nf4-double": 2}


def peft_adapter(base, folder):
    options = peft.LoraConfig(**OPTIONS, init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(models.load(base), options).save_pretrained(folder)


def trained_adapter(base, quantization, ids, folder, seed):
    engine = Model(base, quantization)
    adapter = engine.create_adapter(["all-linear"], seed=seed, r=4, lora_alpha=12.0, use_rslora=1)
    losses = engine.train(adapter, ids[0].tolist(), steps=6, learning_rate=1e-2)
    assert losses[-1] < 0.9 * losses[0], f"the adapter didn't learn: {losses}"
    engine.save_adapter(adapter, folder)


def terms(folder):
    """{name of a weight: scale |B| |A|}, to which a sum's rounding errors are relative."""
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = OPTIONS["lora_alpha"] / OPTIONS["r"] ** 0.5
    out = {}
    for name, a in tensors.items():
        if "lora_A" in name:
            b = tensors[name.replace("lora_A", "lora_B")]
            weight = name.removeprefix("base_model.model.").replace("lora_A.", "")
            out[weight] = scale * (b.abs() @ a.abs())
    return out


def compare_weights(actual, expected, base, terms, dtype):
    assert actual.keys() == expected.keys()
    changed = 0
    for name, wanted in expected.items():
        if name not in terms:
            assert torch.equal(actual[name], wanted), f"{name} isn't the base's"
            continue
        changed += not torch.equal(wanted, base[name])
        # Sums of r products in another order; on the way to another type they may fall on the other
        # side of a boundary.
        limit = 2 * (OPTIONS["r"] + 3) * 2.0**-24 * (terms[name] + base[name].abs())
        if dtype != torch.float32:
            limit += torch.finfo(dtype).eps * wanted.abs()
        assert ((actual[name] - wanted).abs() <= limit).all(), f"{name} differs"
    assert changed == 7 * 3, f"{changed} weights changed"


def merged(family, method, type_name, folder, seed):
    dtype = getattr(torch, type_name)
    base, adapter = folder / "base", folder / "adapter"
    models.make_base(family, base, dtype)
    ids = torch.randint(models.VOCABULARY, (1, 23))
    if method == "plain":
        peft_adapter(base, adapter)
    else:
        trained_adapter(base, QUANTIZATION[method], ids, adapter, seed)
    merge(base, adapter, folder / "merged")

    original = models.load(base)
    before = {name: value.clone() for name, value in original.state_dict().items()}
    exact = peft.PeftModel.from_pretrained(original, adapter).merge_and_unload().eval()
    exact_logits = models.last_logits(exact, ids)
    exact.to(dtype).save_pretrained(folder / "wanted")
    wanted, ours = models.load(folder / "wanted"), models.load(folder / "merged")
    compare_weights(ours.state_dict(), wanted.state_dict(), before, terms(adapter), dtype)
    logits = models.last_logits(wanted, ids)
    # Where the f32 values straddle a boundary of the files' type, single weights are rounded to the
    # other side: few beside all the roundings, whose effect on the logits is this.
    rounding = 0.25 * abs(logits - exact_logits).max() / abs(logits).max()
    merged_logits = models.last_logits(ours, ids)
    models.check_logits(merged_logits, logits, "merged", rounding)
    in_engine = Model(folder / "merged").last_logits(ids[0].tolist(), models.VOCABULARY)
    models.check_logits(in_engine, merged_logits, "merged in the engine")


if __name__ == "__main__":
    models.run((merged, family, method, dtype) for family in models.FAMILIES
               for method in QUANTIZATION for dtype in ("float32", "bfloat16"))  # fmt: skip
