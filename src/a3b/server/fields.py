"""What all wire formats share: refusals, reading of fields, server-sent events. Knows no particular API."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from a3b.errors import UsageError
from a3b.interface.request import check_policy
from a3b.server.errors import ApiError

MAX_MODEL = 512  # characters of a model's name: it is repeated in each chunk of a stream
MAX_UNKNOWN = 10  # fields that a warning names
EFFORTS: Mapping[str, int | None] = {  # of reasoning: tokens of thinking at most; "none" is no thinking
    "none": None,
    "minimal": 256,
    "low": 1024,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}


class Fields:
    """A JSON object of a request, read field by field; each wrong value is refused by its name."""

    def __init__(self, body: Any, where: str = ""):
        if not isinstance(body, Mapping):
            raise ApiError(400, f"{where or 'body'}: expected a JSON object, found {kind_of(body)}", field=where or None)
        self.body, self.where = body, where

    def name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def fail(self, key: str, expected: str) -> ApiError:
        found = json.dumps(self.body.get(key), ensure_ascii=False, default=str)
        return ApiError(400, f"{self.name(key)}: {found[:120]}; expected {expected}", field=self.name(key))

    def get(self, key: str, kind: type | tuple[type, ...], expected: str, default: Any = None) -> Any:
        """The value, `default` if it is absent or null. A bool is no number."""
        value = self.body.get(key)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.fail(key, expected)
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        return self.get(key, str, "text", default)

    def flag(self, key: str, default: bool = False) -> bool:
        return self.get(key, bool, "true or false", default)

    def whole(self, key: str, default: int | None = None, least: int = 0) -> int | None:
        """A whole number, in either of JSON's spellings: 40 and 40.0 are one number."""
        expected = f"a whole number of at least {least}"
        value = self.get(key, (int, float), expected, default)
        if value is None:
            return None
        if value < least or value != int(value):
            raise self.fail(key, expected)
        return int(value)

    def number(self, key: str, default: float | None = None) -> float | None:
        value = self.get(key, (int, float), "a number", default)
        if value is not None and abs(value) > 1e300:  # whole numbers of JSON have no end
            raise self.fail(key, "a number")
        return value

    def model(self, served: str) -> str:
        """The name of the model that an answer gives: the requested one, whatever it is, as clients compare the two."""
        name = self.text("model") or served
        if len(name) > MAX_MODEL:
            raise self.fail("model", f"a name of at most {MAX_MODEL} characters")
        return name

    def need(self, key: str) -> str:
        """A text that must be there."""
        if self.body.get(key) is None:
            raise ApiError(400, f"{self.name(key)}: missing; expected text", field=self.name(key))
        return self.text(key) or ""

    def effort(self, key: str) -> tuple[bool | None, int | None]:
        """(whether to think, tokens of thinking at most) for an effort; None: it does not say."""
        effort = self.one_of(key, tuple(EFFORTS))
        return (None if effort is None else effort != "none"), EFFORTS.get(effort or "")

    def policy(self, key: str) -> str | None:
        """Which thinking of earlier turns stays."""
        value = self.text(key)
        try:
            return None if value is None else check_policy(value)
        except UsageError as error:
            raise ApiError(400, f"{self.name(key)}: {str(error)[:200]}", field=self.name(key)) from None

    def one_of(self, key: str, allowed: Sequence[str], default: str | None = None) -> str | None:
        value = self.text(key, default)
        if value is not None and value not in allowed:
            raise self.fail(key, "one of " + ", ".join(allowed))
        return value

    def items(self, key: str) -> list[Any]:
        return self.get(key, list, "a list", [])

    def object(self, key: str) -> Mapping[str, Any] | None:
        return self.get(key, Mapping, "an object")

    def refuse(self, unsupported: Mapping[str, Callable[[Any], bool] | None]) -> None:
        """400 for fields that would change the answer and are not implemented; a function says which values do no
        harm."""
        for key, harmless in unsupported.items():
            value = self.body.get(key)
            if value is not None and not (harmless and harmless(value)):
                raise ApiError(
                    400,
                    f"{self.name(key)}: not supported by this server; leave it out",
                    "unsupported_parameter",
                    self.name(key),
                )


Harmless = Callable[[Any], bool] | None  # which values ask for nothing; None: no value but null


@dataclass(frozen=True)
class Known:
    """What becomes of each field of a kind of object. A field that would change the answer is read, refused or at least
    told.

    read: fields that are followed. refused: 400 unless the value is harmless. told: a warning unless the value is
    harmless, as the answer stays right without them. unused: no answer depends on them; each with the reason."""

    read: Collection[str]
    refused: Mapping[str, Harmless] = field(default_factory=dict)
    told: Mapping[str, tuple[Harmless, str]] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)

    def check(self, fields: Fields) -> list[str]:
        """Warnings about what is not followed. Raises ApiError."""
        fields.refuse(self.refused)
        warnings = []
        for key, (harmless, why) in self.told.items():
            value = fields.body.get(key)
            if value is not None and not (harmless and harmless(value)):
                warnings.append(f"{fields.name(key)}: {why}")
        known = (self.read, self.refused, self.told, self.unused)
        unknown = [
            key for key, value in fields.body.items() if value is not None and not any(key in names for names in known)
        ]
        warnings += [
            f"{fields.name(key[:60])}: this server has no such field; ignored" for key in unknown[:MAX_UNKNOWN]
        ]
        if len(unknown) > MAX_UNKNOWN:
            warnings.append(f"{len(unknown) - MAX_UNKNOWN} more unknown fields ignored")
        return warnings


def is_empty(value: Any) -> bool:
    return not value


def is_token_id(value: Any) -> bool:
    """Whether a JSON value can be the id of a token; which of them exist, the vocabulary says."""
    return type(value) is int and 0 <= value < 1 << 31


def kind_of(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
