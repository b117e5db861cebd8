"""Which format each kind of matrix gets; a dense MLP counts as experts. Enter at `PRESETS` and `format_for`."""

from __future__ import annotations

from a3b.formats.tiles import FORMATS, Format
from a3b.model.tensor_names import TENSORS

KINDS = tuple(dict.fromkeys(tensor.kind for tensor in TENSORS if tensor.kind))
PRESETS: dict[str, dict[str, str]] = {
    "fast": dict.fromkeys(KINDS, "w4k32") | {"embed": "w6k32"},  # a token reads one row of it
    "balanced": dict.fromkeys(KINDS, "w6k32")
    | {"embed": "w8s32", "lm_head": "w4k32", "experts": "w4k32", "down": "w4k32"},
    "faithful": dict.fromkeys(KINDS, "w8s32") | {"experts": "w6k32", "down": "w6k32"},
}
KEEP = dict.fromkeys(KINDS, "w8s32")  # for the float matrices of a source that has integers for most


def format_for(kinds: dict[str, str], kind: str, n: int) -> Format | None:
    """The format that `kinds` names, or else the nearest of the same width whose groups divide n columns, or None."""
    wanted = FORMATS[kinds[kind]]
    same = [f for f in FORMATS.values() if f.bits == wanted.bits and not f.is_super]
    same.sort(key=lambda f: (f.has_minimum != wanted.has_minimum, abs(f.bits_per_weight - wanted.bits_per_weight)))
    return next((f for f in (wanted, *same) if n % (f.unit if f.is_super else f.group) == 0), None)
