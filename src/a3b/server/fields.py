"""The fields of a JSON object of a request: read one by one, each wrong value refused by name, none overlooked.

`Fields` reads values; `FieldRules` says for every field of a kind of object whether it is followed, refused, warned
about or harmless. Knows no particular API. Enter at `Fields` and `FieldRules`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from a3b.errors import UsageError
from a3b.interface.request import check_policy
from a3b.server.errors import ApiError

MAX_MODEL = 512  # characters of a model's name: every chunk of a stream repeats it
MAX_UNKNOWN = 10  # fields that a warning names
EFFORTS: Mapping[str, int | None] = {  # reasoning effort: most tokens of thinking; "none" turns thinking off
    "none": None,
    "minimal": 256,
    "low": 1024,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}
Word = TypeVar("Word", bound=str)  # a Literal where the caller needs one


class Fields:
    """A JSON object of a request. Absent and null are the same. Wrong values raise ApiError with the field's name."""

    def __init__(self, body: Any, where: str = ""):
        """where: the path of the object in the request; "" for the body itself."""
        if not isinstance(body, Mapping):
            message = f"{where or 'body'}: expected a JSON object, found {kind_of(body)}"
            raise ApiError(400, message, field=where or None)
        self.body, self.where = body, where

    def name(self, key: str) -> str:
        """The path of a field in the request."""
        return f"{self.where}.{key}" if self.where else key

    def invalid(self, key: str, expected: str) -> ApiError:
        """The error for a value other than what was expected."""
        found = json.dumps(self.body.get(key), ensure_ascii=False, default=str)
        return ApiError(400, f"{self.name(key)}: {found[:120]}; expected {expected}", field=self.name(key))

    def get(self, key: str, kind: type | tuple[type, ...], expected: str, default: Any = None) -> Any:
        """The value if it is of this kind, `default` if it is absent. A bool does not count as a number."""
        value = self.body.get(key)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.invalid(key, expected)
        return value

    # -- plain values

    @overload
    def string(self, key: str) -> str | None: ...
    @overload
    def string(self, key: str, default: str) -> str: ...
    def string(self, key: str, default: str | None = None) -> str | None:
        value: str | None = self.get(key, str, "text", default)
        return value

    def required(self, key: str) -> str:
        """A string that must be present."""
        if (value := self.string(key)) is None:
            raise ApiError(400, f"{self.name(key)}: missing; expected text", field=self.name(key))
        return value

    @overload
    def one_of(self, key: str, allowed: Sequence[Word]) -> Word | None: ...
    @overload
    def one_of(self, key: str, allowed: Sequence[Word], default: Word) -> Word: ...
    def one_of(self, key: str, allowed: Sequence[Word], default: Word | None = None) -> Word | None:
        value = self.string(key)
        if value is None:
            return default
        for word in allowed:
            if word == value:
                return word
        raise self.invalid(key, "one of " + ", ".join(allowed))

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self.optional_boolean(key)
        return default if value is None else value

    def optional_boolean(self, key: str) -> bool | None:
        value: bool | None = self.get(key, bool, "true or false")
        return value

    def integer(self, key: str, least: int = 0) -> int | None:
        """A whole number. JSON may spell it 40 or 40.0."""
        expected = f"a whole number of at least {least}"
        value: float | None = self.get(key, (int, float), expected)
        if value is None:
            return None
        if value < least or value != int(value):
            raise self.invalid(key, expected)
        return int(value)

    def number(self, key: str) -> float | None:
        value: float | None = self.get(key, (int, float), "a number")
        if value is not None and abs(value) > 1e300:  # a JSON integer may have any number of digits
            raise self.invalid(key, "a number")
        return value

    def items(self, key: str) -> list[Any]:
        value: list[Any] = self.get(key, list, "a list", [])
        return value

    def object(self, key: str) -> Mapping[str, Any] | None:
        value: Mapping[str, Any] | None = self.get(key, Mapping, "an object")
        return value

    def nested(self, key: str) -> Fields:
        """An object inside this one; an empty one if it is absent."""
        return Fields(self.object(key) or {}, self.name(key))

    # -- values that several APIs share

    def model(self, served: str) -> str:
        """The model name that the answer repeats: the requested one whatever it is, as clients compare the two."""
        name = self.string("model") or served
        if len(name) > MAX_MODEL:
            raise self.invalid("model", f"a name of at most {MAX_MODEL} characters")
        return name

    def effort(self, key: str) -> tuple[bool | None, int | None]:
        """(whether to think, most tokens of thinking) for a reasoning effort; None where it does not say."""
        effort = self.one_of(key, tuple(EFFORTS))
        return (None if effort is None else effort != "none"), EFFORTS.get(effort or "")

    def policy(self, key: str) -> str | None:
        """Which thinking of earlier turns stays in the prompt."""
        value = self.string(key)
        try:
            return None if value is None else check_policy(value)
        except UsageError as error:
            raise ApiError(400, f"{self.name(key)}: {str(error)[:200]}", field=self.name(key)) from None

    def refuse(self, unsupported: Mapping[str, HarmlessIf]) -> None:
        """Raise ApiError for fields that would change the answer and are not implemented, unless harmless."""
        for key, is_harmless in unsupported.items():
            if self._asks_for_something(key, is_harmless):
                message = f"{self.name(key)}: not supported by this server; leave it out"
                raise ApiError(400, message, "unsupported_parameter", self.name(key))

    def warnings(self, warned: Mapping[str, tuple[HarmlessIf, str]]) -> list[str]:
        """A warning for each of the fields, unless its value is harmless."""
        return [
            f"{self.name(key)}: {why}"
            for key, (is_harmless, why) in warned.items()
            if self._asks_for_something(key, is_harmless)
        ]

    def _asks_for_something(self, key: str, is_harmless: HarmlessIf) -> bool:
        value = self.body.get(key)
        return value is not None and not (is_harmless and is_harmless.holds(value))


