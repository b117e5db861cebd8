"""The files of a checkpoint that a chat template comes from.

Does not compile it. Enter at `read_template_files`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.errors import TemplateError
from a3b.files import read_bytes, read_text
from a3b.prompt.segments import CONTROL_NAMES
from a3b.prompt.tokenizer import control_names_of, read_tokenizer_json

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class TemplateFiles:
    """A template, and what it needs of its checkpoint."""

    source: str  # Jinja
    where: str  # the file it was found in
    control_names: Sequence[str]
    variables: Mapping[str, str]  # such as `eos_token`, which templates may print


def read_template_files(directory: Path, control_names: Sequence[str] | None) -> TemplateFiles:
    """The template in chat_template.jinja, otherwise in tokenizer_config.json, otherwise in chat_template.json.

    control_names: None takes them from tokenizer.json, or those of Qwen3.6 if there is none. Raises TemplateError and
    TokenizerError."""
    config = _read_json(directory / "tokenizer_config.json")
    source, where = _find_source(directory, config)
    if control_names is None:
        control_names = _control_names(directory)
    return TemplateFiles(source, where, control_names, _special_tokens(config))


def template_error(text: str, refusal: str | None = None) -> TemplateError:
    """A TemplateError. refusal: the template's own message, if the template refused."""
    error = TemplateError(text)
    error.refusal = refusal
    return error


def _find_source(directory: Path, config: Any) -> tuple[str, str]:
    """(template, where it was found)."""
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return read_text(path), str(path)
        except (OSError, ValueError) as error:
            raise template_error(f"{path}: {error}; copy the checkpoint's template again") from error
    for path, value in (
        (directory / "tokenizer_config.json", config),
        (directory / "chat_template.json", _read_json(directory / "chat_template.json")),
    ):
        source = value.get("chat_template") if isinstance(value, Mapping) else None
        if isinstance(source, list):
            named = {str(entry.get("name")): entry.get("template") for entry in source if isinstance(entry, Mapping)}
            source = named.get("default", next(iter(named.values()), None))
        if isinstance(source, str):
            return source, f"{path} (chat_template)"
    raise template_error(
        f"{directory}: no chat template in chat_template.jinja, tokenizer_config.json or chat_template.json; "
        "copy chat_template.jinja from the original checkpoint"
    )


def _read_json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise template_error(f"{path}: {error}; copy the file of the checkpoint again") from error


def _control_names(directory: Path) -> Sequence[str]:
    path = directory / "tokenizer.json"
    return control_names_of(read_tokenizer_json(path)) if path.exists() else CONTROL_NAMES


def _special_tokens(config: Any) -> dict[str, str]:
    """The special tokens that templates may print, such as `eos_token`."""
    found = {}
    for name in SPECIAL_TOKENS:
        token = config.get(name) if isinstance(config, Mapping) else None
        token = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(token, str):
            found[name] = token
    return found
