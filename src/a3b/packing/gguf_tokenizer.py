"""Converts tokenizer and template of a GGUF file's metadata to the files of a Hugging Face directory.

Enter at `tokenizer_files`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from a3b.errors import FileFormatError, TokenizerError
from a3b.prompt.tokenizer import Tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # token types
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # of the pre-tokenizer called qwen35
ADVICE = "take the tokenizer from a directory with --tokenizer DIR"


def tokenizer_files(path: Path, metadata: dict[str, Any]) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json, generation_config.json and, if the file has one, chat_template.jinja.

    Raises FileFormatError for a tokenizer of another kind, TokenizerError for one that cannot be used."""
    for key, expected in (("model", "gpt2"), ("pre", "qwen35")):
        found = metadata.get(f"tokenizer.ggml.{key}")
        if found != expected:
            raise FileFormatError(
                f"{path}: tokenizer.ggml.{key} is {str(found)[:60]!r}; expected {expected!r}: {ADVICE}"
            )
    tokens, merges = (_texts(path, metadata, key) for key in ("tokens", "merges"))
    types = metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise FileFormatError(f"{path}: tokenizer.ggml.token_type: expected a list of {len(tokens)} numbers; {ADVICE}")
    spec = _spec(path, tokens, types, merges)
    try:
        Tokenizer(spec, f"{path}: tokenizer")
    except TokenizerError as error:
        raise TokenizerError(f"{error}; or {ADVICE}") from None
    files = {"tokenizer.json": json.dumps(spec, ensure_ascii=False).encode()}
    names = {name: _token(metadata, tokens, name) for name in ("bos", "eos", "padding")}
    settings = {f"{key}_token": names[name] for key, name in (("eos", "eos"), ("pad", "padding")) if names[name]}
    files["tokenizer_config.json"] = (
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", **settings}, indent=2) + "\n"
    ).encode()
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "bos")]
    ends = list(dict.fromkeys(token for token in ends if type(token) is int and 0 <= token < len(tokens)))
    files["generation_config.json"] = (json.dumps({"eos_token_id": ends}, indent=2) + "\n").encode()
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        files["chat_template.jinja"] = template.encode()
    return files


def _spec(path: Path, tokens: list[str], types: list[int], merges: list[str]) -> dict[str, Any]:
    pairs = []
    for merge in merges:
        left, blank, right = merge.partition(" ")
        if not left or not blank or not right or " " in right:
            raise FileFormatError(f"{path}: merge {merge[:80]!r}: expected two tokens separated by a space; {ADVICE}")
        pairs.append([left, right])
    added, vocabulary = [], {}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (CONTROL, USER_DEFINED):
            added.append({"id": i, "content": token, **plain, "special": kind == CONTROL})
        elif kind != UNUSED:
            vocabulary[token] = i
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_only]},
        "post_processor": bytes_only,
        "decoder": bytes_only,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": pairs,
        },
    }


def _texts(path: Path, metadata: dict[str, Any], key: str) -> list[str]:
    found = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise FileFormatError(f"{path}: tokenizer.ggml.{key}: expected a list of texts; {ADVICE}")
    return found


def _token(metadata: dict[str, Any], tokens: list[str], name: str) -> str | None:
    index = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return tokens[index] if type(index) is int and 0 <= index < len(tokens) else None
