"""NF4: the engine's codes of fresh random tensors against bitsandbytes' definition
(test/golden/quantization_fixture.py), and folders in bitsandbytes' layout, written here, against
torch with the dequantized weights."""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

import models
from engine import Model, nf4_codes

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "golden"))
import quantization_fixture as definition

TENSORS = {
    "normal": lambda: torch.randn(200, 331) * 0.04,
    "heavy tails": lambda: torch.randn(4096) / torch.rand(4096).clamp(min=1e-4),
    "many sizes": lambda: torch.randn(20000) * 10 ** (torch.randn(20000) * 3),
    "zeros": lambda: torch.randn(300, 64) * (torch.rand(300, 1) > 0.5),
    "one value": lambda: torch.randn(1),
}


def codes(tensor, type_name, folder, seed):
    x = TENSORS[tensor]().to(getattr(torch, type_name)).reshape(-1)
    x = x.nan_to_num(posinf=6e4, neginf=-6e4)
    save_file({"x": x}, folder / "x.safetensors")
    nf4_codes(folder / "x.safetensors", folder / "out.safetensors")
    actual = load_file(folder / "out.safetensors")
    packed, absmax, _ = definition.nf4(x)
    offset, nested_codes, nested_absmax, _ = definition.nested(absmax)
    for name, value in dict(codes=packed, absmax=absmax, offset=offset.reshape(1),
                            nested_codes=nested_codes, nested_absmax=nested_absmax).items():  # fmt: skip
        different = (actual[name] != value).sum().item()
        assert different == 0, f"{different} of {value.numel()} {name} differ"


def quantized_parts(name, weight, nested):
    """The tensors that bitsandbytes stores for a weight, and the weight's values."""
    packed, absmax, values = definition.nf4(weight)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
    parts = {name: packed.reshape(-1, 1), f"{name}.quant_map": definition.NF4.clone()}
    if nested:
        offset, parts[f"{name}.absmax"], parts[f"{name}.nested_absmax"], absmax = definition.nested(absmax)
        parts[f"{name}.nested_quant_map"] = definition.dynamic_map(True)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset.item()}
        code = torch.stack([packed >> 4, packed & 15], -1).reshape(-1).long()
        values = definition.unscale(definition.NF4[code], absmax, 64)
    else:
        parts[f"{name}.absmax"] = absmax
    text = json.dumps(state).encode()
    parts[f"{name}.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text), dtype=torch.uint8)
    return parts, values.reshape(weight.shape)


def folders(family, kind, folder, seed):
    nested = kind == "double"
    models.make_base(family, folder / "base")
    model = models.load(folder / "base")
    tensors = {}
    for name, value in model.state_dict().items():
        if "_proj.weight" in name:
            parts, restored = quantized_parts(name, value, nested)
            tensors |= parts
            value.copy_(restored)
        else:
            tensors[name] = value.clone()
    shutil.copytree(folder / "base", folder / "quantized")
    save_file(tensors, folder / "quantized" / "model.safetensors", metadata={"format": "pt"})
    file = folder / "quantized" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
        "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": nested, "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8", "llm_int8_threshold": 6.0, "llm_int8_skip_modules": None,
        "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False}  # fmt: skip
    file.write_text(json.dumps(config))

    ids = torch.randint(models.VOCABULARY, (1, 23))
    expected = models.last_logits(model, ids)
    tokens = ids[0].tolist()
    read = Model(folder / "quantized").last_logits(tokens, models.VOCABULARY)
    models.check_logits(read, expected, "the folder")
    on_load = Model(folder / "base", 2 if nested else 1).last_logits(tokens, models.VOCABULARY)
    assert (on_load == read).all(), "quantizing on load gives other logits than the folder"
    unquantized = Model(folder / "base").last_logits(tokens, models.VOCABULARY)
    assert abs(unquantized - expected).max() > 0.01 * abs(expected).max(), "nothing was quantized"


if __name__ == "__main__":
    models.run([*((codes, tensor, dtype) for tensor in TENSORS
                  for dtype in ("float32", "bfloat16", "float16")),
                *((folders, family, kind) for family in models.FAMILIES
                  for kind in ("single", "double"))])  # fmt: skip
