"""The JSON schema that an answer must follow, from any of the fields that servers and clients have for it. Enter at
`read_schema`.

Forms that are not implemented are refused by name, and so are two fields that ask for different schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from a3b.isolation.bounded_json import TooMuchJSON, loads
from a3b.server.errors import ApiError
from a3b.server.fields import EMPTY, Fields, HarmlessIf

OBJECT = {"type": "object"}
_WRAPPER = {"name", "schema", "strict", "description"}


UNSUPPORTED: dict[str, HarmlessIf] = dict.fromkeys(  # of vLLM, SGLang and llama.cpp
    "guided_regex guided_choice guided_grammar guided_whitespace_pattern grammar regex ebnf structural_tag".split(),
    EMPTY,
)
FIELDS = {
    "response_format": "`type` is `text`, `json_object` or `json_schema`; the `schema` in it or in its `json_schema`",
    "json_schema": "a schema, alone or in OpenAI's wrapper",
    "guided_json": "a schema, as an object or as text (vLLM)",
    "structured_outputs": "`json` is a schema, or `json_object` is true (vLLM)",
    "format": '`"json"` or a schema (Ollama)',
}
_OTHER_OUTPUTS = ("regex", "choice", "grammar", "structural_tag", "whitespace_pattern")


def read_schema(fields: Fields, own: Iterable[tuple[str, Mapping[str, Any] | None]] = ()) -> Mapping[str, Any] | None:
    """The schema of the answer; None if the request gives none. own: (name, schema) of fields that only one API has."""
    fields.refuse(UNSUPPORTED)
    given = [
        *own,
        ("response_format", _response_format(fields)),
        ("json_schema", _unwrapped(fields, "json_schema")),
        ("guided_json", _schema_or_text(fields, "guided_json")),
        ("structured_outputs", _structured_outputs(fields)),
        ("format", _format(fields)),
    ]
    found = [(name, schema) for name, schema in given if schema is not None]
    for name, schema in found[1:]:
        if schema != found[0][1]:
            raise ApiError(
                400, f"{name}: asks for a different schema than {found[0][0]}; give only one of the two", field=name
            )
    return found[0][1] if found else None


def read_form(form: Fields, wrapper: str | None = None) -> Mapping[str, Any] | None:
    """The schema of {"type": "text" | "json_object" | "json_schema", ...}. wrapper: key of the object around it."""
    kind = form.one_of("type", ("text", "json_object", "json_schema"))
    if kind is None:
        raise form.invalid("type", "text, json_object or json_schema")
    if kind == "text":
        return None
    holder = form
    if (
        kind == "json_schema"
        and wrapper is not None
        and (form.body.get(wrapper) is not None or "schema" not in form.body)
    ):
        holder = Fields(form.body.get(wrapper), form.name(wrapper))
    holder.boolean("strict")
    schema = holder.object("schema")
    if schema is None and kind == "json_schema":
        raise holder.invalid("schema", "a JSON schema")
    return OBJECT if schema is None else schema


def _response_format(fields: Fields) -> Mapping[str, Any] | None:
    given = fields.object("response_format")
    return None if given is None else read_form(Fields(given, fields.name("response_format")), "json_schema")


def _unwrapped(fields: Fields, key: str) -> Mapping[str, Any] | None:
    """A schema, alone or in OpenAI's wrapper."""
    given = fields.object(key)
    if given is None:
        return None
    inner = given.get("schema")
    return inner if isinstance(inner, Mapping) and given.keys() <= _WRAPPER else given


def _schema_or_text(fields: Fields, key: str) -> Mapping[str, Any] | None:
    expected = "a JSON schema, as an object or as text"
    given: Mapping[str, Any] | str | None = fields.get(key, (Mapping, str), expected)
    if not isinstance(given, str):
        return given
    try:
        parsed = loads(given)
    except TooMuchJSON as error:
        raise ApiError(400, f"{fields.name(key)}: {error}", field=fields.name(key)) from None
    except ValueError:
        parsed = None
    if not isinstance(parsed, Mapping):
        raise fields.invalid(key, expected)
    return parsed


def _structured_outputs(fields: Fields) -> Mapping[str, Any] | None:
    given = fields.object("structured_outputs")
    if given is None:
        return None
    form = Fields(given, fields.name("structured_outputs"))
    form.refuse(dict.fromkeys(_OTHER_OUTPUTS))
    schema = _schema_or_text(form, "json")
    is_object = form.boolean("json_object")
    if schema is None and not is_object:
        raise form.invalid("json", "a JSON schema, or json_object to be true")
    return OBJECT if schema is None else schema


def _format(fields: Fields) -> Mapping[str, Any] | None:
    """Ollama's field: "json" or a schema."""
    given = fields.get("format", (Mapping, str), '"json" or a JSON schema')
    if given == "":
        return None
    if isinstance(given, str) and given != "json":
        raise fields.invalid("format", '"json" or a JSON schema')
    return OBJECT if given == "json" else given