@dataclass(frozen=True)
class Harmless:
    """Values with which a field asks for nothing. told: what docs/api.md calls them."""

    told: str
    holds: Callable[[Any], bool]


EMPTY = Harmless("empty, `false` or `0`", lambda value: not value)
HarmlessIf = Harmless | None  # None: only null asks for nothing


def only(*values: Any) -> Harmless:
    """These JSON values ask for nothing; true is not 1."""

    def holds(value: Any) -> bool:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)

    return Harmless(" or ".join(f"`{json.dumps(value)}`" for value in values), holds)


@dataclass(frozen=True)
class FieldRules:
    """What happens to each field of a kind of object: one line per field, in exactly one of four groups.

    read: followed; the text says what it does. refused: would change the answer and is not implemented, so it is an
    error unless the value is harmless. warned: the answer stays right without it, so the client gets a warning unless
    the value is harmless. harmless: no answer depends on it; the text says why. Any other field is ignored with a
    warning. docs/api.md is made from these texts (`python -m tests.support.api_page`)."""

    read: Mapping[str, str]
    refused: Mapping[str, HarmlessIf] = field(default_factory=dict)
    warned: Mapping[str, tuple[HarmlessIf, str]] = field(default_factory=dict)
    harmless: Mapping[str, str] = field(default_factory=dict)

    def check(self, fields: Fields) -> list[str]:
        """Warnings about fields that are not followed. Raises ApiError for a refused one."""
        fields.refuse(self.refused)
        known = {*self.read, *self.refused, *self.warned, *self.harmless}
        unknown = [key for key, value in fields.body.items() if value is not None and key not in known]
        warnings = fields.warnings(self.warned)
        warnings += [
            f"{fields.name(key[:60])}: this server has no such field; ignored" for key in unknown[:MAX_UNKNOWN]
        ]
        if len(unknown) > MAX_UNKNOWN:
            warnings.append(f"{len(unknown) - MAX_UNKNOWN} more unknown fields ignored")
        return warnings


def is_token_id(value: Any) -> bool:
    """Whether a JSON value has the form of a token id; the vocabulary decides which ids exist."""
    return type(value) is int and 0 <= value < 1 << 31


def kind_of(value: Any) -> str:
    """What to call the type of a JSON value in an error."""
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
