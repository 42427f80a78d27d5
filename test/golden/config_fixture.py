"""Writes test/golden/config/: what each field of config.json does in transformers (needs torch,
transformers and safetensors).

    python test/golden/config_fixture.py

default_<family>.json    what the family's configuration class writes when nothing is set, and
                         to_dict() of it
<family>/                a tiny model, and in expected.safetensors IDS and the logits after them, a
                         row per case
cases.json               per case: family, fields changed (removed where null, null where "null"),
                         and the row, or that the weights don't fit ("misfit"), or that transformers
                         fails ("refused"); fields that must be taken whatever they say are "inert"
Fields are those that the class has, and those that older files have.
"""

import copy
import json
import pathlib
import shutil
import tempfile

import torch
import transformers
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "config"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
IDS = (3, 17, 5, 11, 24, 8, 2, 19, 27)
TINY = dict(vocab_size=29, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=24,
            rms_norm_eps=1e-3, bos_token_id=1, eos_token_id=2, pad_token_id=None,
            tie_word_embeddings=False)  # fmt: skip

# Must be taken whatever they say.
INERT = {
    "transformers_version": ["4.20.0"], "architectures": [["Other"]], "output_hidden_states": [True],
    "output_attentions": [True], "chunk_size_feed_forward": [8], "id2label": [{"0": "a"}],
    "label2id": [{"a": 0}], "problem_type": ["regression"], "initializer_range": [0.5],
    "use_cache": [False], "pad_token_id": [3], "bos_token_id": [4], "eos_token_id": [5, [5, 6]],
    "_name_or_path": ["a/b"], "dtype": ["bfloat16"], "torch_dtype": ["float16"],
    "max_position_embeddings": [48],
}  # fmt: skip

SLIDING, FULL = "sliding_attention", "full_attention"


def rope(kind, **fields):
    return {"rope_type": kind, "rope_theta": 10000.0, **fields}


LLAMA3 = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=6)  # fmt: skip
ROPE = [rope("default", rope_theta=50.0), rope("linear", factor=3.0), rope("dynamic", factor=3.0),
        rope("yarn", factor=4.0, original_max_position_embeddings=6),
        rope("yarn", factor=4.0, original_max_position_embeddings=6, beta_fast=8, beta_slow=2),
        rope("yarn", factor=4.0, original_max_position_embeddings=6, attention_factor=1.5),
        rope("yarn", factor=4.0, original_max_position_embeddings=6, mscale=0.7, mscale_all_dim=1.3),
        rope("yarn", factor=4.0, original_max_position_embeddings=6, truncate=False),
        rope("llama3", **LLAMA3), rope("default", partial_rotary_factor=0.5),
        rope("longrope", short_factor=[1.0] * 4, long_factor=[2.0] * 4, factor=2.0,
             original_max_position_embeddings=6), {"rope_type": "default"}]  # fmt: skip

# Values to try, by field. The maths may or may not follow them.
VALUES = {
    "vocab_size": [30], "hidden_size": [32], "intermediate_size": [24], "num_hidden_layers": [1, 3],
    "num_attention_heads": [1, 4], "num_key_value_heads": [2], "head_dim": [4, 16],
    "hidden_act": ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "swish", "quick_gelu", "mish",
                   "relu2", "tanh", "gelu_fast"],
    "rms_norm_eps": [0.1], "tie_word_embeddings": [True], "attention_bias": [True],
    "mlp_bias": [True], "attention_dropout": [0.5], "pretraining_tp": [2],
    "is_encoder_decoder": [True], "sliding_window": [3], "use_sliding_window": [True],
    "max_window_layers": [1], "layer_types": [[SLIDING, FULL], [SLIDING, SLIDING]],
    "no_rope_layers": [[0, 1], [0, 0]], "no_rope_layer_interval": [2], "rope_parameters": ROPE,
    "partial_rotary_factor": [0.5], "rope_theta": [50.0], "use_qk_norm": [True],
}  # fmt: skip

