"""The tables of docs/api.md, generated from the tables of fields, routes and errors in src/a3b/server.

    python -m tests.support.api_page

writes them again. The text around them is written by hand; a table stands between `<!-- table: NAME -->` and
`<!-- end -->`. NAME is a FieldRules as `module.NAME` below a3b.server, or a key of `OTHERS`.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import a3b.server
from a3b.interface.sampling_params import PRESETS, SAMPLING_FIELDS, SamplingField
from a3b.server import foreign_items, response_format
from a3b.server.app import create_app
from a3b.server.error_types import CODES, types_of
from a3b.server.fields import FieldRules, HarmlessIf
from a3b.server.openai.chat_messages import MEDIA
from a3b.server.sampling_fields import NUMBERS
from tests.support.paths import ROOT
from tests.support.scripted_service import ScriptedService

PATH = ROOT / "docs" / "api.md"
PARTS: dict[str, Mapping[str, Any]] = {  # fields that several APIs have, by the section that explains them
    "Sampling": dict.fromkeys(NUMBERS),
    "Structured answers": response_format.FIELDS,
}
TABLE = re.compile(r"<!-- table: ([\w.]+) -->\n.*?<!-- end -->", re.DOTALL)


@cache
def rules() -> dict[str, FieldRules]:
    """Every table of fields of the server, by the module that makes it, and name."""
    found: dict[str, FieldRules] = {}
    for listed in pkgutil.walk_packages(a3b.server.__path__, "a3b.server."):
        module = importlib.import_module(listed.name)
        for name in re.findall(r"^(\w+) = FieldRules\(", inspect.getsource(module), re.MULTILINE):
            found[f"{listed.name.removeprefix('a3b.server.')}.{name}"] = getattr(module, name)
    return found


def generated(page: str) -> str:
    """The page with its tables as they should be. Raises KeyError for a table that does not exist."""
    return TABLE.sub(lambda match: f"<!-- table: {match[1]} -->\n{_table(match[1])}<!-- end -->", page)


def _table(name: str) -> str:
    return OTHERS[name]() if name in OTHERS else _fields(rules()[name])


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# -- fields


def _fields(table: FieldRules) -> str:
    """One table of fields: used, then a list for each of the other kinds."""
    page = "\n" + _rows(("field", "what it does"), _used(table.read)) + "\n"
    page += _list(
        "Reported",
        [f"{_names([name])}: {why}{_unless(harmless)}" for name, (harmless, why) in table.warned.items()],
    )
    ignored = [f"{_names(names)}: {why}" for why, names in _by_value(table.harmless).items()]
    page += _list("Without effect", ignored)
    unless = {name: _unless(harmless) for name, harmless in table.refused.items()}
    refused = [f"{_names(names)}{told}" for told, names in _by_value(unless).items()]
    return page + _list("Refused", refused)


def _used(read: Mapping[str, str]) -> list[tuple[str, str]]:
    """Rows of the fields; those that have a section of their own share one row."""
    rows = [
        (f"`{name}`", meaning) for name, meaning in read.items() if not any(name in part for part in PARTS.values())
    ]
    for title, part in PARTS.items():
        if part.keys() & read.keys():
            link = f"[{title}](#{title.lower().replace(' ', '-')})"
            rows.append((link, _names([name for name in read if name in part])))
    return rows


def _list(title: str, parts: list[str]) -> str:
    return f"{title}:\n\n" + "".join(f"- {part}\n" for part in parts) + "\n" if parts else ""


def _by_value(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Names that share a reason. "as NAME" shares that of NAME."""
    found: dict[str, list[str]] = {}
    for name, value in names.items():
        found.setdefault(names.get(value.removeprefix("as "), value), []).append(name)
    return found


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _unless(harmless: HarmlessIf) -> str:
    return f" (unless {harmless.told})" if harmless else ""


def _sampling() -> str:
    rows = ((f"`{name}`", SAMPLING_FIELDS[name].meaning, _range(SAMPLING_FIELDS[name])) for name in NUMBERS)
    return "\n" + _rows(("field", "what it does", "range"), rows) + "\n"


def _schemas() -> str:
    return (
        "\n" + _rows(("field", "form"), ((f"`{name}`", form) for name, form in response_format.FIELDS.items())) + "\n"
    )


def _range(field: SamplingField) -> str:
    if field.name == "seed":
        return "a whole number of 64 bits"
    kind = "whole, " if field.is_whole else ""
    low = f"above {field.low:g}" if field.excludes_low else f"{field.low:g}"
    if field.high == math.inf:
        return f"{kind}{low}" if field.excludes_low else f"{kind}at least {low}"
    return f"{kind}{low}, to {field.high:g}" if field.excludes_low else f"{kind}{low} to {field.high:g}"


# -- the other tables


def endpoints() -> dict[str, tuple[list[str], str]]:
    """method and path: (the paths of the same route, its meaning). A path with /v1 stands for the one without."""
    found: dict[str, tuple[list[str], str]] = {}
    routes = create_app(ScriptedService([])).routes
    paths = {route.path for route in routes}
    for route in routes:
        method = "POST" if "POST" in route.methods else "DELETE" if "DELETE" in route.methods else "GET"
        twin = f"/v1{route.path}"
        if twin not in paths:
            meaning = " ".join((route.endpoint.__doc__ or "").split())
            found[f"{method} {route.path.replace(':path', '')}"] = ([route.path], meaning)
    return found


def _endpoints() -> str:
    return "\n" + _rows(("endpoint", ""), ((f"`{name}`", meaning) for name, (_, meaning) in endpoints().items())) + "\n"


def _codes() -> str:
    rows = [
        (str(status), types_of(status).openai, types_of(status).anthropic, f"`{code}`")
        for code, statuses in CODES.items()
        for status in statuses
    ]
    by_status: dict[tuple[str, ...], list[str]] = {}
    for *key, code in sorted(rows):
        by_status.setdefault(tuple(key), []).append(code)
    head = ("status", "OpenAI `error.type`", "Anthropic `error.type`", "`error.code`")
    return "\n" + _rows(head, ((*key, ", ".join(codes)) for key, codes in by_status.items())) + "\n"


def _presets() -> str:
    used = {"thinking": "the model thinks", "instruct": "it does not", "nano": "a3b-nano"}
    names = [name for name in SAMPLING_FIELDS if len({getattr(PRESETS[preset], name) for preset in used}) > 1]
    rows = ((when, *(f"{getattr(PRESETS[preset], key):g}" for key in names)) for preset, when in used.items())
    return "\n" + _rows(("", *(f"`{name}`" for name in names)), rows) + "\n"


OTHERS = {
    "sampling": _sampling,
    "schemas": _schemas,
    "endpoints": _endpoints,
    "errors": _codes,
    "presets": _presets,
    "media": lambda: "\n" + _names(list(MEDIA)) + "\n\n",
    "server_blocks": lambda: "\n" + _names(list(foreign_items.SERVER_BLOCKS)) + "\n\n",
    "server_items": lambda: "\n" + _names(list(foreign_items.SERVER_ITEMS)) + "\n\n",
    "client_items": lambda: "\n" + _names([*foreign_items.CLIENT_CALLS, *foreign_items.CLIENT_OUTPUTS]) + "\n\n",
}

if __name__ == "__main__":
    PATH.write_text(generated(PATH.read_text(encoding="utf-8")), encoding="utf-8")
