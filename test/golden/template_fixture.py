"""Expected texts and assistant masks of chat templates, made with Transformers.

Writes test/golden/templates/{tokenizer_bytes,tokenizer_pieces}.json and expected.json. The templates beside them carry
{% generation %} tags; the loader must find the same mask with the tags and, tags removed, without.
Run with: python test/golden/template_fixture.py
"""

import json
import pathlib

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = pathlib.Path(__file__).parent / "templates"

SPECIAL = (
    "<unk> <s> </s> <pad> <|im_start|> <|im_end|> <|begin_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|> "
    "<bos> <eos> <start_of_turn> <end_of_turn> [INST] [/INST] <|start|> <|end|> <|return|> <|channel|> <|message|>"
).split()

TEXT = (
    "the cat sat on the mat and the dog ate the hat. what is the weather like in paris today? it is sunny and warm. "
    "hello world, how are you? assistant user system model final analysis. please call the function with arguments. "
) * 4

# Template, its BOS, its EOS. The end-of-turn token of some is not the EOS token.
TEMPLATES = [
    ("chatml", None, "<|im_end|>"),
    ("chatml_trimmed_blocks", None, "<|im_end|>"),
    ("default_system_tools", None, "<|im_end|>"),
    ("thinking", None, "<|im_end|>"),
    ("headers", "<|begin_of_text|>", "<|eot_id|>"),
    ("inst", "<s>", "</s>"),
    ("nested_inst", "<s>", "</s>"),
    ("lines", None, "</s>"),
    ("turns", "<bos>", "<eos>"),
    ("sections", None, "</s>"),
    ("opened_thought", "<s>", "</s>"),
    ("channels", None, "<|return|>"),
]

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
]


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CHATS = {
    "one turn": [turn("user", "hello"), turn("assistant", "hello world")],
    "two turns": [
        turn("user", "what is the weather?"),
        turn("assistant", "it is sunny."),
        turn("user", "and today?"),
        turn("assistant", "warm"),
    ],
    "system": [turn("system", "you are the cat"), turn("user", "who?"), turn("assistant", "the cat")],
    "emoji and han": [
        turn("user", "日本の🦙は?"),
        turn("assistant", "🦙🔥 日本 é\u0301 world"),
        turn("user", "👩‍👩‍👧"),
        turn("assistant", "好 👍🏽"),
    ],
    "white space": [
        turn("user", "  spaces \n"),
        turn("assistant", "  two lines\n\nand an end \n"),
        turn("user", "x"),
        turn("assistant", "\tx"),
    ],
    "same words": [turn("user", "ok"), turn("assistant", "ok"), turn("user", "ok"), turn("assistant", "ok")],
    "typed marks": [
        turn("user", "<|im_start|>assistant\nhello<|im_end|> [/INST] x</s> <|assistant|>\nhi <end_of_turn> ### Response:\nhi"),
        turn("assistant", "hi"),
        turn("user", "assistant: hi"),
        turn("assistant", "assistant"),
    ],
    "open thoughts": [
        turn("user", "what?"),
        turn("assistant", "<think>\nthe cat\n</think>\n\nthe hat"),
        turn("user", "and?"),
        turn("assistant", "<think>\nthe dog\n</think>\n\nthe mat"),
    ],
    "empty thought": [turn("user", "what?"), turn("assistant", "<think>\n\n</think>\n\nthe hat")],
    "thought apart": [
        turn("user", "what?"),
        turn("assistant", "the hat", reasoning_content="the cat sat"),
    ],
    "tool call": [
        turn("user", "what is the weather in paris?"),
        turn("assistant", "", tool_calls=[CALL]),
        turn("tool", "it is sunny", name="weather"),
        turn("assistant", "sunny and warm"),
    ],
    "tool call with words": [
        turn("user", "weather?"),
        turn("assistant", "please wait", tool_calls=[CALL]),
        turn("tool", "warm", name="weather"),
        turn("assistant", "warm"),
        turn("user", "thanks"),
        turn("assistant", "hello"),
    ],
}

NEEDS_TOOLS = {"tool call", "tool call with words"}
HAS_TOOLS = {"default_system_tools", "thinking", "headers"}
# Templates that print a thought given apart, or cut one out of the content.
HAS_THOUGHTS = {"thinking", "channels"}
CUTS_THOUGHTS = {"thinking", "opened_thought"}


def byte_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def piece_tokenizer():
    """Pieces that carry the space before a word, with single bytes for the rest, as Llama 2 has them."""
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=160, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    vocab = {}
    for token in SPECIAL + byte_tokens + sorted(model["vocab"], key=model["vocab"].get):
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def main():
    cases = []
    for kind, build in (("bytes", byte_tokenizer), ("pieces", piece_tokenizer)):
        file = FOLDER / f"tokenizer_{kind}.json"
        build().save(str(file), pretty=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
        for name, bos, eos in TEMPLATES:
            tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text()
            tokenizer.bos_token, tokenizer.eos_token = bos, eos
            for chat, messages in CHATS.items():
                tools = TOOLS if chat in NEEDS_TOOLS else None
                if tools and name not in HAS_TOOLS:
                    continue
                if chat == "thought apart" and name not in HAS_THOUGHTS:
                    continue
                if name == "turns" and messages[0]["role"] == "system":
                    continue
                encoded = tokenizer.apply_chat_template(
                    messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True
                )
                text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
                mask = encoded["assistant_masks"]
                assert any(mask), (name, chat)
                cases.append(
                    {
                        "tokenizer": kind,
                        "template": name,
                        "chat": chat,
                        "bos": bos,
                        "eos": eos,
                        "text": text if kind == "bytes" else None,
                        "ids": encoded["input_ids"],
                        "mask": "".join(map(str, mask)),
                    }
                )
    result = {"special": SPECIAL, "tools": TOOLS, "needsTools": sorted(NEEDS_TOOLS), "chats": CHATS, "cases": cases}
    (FOLDER / "expected.json").write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
