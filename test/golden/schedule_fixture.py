"""Learning rates of transformers' schedules, for test/unit/schedule.test.ts."""
import json
import pathlib

import torch
import transformers

LR, TOTAL, WARMUP = 1.0, 10, 2


def rates(name, kwargs, warmup=WARMUP):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    schedule = transformers.get_scheduler(name, optimizer, warmup, TOTAL, kwargs)
    out = []
    for _ in range(TOTAL):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


base = {"learningRate": LR, "totalSteps": TOTAL, "warmup": WARMUP}
cases = {
    "constant": ("constant", {}, {}),
    "constant_with_warmup": ("constant_with_warmup", {}, {}),
    "linear": ("linear", {}, {}),
    "cosine": ("cosine", {}, {}),
    "cosine_with_min_lr": ("cosine_with_min_lr", {"min_lr_rate": 0.1}, {"minLrRatio": 0.1}),
    "cosine_with_restarts": ("cosine_with_restarts", {"num_cycles": 2}, {"numCycles": 2}),
    "polynomial": ("polynomial", {"power": 2.0}, {"power": 2}),
    "inverse_sqrt": ("inverse_sqrt", {}, {}),
    "warmup_stable_decay": (
        "warmup_stable_decay",
        {"num_decay_steps": 4, "min_lr_ratio": 0.1},
        {"decay": 4, "minLrRatio": 0.1},
    ),
}
out = {"transformers": transformers.__version__, "cases": {}}
for name, (kind, kwargs, ours) in cases.items():
    out["cases"][name] = {"options": {"type": kind, **base, **ours}, "rates": rates(kind, kwargs)}
path = pathlib.Path(__file__).parent / "schedules.json"
path.write_text(json.dumps(out, indent=1) + "\n")
