"""What a prompt is made of: control tokens, text and replayed ids. Knows no tokenizer and no template.

The three are kept apart until they become ids: text is never searched for control tokens, so a user who writes
`<|im_end|>` has written ten characters. Only the template and the model write control tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from a3b.errors import UsageError


@dataclass(frozen=True)
class Control:
    """One control token, by its name in tokenizer.json, for example `<|im_end|>`."""

    name: str


@dataclass(frozen=True)
class Text:
    """Text that can only become ordinary tokens, whatever it spells."""

    text: str


@dataclass(frozen=True)
class Replay:
    """Ids that the model sampled earlier; encoding their text again might give others."""

    ids: tuple[int, ...]


Segment = Control | Text | Replay
Prompt = list[Segment]

# The control tokens of the Qwen3.6 vocabulary in id order; those in a checkpoint's tokenizer.json take precedence.
CONTROL_NAMES: tuple[str, ...] = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
END_OF_TURN = "<|im_end|>"
_CHUNK = 1 << 20  # characters


def well_formed(text: str) -> str:
    """`text` as valid Unicode: surrogate pairs are joined, lone surrogates become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_mended(text))
    return text


def _mended(text: str) -> Iterator[str]:
    """By NumPy: a codec calls its error handler for each surrogate, which takes a microsecond, and there may be
    millions."""
    import numpy as np

    start = 0
    while start < len(text):
        end = start + _CHUNK
        end -= end < len(text) and "\ud800" <= text[end - 1] < "\udc00"  # the other half may follow
        part = text[start:end]
        codes = np.array([part], f"U{len(part)}").view(np.uint32)
        first, second = codes >> 10 == 0x36, codes >> 10 == 0x37
        pairs = np.flatnonzero(first[:-1] & second[1:])
        joined = ((codes[pairs] & 0x3FF) << 10 | codes[pairs + 1] & 0x3FF) + 0x10000
        codes[first | second] = 0xFFFD
        codes[pairs] = joined
        yield np.delete(codes, pairs + 1).astype("<u4").tobytes().decode("utf-32-le")
        start = end


VISION_PADS = ("<|image_pad|>", "<|video_pad|>")


def ends_in_thinking(prompt: Prompt) -> bool:
    """Whether the model's next token continues an open `<think>` block."""
    for segment in reversed(prompt):
        if isinstance(segment, Control) and segment.name in ("<think>", "</think>", "<|im_start|>"):
            return segment.name == "<think>"
    return False


def refuse_images(prompt: Prompt) -> None:
    """Raises UsageError for a prompt with an image or a video."""
    for segment in prompt:
        if isinstance(segment, Control) and segment.name in VISION_PADS:
            raise UsageError("messages hold an image or a video: vision is not implemented; send text only")
