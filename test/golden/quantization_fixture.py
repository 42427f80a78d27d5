"""Writes test/golden/quantization/*.safetensors: NF4, nested 8-bit and 8-bit AdamW values as
bitsandbytes' portable torch operators define them (needs torch and safetensors).

    python test/golden/quantization_fixture.py

Where bitsandbytes can be imported, each value is also compared with what it returns itself. The
offset of double quantization is the one exception to bit equality: torch sums in an order of its
own, so the fixture states the mean summed in f64.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "quantization"
TINY = 1e-38
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
     -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
     0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
     0.7229568362236023, 1.0])  # fmt: skip


def dynamic_map(signed):
    """Per decade a linear grid of one bit less; the centres of its cells, zero and one."""
    values = [0.0, 1.0]
    for decade in range(7):
        grid = torch.linspace(0.1, 1, (2**decade if signed else 2 ** (decade + 1)) + 1)
        cells = (10 ** (decade - 6)) * ((grid[:-1] + grid[1:]) / 2)
        values += cells.tolist() + ((-cells).tolist() if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float32)


def scaled_blocks(x, block):
    """Values in [-1, 1] and absmax per block; a short last block divides by its absmax."""
    x = x.reshape(-1).float()
    full = x.numel() // block * block
    body = x[:full].reshape(-1, block)
    absmax = body.abs().amax(-1)
    scaled = (body * (1 / absmax.clamp(min=TINY))[:, None]).clamp(-1, 1).reshape(-1)
    if full < x.numel():
        last = x[full:].abs().max().clamp(min=TINY)
        absmax = torch.cat([absmax, last[None]])
        scaled = torch.cat([scaled, (x[full:] / last).clamp(-1, 1)])
    return scaled, absmax


def codes(scaled, values):
    return torch.bucketize(scaled, (values[:-1] + values[1:]) / 2).to(torch.uint8)


def unscale(values, absmax, block):
    repeated = absmax.repeat_interleave(block)[: values.numel()]
    return values * repeated


def nf4(x):
    scaled, absmax = scaled_blocks(x, 64)
    if scaled.numel() % 2:
        scaled = torch.cat([scaled, torch.zeros(1)])
    code = codes(scaled, NF4)
    packed = code[::2] << 4 | code[1::2]
    return packed, absmax, unscale(NF4[code.long()], absmax, 64)[: x.numel()]


def nested(absmax):
    offset = absmax.double().sum().float() / absmax.numel()
    scaled, nested_absmax = scaled_blocks(absmax - offset, 256)
    code = codes(scaled, dynamic_map(True))
    restored = unscale(dynamic_map(True)[code.long()], nested_absmax, 256) + offset
    return offset, code, nested_absmax, restored


def weights():
    """Normal values, values on and beside every threshold, zeros, tiny, huge, an odd short tail."""
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(40, 64, generator=generator) * 0.05
    normal = normal * (1 + torch.rand(40, 1, generator=generator))
    bounds = (NF4[:-1] + NF4[1:]) / 2
    inf = torch.full_like(bounds, math.inf)
    edges = torch.cat([bounds, torch.nextafter(bounds, inf), torch.nextafter(bounds, -inf),
                       torch.ones(19)])  # fmt: skip
    special = [edges, edges * 0.37, torch.zeros(64), torch.full((64,), 1e-40), -edges * 1e38,
               torch.randn(64, generator=generator) * 1e-30]  # fmt: skip
    return torch.cat([normal.reshape(-1), *special, torch.randn(37, generator=generator)])


def block_maxima():
    """What absmax values look like: positive, near each other, some far away; a short tail."""
    generator = torch.Generator().manual_seed(9)
    values = 0.1 + 0.02 * torch.randn(2 * 256 + 91, generator=generator).abs()
    values[::50] *= 7
    return values


def adamw_8bit(parameter, gradients, learning_rate, betas, eps, weight_decay):
    """Yields the state after each step. State values are requantized, the update uses the exact."""
    first, second = dynamic_map(True), dynamic_map(False)
    n = parameter.numel()
    m_codes, v_codes = codes(torch.zeros(n), first), torch.zeros(n, dtype=torch.uint8)
    m_absmax, v_absmax = torch.zeros(-(-n // 256)), torch.zeros(-(-n // 256))
    for step, gradient in enumerate(gradients, 1):
        m = unscale(first[m_codes.long()], m_absmax, 256)
        v = unscale(second[v_codes.long()], v_absmax, 256)
        m = betas[0] * m.double() + (1 - betas[0]) * gradient.double()
        v = betas[1] * v.double() + (1 - betas[1]) * gradient.double() ** 2
        m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
        parameter = parameter.double() * (1 - learning_rate * weight_decay)
        parameter = (parameter - learning_rate * m_hat / (v_hat.sqrt() + eps)).float()
        scaled, m_absmax = scaled_blocks(m.float(), 256)
        m_codes = codes(scaled, first)
        scaled, v_absmax = scaled_blocks(v.float(), 256)
        v_codes = codes(scaled, second)
        yield {"parameter": parameter, "m_codes": m_codes, "v_codes": v_codes,
               "m_absmax": m_absmax, "v_absmax": v_absmax}  # fmt: skip


def adamw_fixture():
    generator = torch.Generator().manual_seed(11)
    n = 2 * 256 + 77
    parameter = torch.randn(n, generator=generator)
    spread = torch.exp(2 * torch.randn(n, generator=generator))
    gradients = torch.randn(20, n, generator=generator) * spread * 1e-3
    out = {"initial": parameter, "gradients": gradients}
    states = adamw_8bit(parameter, gradients, 1e-3, (0.9, 0.999), 1e-8, 0.01)
    for step, state in enumerate(states, 1):
        if step > 3 and step % 5 != 0:
            continue
        out |= {f"{name}.{step}": value for name, value in state.items()}
    return out


def compare_with_bitsandbytes(fixture):
    x = fixture["x"]
    try:
        import bitsandbytes.functional as bnb
    except ImportError:
        print("bitsandbytes can't be imported: own definition only")
        return
    for signed in (True, False):
        assert torch.equal(bnb.create_dynamic_map(signed), dynamic_map(signed))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        packed, state = bnb.quantize_4bit(x.to(dtype), quant_type="nf4")
        assert torch.equal(packed.reshape(-1), fixture[f"codes.{name}"])
        assert torch.equal(state.absmax, fixture[f"absmax.{name}"])
        restored = bnb.dequantize_4bit(packed, state)
        assert torch.equal(restored, fixture[f"dequantized.{name}"])
    mean = fixture["absmax"].mean()
    ulps = (mean.view(torch.int32) - fixture["offset"].view(torch.int32)).item()
    code, state8 = bnb.quantize_blockwise(fixture["absmax"] - fixture["offset"], blocksize=256)
    assert torch.equal(code, fixture["nested_codes"])
    assert torch.equal(state8.absmax, fixture["nested_absmax"])
    print(f"equal to bitsandbytes; its mean differs by {ulps} units in the last place")


def main():
    FOLDER.mkdir(exist_ok=True)
    save_file({"signed": dynamic_map(True), "unsigned": dynamic_map(False)},
              FOLDER / "dynamic_map.safetensors")  # fmt: skip
    x = weights()
    fixture = {"x": x}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        packed, absmax, restored = nf4(x.to(dtype))
        fixture |= {f"codes.{name}": packed, f"absmax.{name}": absmax,
                    f"dequantized.{name}": restored.to(dtype)}  # fmt: skip
    offset, code, nested_absmax, restored = nested(block_maxima())
    fixture |= {"absmax": block_maxima(), "offset": offset, "nested_codes": code, "nested_absmax": nested_absmax,
                "absmax.restored": restored}  # fmt: skip
    compare_with_bitsandbytes(fixture)
    save_file(fixture, FOLDER / "nf4.safetensors")
    save_file(adamw_fixture(), FOLDER / "adamw_8bit.safetensors")


if __name__ == "__main__":
    main()