WINDOW = {"use_sliding_window": True, "sliding_window": 3}
OLD = {"rope_parameters": None}
COMBINED = {
    "llama": [{**OLD, "rope_theta": 50.0}, {**OLD, "rope_theta": 50.0, "rope_scaling": "null"},
              {**OLD, "rope_scaling": {"type": "linear", "factor": 3.0}},
              {**OLD, "rope_theta": 50.0, "rope_scaling": {"type": "dynamic", "factor": 3.0}},
              {**OLD, "rope_theta": 50.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
              {"rope_scaling": {"type": "linear", "factor": 3.0}},
              {"num_key_value_heads": None, "head_dim": None}],
    "mistral": [{**OLD, "rope_theta": 50.0}, {"sliding_window": "null"}],
    "qwen2": [WINDOW, {**WINDOW, "max_window_layers": 1},
              {**WINDOW, "max_window_layers": 1, "layer_types": None},
              {**WINDOW, "max_window_layers": 0, "layer_types": None},
              {**WINDOW, "layer_types": [SLIDING, FULL]}, {**OLD, "rope_theta": 1000000.0}],
    "qwen3": [{**WINDOW, "max_window_layers": 1, "layer_types": None},
              {**WINDOW, "layer_types": [FULL, SLIDING]}],
    "smollm3": [{**WINDOW, "layer_types": None}, {**WINDOW, "layer_types": None, "no_rope_layers": [0, 1]},
                {**WINDOW, "layer_types": [SLIDING, FULL]},
                {"no_rope_layers": None, "no_rope_layer_interval": 2},
                {"no_rope_layers": None, "no_rope_layer_interval": 1}],
}  # fmt: skip


def changes(family, config):
    """(fields, inert) of every case; a field that is None is removed, "null" is a JSON null."""
    yield {}, True
    for field, values in INERT.items():
        for value in values:
            yield {field: value}, True
    known = set(config) | {"partial_rotary_factor", "rope_theta", "sliding_window", "attention_bias"}
    for field, values in VALUES.items():
        if field in known or family == "llama":
            for value in values:
                yield {field: value}, False
    for field in config:
        if field not in ("model_type", *INERT):
            yield {field: None}, False
    for fields in COMBINED[family]:
        yield fields, False


def changed(config, fields):
    out = copy.deepcopy(config)
    for field, value in fields.items():
        out.pop(field, None)
        if value is not None:
            out[field] = None if value == "null" else value
    return out


def fill(model):
    generator = torch.Generator().manual_seed(21)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.data = 1 + 0.2 * noise if "norm" in name else noise * value.shape[-1] ** -0.5
        if value.dim() == 1 and "bias" in name:
            value.data = 0.1 * noise


@torch.no_grad()
def logits_of(folder):
    """None where a weight is missing, too many or of another shape."""
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)  # fmt: skip
    except RuntimeError as error:
        assert "size mismatch" in str(error) or "mismatched" in str(error), error
        return None
    if info["missing_keys"] or info["mismatched_keys"] or info["unexpected_keys"]:
        return None
    return model.eval()(torch.tensor([IDS]), return_dict=True).logits[0, -1]


def write_family(family, cases):
    default = transformers.AutoConfig.for_model(family)
    written = json.loads(default.to_json_string(use_diff=True))
    (FOLDER / f"default_{family}.json").write_text(
        json.dumps({"written": written, "to_dict": default.to_dict()}) + "\n")
    own = {"mistral": {"sliding_window": 6}, "smollm3": {"no_rope_layers": [1, 0]}}
    config = transformers.AutoConfig.for_model(family, **TINY, **own.get(family, {}))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    fill(model)
    model.save_pretrained(FOLDER / family)
    (FOLDER / family / "generation_config.json").unlink(missing_ok=True)
    base = json.loads((FOLDER / family / "config.json").read_text())
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        shutil.copy(FOLDER / family / "model.safetensors", folder)
        for fields, inert in changes(family, base):
            (folder / "config.json").write_text(json.dumps(changed(base, fields)))
            case = {"family": family, "fields": fields, "inert": inert}
            cases.append(case)
            try:
                logits = logits_of(folder)
            except Exception as error:  # of many kinds, some from deep inside
                print(f"{family} {fields}: {type(error).__name__}: {str(error)[:90]!r}")
                case["refused"] = True
                continue
            if logits is None:
                case["misfit"] = True
            else:
                case["row"] = len(rows)
                rows.append(logits)
    save_file({"ids": torch.tensor(IDS, dtype=torch.int32), "logits": torch.stack(rows)},
              FOLDER / family / "expected.safetensors")  # fmt: skip


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    cases = []
    for family in FAMILIES:
        write_family(family, cases)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (FOLDER / "cases.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
