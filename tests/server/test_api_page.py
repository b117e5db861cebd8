"""docs/api.md says what the server reads and answers: its tables are those of the code, and none is missing."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from a3b.cache.disk_store import Store
from a3b.engine.engine import Engine
from a3b.engine.local import local_service
from a3b.interface.events import Finished, TextDelta
from a3b.server.app import create_app
from a3b.server.middleware import EXPOSED
from tests.support import api_page
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import ask


@pytest.fixture(scope="module")
def page() -> str:
    return api_page.PATH.read_text(encoding="utf-8")


def named(text: str) -> set[str]:
    """The names in code spans. `a.b`, `c` stands for a.b and a.c."""
    found: set[str] = set()
    parent = ""
    for name in re.findall(r"`([\w.]+)`", text):
        parent = name.rpartition(".")[0] or parent
        found |= {name, f"{parent}.{name}"}
    return found


def leaves(value: Any, where: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {where}
    return set().union(*(leaves(item, f"{where}.{key}".strip(".")) for key, item in value.items()))


def test_the_tables_of_the_page_are_those_of_the_code(page):
    assert page == api_page.generated(page), "run python -m tests.support.api_page"


def test_every_table_of_fields_and_every_other_one_is_in_the_page_once(page):
    found = [match[1] for match in api_page.TABLE.finditer(page)]
    assert sorted(found) == sorted([*api_page.rules(), *api_page.OTHERS])


def test_every_endpoint_has_a_meaning():
    assert [name for name, meaning in api_page.endpoints().items() if not meaning] == []


def test_every_path_works_without_v1_except_where_the_page_says_so():
    paths = {route.path for route in create_app(ScriptedService([])).routes}
    assert {path for path in paths if path.startswith("/v1") and path.removeprefix("/v1") not in paths} == set()
    assert {path for path in paths if not path.startswith("/v1") and f"/v1{path}" not in paths} == {
        "/health",
        "/metrics",
    }


def test_the_page_names_every_key_of_the_a3b_object(page):
    service = ScriptedService([STARTED, TextDelta("ok"), Finished("stop", USAGE)])
    body = {"messages": [{"role": "user", "content": "hi"}]}
    report = asyncio.run(ask(create_app(service), "/v1/chat/completions", body)).json()["a3b"]
    section = page[page.index("## The `a3b` object") : page.index("## Headers")]
    assert leaves(report) - named(section) == set()


def test_the_page_names_the_headers_that_pages_of_other_origins_may_read(page):
    assert set(EXPOSED) - set(re.findall(r"`([\w-]+)`", page[page.index("## Headers") :])) == set()


def test_the_page_names_every_metric(page, tmp_path):
    store = Store(tmp_path)
    service = local_service(Engine.load(), store=store)
    try:
        told = asyncio.run(ask(create_app(service), "/metrics", method="GET")).body.decode()
    finally:
        service.close()
        store.close()
    metrics = {name for name in re.findall(r"^# TYPE (\w+)", told, re.MULTILINE) if not name.endswith("_created")}
    assert metrics - set(re.findall(r"`(a3b_\w+)`", page)) == set()
