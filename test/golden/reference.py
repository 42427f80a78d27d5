"""What torch, transformers and peft compute from a model folder: logits, losses and gradients of one
packed row of documents, each document in a forward pass of its own."""

import peft
import torch
import transformers

VOCABULARY = 101
# The first is the longest, so that dynamic scaling sees the same length in both.
DOCUMENTS = (19, 17)


def load(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager").eval()  # fmt: skip


def with_adapter(model, folder):
    return peft.PeftModel.from_pretrained(model, folder, is_trainable=True).eval()


def batch(seed):
    """A packed row; the first third of a document is a prompt without labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (sum(DOCUMENTS),), generator=generator)
    labels, begin = ids.clone(), 0
    for length in DOCUMENTS:
        labels[begin : begin + length // 3] = -100
        begin += length
    return ids, labels


def split(tensor):
    return tensor.split(DOCUMENTS)


def all_logits(model, ids):
    return torch.cat([model(document[None]).logits[0] for document in split(ids)])


def sum_of_losses(model, ids, labels):
    """Summed over label tokens, and how many there are."""
    total, count = 0, 0
    for document, wanted in zip(split(ids), split(labels), strict=True):
        logits = model(document[None]).logits[0, :-1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        total = total + torch.nn.functional.cross_entropy(
            logits, wanted[1:], ignore_index=-100, reduction="sum")  # fmt: skip
        count += (wanted[1:] != -100).sum().item()
    return total, count


def peft_name(name):
    return name.replace(".default", "").replace(".modules_to_save", "")


def gradients(model, ids, labels, prefix):
    """{prefix + "loss": mean over label tokens, prefix + name: gradient of every trained value}"""
    total, count = sum_of_losses(model, ids, labels)
    loss = total / count
    loss.backward()
    out = {f"{prefix}loss": loss.detach().float().reshape(1)}
    for name, value in model.named_parameters():
        if value.requires_grad:
            out[f"{prefix}{peft_name(name)}"] = value.grad.float()
    return out


def distance(actual, expected):
    """|actual - expected| / |expected| in the Euclidean norm."""
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).float().reshape(1)
