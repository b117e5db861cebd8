"""Responses that may be continued or looked up later. In memory, per namespace, bounded. Enter at `ResponseStore`.

Each response is kept with the whole conversation before it, so that one can go on where an earlier one was dropped. The items are
shared between them, but counted in full for each: what is really held is never more than the limit.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

Item = dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """A response in the form of the API, and all items before its output, earlier turns included; each has an id."""

    response: dict[str, Any]
    items: list[Item]

    @property
    def conversation(self) -> list[Item]:
        return [*self.items, *self.response["output"]]


@dataclass
class _Shelf:
    """What one namespace has."""

    responses: OrderedDict[str, tuple[Stored, int]] = field(default_factory=OrderedDict)  # id: (it, bytes), last used last
    items: dict[str, tuple[Item, int]] = field(default_factory=dict)  # id: (it, in how many responses)
    num_bytes: int = 0


class ResponseStore:
    """Keeps the responses used last: at most `max_count` and `max_bytes` of JSON for each namespace."""

    def __init__(self, max_count: int = 1000, max_bytes: int = 64 << 20):
        self.max_count, self.max_bytes = max_count, max_bytes
        self._shelves: dict[str, _Shelf] = {}

    def put(self, namespace: str, stored: Stored) -> None:
        """Keep it, and drop what was not used for longest; what is larger than the limit alone is not kept."""
        shelf = self._shelves.setdefault(namespace, _Shelf())
        num_bytes = len(json.dumps([stored.response, stored.items], ensure_ascii=False))
        if num_bytes > self.max_bytes:
            return
        self.delete(namespace, stored.response["id"])
        shelf.responses[stored.response["id"]] = stored, num_bytes
        shelf.num_bytes += num_bytes
        for item in stored.conversation:  # the first of an id stays: a client cannot change what the model wrote
            kept, num = shelf.items.get(item["id"], (item, 0))
            shelf.items[item["id"]] = kept, num + 1
        while len(shelf.responses) > self.max_count or shelf.num_bytes > self.max_bytes:
            self.delete(namespace, next(iter(shelf.responses)))

    def get(self, namespace: str, response_id: str) -> Stored | None:
        shelf = self._shelves.get(namespace, _Shelf())
        if response_id not in shelf.responses:
            return None
        shelf.responses.move_to_end(response_id)
        return shelf.responses[response_id][0]

    def item(self, namespace: str, item_id: str) -> Item | None:
        """An item of any response that is kept."""
        return self._shelves.get(namespace, _Shelf()).items.get(item_id, (None, 0))[0]

    def delete(self, namespace: str, response_id: str) -> bool:
        """Whether there was one."""
        shelf = self._shelves.get(namespace, _Shelf())
        stored, num_bytes = shelf.responses.pop(response_id, (None, 0))
        if stored is None:
            return False
        shelf.num_bytes -= num_bytes
        for item in stored.conversation:
            kept, num = shelf.items.pop(item["id"], (item, 0))
            if num > 1:
                shelf.items[item["id"]] = kept, num - 1
        return True
