"""Fresh random models of every family."""

import pathlib
import random
import sys
import tempfile

import numpy
import torch
import transformers

VOCABULARY = 97
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
transformers.utils.logging.disable_progress_bar()


def make_base(family, folder, dtype=torch.float32):
    """Writes a model whose attention, norms and biases differ from neutral values."""
    own = {"mistral": {"sliding_window": 9}, "qwen2": {}, "smollm3": {"no_rope_layers": [1, 0, 1]}}
    config = transformers.AutoConfig.for_model(
        family, vocab_size=VOCABULARY, hidden_size=64, intermediate_size=112, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
        initializer_range=0.2, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, **own.get(family, {}))  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 1:
                value.add_(0.1 * torch.randn_like(value))
    model.to(dtype).save_pretrained(folder)


def load(folder):
    """In f32, whatever type the files have."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def last_logits(model, ids):
    return model(ids).logits[0, -1].numpy()


def check_logits(actual, expected, what, extra=0.0):
    """Two f32 evaluations of 3 layers with sums of some hundred terms; relative to the largest."""
    bound = (500 * 2.0**-24 + extra) * numpy.abs(expected).max()
    difference = numpy.abs(actual - expected).max()
    assert difference <= bound, f"{what}: logits differ by {difference}, bound {bound}"


def run(cases):
    """Calls check(*arguments, folder, seed) of every (check, *arguments) with a fresh folder; prints
    the seed, which the first argument of the program sets; exits."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(2**31)
    print(f"seed {seed}")
    torch.manual_seed(seed)
    failed = 0
    for check, *arguments in cases:
        name = ": ".join([check.__name__, *map(str, arguments)])
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(*arguments, pathlib.Path(folder), seed)
                print(f"ok   {name}")
            except (AssertionError, RuntimeError) as error:
                failed += 1
                print(f"FAIL {name}: {error}")
    sys.exit(1 if failed else 0)
