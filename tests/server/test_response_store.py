"""Stored responses: looked up, deleted, listed, continued, bounded, each for its namespace alone."""

from __future__ import annotations

import openai
import pytest

from a3b.server.response_store import ResponseStore, StoredResponse
from tests.support.responses_server import ANSWER, ASK, DONE, PATH, Server, client_of


@pytest.fixture(scope="module")
def client():
    with client_of() as made:
        yield made


def test_a_stored_response_can_be_looked_up_and_deleted(client):
    client.choose(DONE)
    reply = client.responses.create(**ASK)
    assert client.responses.retrieve(reply.id).to_dict() == reply.to_dict()
    client.responses.delete(reply.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(reply.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(reply.id)


def test_the_input_of_a_response_is_listed_in_pages(client):
    client.choose(DONE)
    items = [{"role": "user", "content": f"q{i}"} for i in range(5)]
    reply = client.responses.create(model="m", input=items)
    listed = list(client.responses.input_items.list(reply.id, limit=2, order="asc"))
    assert [item.content[0].text for item in listed] == [f"q{i}" for i in range(5)] and len(
        {item.id for item in listed}
    ) == 5
    assert next(iter(client.responses.input_items.list(reply.id))).content[0].text == "q4"


def test_a_page_that_cannot_be_is_refused():
    server = Server()
    path = f"{PATH}/{server.create()['id']}/input_items"
    for query in ("limit=0", "limit=x", "limit=101", "order=up", "after=nobody"):
        assert server.send(None, f"{path}?{query}", method="GET")[0] == 400, query
    assert server.send(None, f"{path}?limit=1", method="GET")[1]["has_more"] is False


def test_nothing_is_found_by_another_namespace():
    server = Server(ANSWER)
    first = server.create()
    assert server.send(None, f"{PATH}/{first['id']}", "bob", "GET")[0] == 404
    assert server.send(None, f"{PATH}/{first['id']}", "bob", "DELETE")[0] == 404
    status, reply = server.send({**ASK, "previous_response_id": first["id"]}, key="bob")
    assert (status, reply["error"]["code"], reply["error"]["param"]) == (
        400,
        "previous_response_not_found",
        "previous_response_id",
    )
    status, reply = server.send(
        {**ASK, "input": [{"type": "item_reference", "id": first["output"][0]["id"]}]}, key="bob"
    )
    assert (status, reply["error"]["code"], reply["error"]["param"]) == (400, "item_not_found", "input[0].id")
    assert server.send(None, f"{PATH}/{first['id']}", "alice", "GET")[0] == 200


def test_a_response_with_store_false_is_not_stored():
    server = Server()
    reply = server.create({"store": False})
    assert reply["store"] is False and server.send(None, f"{PATH}/{reply['id']}", method="GET")[0] == 404


def kept(num, size=10, items=()):
    return StoredResponse({"id": f"r{num}", "output": [{"id": f"o{num}", "text": "x" * size}]}, list(items))


def test_the_store_drops_what_was_not_used_for_longest():
    store = ResponseStore(max_count=2)
    store.put("a", kept(1))
    store.put("a", kept(2))
    assert store.get("a", "r1")
    store.put("b", kept(9))
    store.put("a", kept(3))
    assert [bool(store.get("a", f"r{i}")) for i in (1, 2, 3)] == [True, False, True] and store.get("b", "r9")
    assert store.item("a", "o2") is None and store.item("a", "o1") and store.item("b", "o1") is None


def test_the_store_counts_bytes_and_keeps_shared_items_as_long_as_they_are_used():
    shared = {"id": "i", "text": "y"}
    store = ResponseStore(max_bytes=1000)
    for num in range(1, 4):
        store.put("a", kept(num, 300, [shared]))
    assert [bool(store.get("a", f"r{i}")) for i in (1, 2, 3)] == [False, True, True]
    store.put("a", kept(4, 2000))  # too large to be kept at all
    assert store.get("a", "r4") is None and store.get("a", "r3")
    assert store.delete("a", "r2") and store.item("a", "i") == shared
    assert store.delete("a", "r3") and store.item("a", "i") is None and not store.delete("a", "r3")


class Book:
    """Records as a session store keeps them."""

    def __init__(self):
        self.pages: dict[tuple[str, bytes], list[bytes]] = {}

    def put_record(self, namespace, key, value, node=None):
        self.pages.setdefault((namespace, key), []).append(value)

    def get_records(self, namespace, key):
        return self.pages.get((namespace, key), [])


def kept_response() -> StoredResponse:
    response = {"id": "resp_1", "output": [{"id": "rs_1", "type": "reasoning"}, {"id": "msg_1", "type": "message"}]}
    return StoredResponse(response, [{"id": "in_1", "type": "message"}])


def test_responses_outlive_the_process_for_their_owner_only():
    book = Book()
    before = ResponseStore(records=book)
    before.put("alice", kept_response())
    before.close()
    after = ResponseStore(records=book)
    assert after.get("alice", "resp_1") == kept_response() and after.item("alice", "rs_1") == {
        "id": "rs_1",
        "type": "reasoning",
    }
    assert after.get("bob", "resp_1") is None and after.item("bob", "rs_1") is None


def test_a_deleted_response_stays_deleted_after_a_restart():
    book = Book()
    before = ResponseStore(records=book)
    before.put("alice", kept_response())
    assert before.delete("alice", "resp_1") and not before.delete("alice", "resp_1")
    before.close()
    after = ResponseStore(records=book)
    assert (
        after.get("alice", "resp_1") is None
        and after.item("alice", "msg_1") is None
        and not after.delete("alice", "resp_1")
    )


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"null", b"[]", b"[{}, []]", b'[{"id": "resp_1", "output": 3}, []]', b'[{"id": "x"}, []]']
)
def test_records_that_are_no_responses_are_as_if_they_were_not_there(value):
    book = Book()
    book.put_record("alice", b"response resp_1", value)
    store = ResponseStore(records=book)
    assert store.get("alice", "resp_1") is None and store.item("alice", "resp_1") is None
    store.put("alice", kept_response())
    assert store.get("alice", "resp_1") == kept_response()
