"""Responses to be continued or looked up later: in memory, bounded for each namespace, and in records that outlive the
process. Enter at `ResponseStore`.

Each response is kept with the whole conversation before it, so that it can be continued even where an earlier one was
dropped. Responses share items but each counts them in full, so memory stays below the limit."""

from __future__ import annotations

import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

ResponseItem = dict[str, Any]
MAX_RECORD_BYTES = 4 << 20


class ResponseRecords(Protocol):
    """Storage that outlives the process: values by namespace and key, oldest first."""

    def put_record(self, namespace: str, key: bytes, value: bytes) -> None: ...

    def get_records(self, namespace: str, key: bytes) -> list[bytes]: ...


@dataclass(frozen=True)
class StoredResponse:
    """A response as the API shows it, and all items before its output, earlier turns included. Each item has an id."""

    response: dict[str, Any]
    items: list[ResponseItem]

    @property
    def conversation(self) -> list[ResponseItem]:
        return [*self.items, *self.response["output"]]


@dataclass
class _NamespaceBucket:
    """The responses and items of one namespace."""

    # id: (response, bytes), least recently used first
    responses: OrderedDict[str, tuple[StoredResponse, int]] = field(default_factory=OrderedDict)
    items: dict[str, tuple[ResponseItem, int]] = field(
        default_factory=dict
    )  # id: (item, number of responses that have it)
    num_bytes: int = 0


class Recorder:
    """Writes JSON values to records and reads them back by name; without records it does nothing."""

    def __init__(self, records: ResponseRecords | None = None):
        self._records = records
        self._writer = (
            ThreadPoolExecutor(1, "recorder") if records else None
        )  # so that a slow disk does not delay answers
        self._late: dict[tuple[str, str], Any] = {}  # values not yet written

    def close(self) -> None:
        """Finish writing."""
        if self._writer is not None:
            self._writer.shutdown()

    def write(self, namespace: str, name: str, value: Any) -> None:
        """Write a value. The latest one of a name counts."""
        if self._writer is None or self._records is None:
            return
        records = self._records
        data = json.dumps(value).encode()
        if len(data) <= MAX_RECORD_BYTES:
            place = (namespace, name)
            self._late[place] = value

            def write() -> None:
                records.put_record(namespace, name.encode(), data)
                if self._late.get(place) is value:
                    self._late.pop(place, None)

            self._writer.submit(write)

    def read(self, namespace: str, name: str) -> Any:
        """The latest value of a name; None if there is none, or none that can be read."""
        if (namespace, name) in self._late:
            return self._late[namespace, name]
        try:
            found = self._records.get_records(namespace, name.encode()) if self._records else []
            return json.loads(found[-1]) if found else None
        except (ValueError, UnicodeEncodeError):
            return None


class ResponseStore:
    """Keeps the latest responses: in memory at most `max_count` and `max_bytes` of JSON per namespace."""

    def __init__(self, max_count: int = 1000, max_bytes: int = 64 << 20, records: ResponseRecords | None = None):
        self.max_count, self.max_bytes = max_count, max_bytes
        self.recorder = Recorder(records)
        self._buckets: dict[str, _NamespaceBucket] = {}

    def put(self, namespace: str, stored: StoredResponse) -> None:
        """Keep a response and drop the least recently used. One that alone exceeds the limit is not kept in memory."""
        self._keep(namespace, stored)
        self._write(namespace, stored.response["id"], [stored.response, stored.items])
        for item in stored.response["output"]:
            self._write(namespace, item["id"], item)

    def close(self) -> None:
        """Finish writing."""
        self.recorder.close()

    def _write(self, namespace: str, name: str, value: Any) -> None:
        self.recorder.write(namespace, f"response {name}", value)

    def _recorded(self, namespace: str, name: str) -> Any:
        return self.recorder.read(namespace, f"response {name}")

    def _keep(self, namespace: str, stored: StoredResponse) -> None:
        bucket = self._buckets.setdefault(namespace, _NamespaceBucket())
        num_bytes = len(json.dumps([stored.response, stored.items], ensure_ascii=False))
        if num_bytes > self.max_bytes:
            return
        self._take(namespace, stored.response["id"])
        bucket.responses[stored.response["id"]] = stored, num_bytes
        bucket.num_bytes += num_bytes
        for item in stored.conversation:  # the first item of an id stays: clients cannot change what the model wrote
            kept, num = bucket.items.get(item["id"], (item, 0))
            bucket.items[item["id"]] = kept, num + 1
        while len(bucket.responses) > self.max_count or bucket.num_bytes > self.max_bytes:
            self._take(namespace, next(iter(bucket.responses)))

    def get(self, namespace: str, response_id: str) -> StoredResponse | None:
        bucket = self._buckets.get(namespace, _NamespaceBucket())
        if response_id not in bucket.responses:
            match self._recorded(namespace, response_id):
                case [{"id": found, "output": list()} as response, list() as items] if found == response_id:
                    stored = StoredResponse(response, items)
                    self._keep(namespace, stored)
                    return stored
            return None
        bucket.responses.move_to_end(response_id)
        return bucket.responses[response_id][0]

    def item(self, namespace: str, item_id: str) -> ResponseItem | None:
        """An item of any response of the namespace."""
        item = self._buckets.get(namespace, _NamespaceBucket()).items.get(item_id, (None, 0))[0]
        if item is None:
            found = self._recorded(namespace, item_id)
            item = found if isinstance(found, dict) and found.get("id") == item_id else None
        return item

    def delete(self, namespace: str, response_id: str) -> bool:
        """Whether it existed."""
        stored = self.get(namespace, response_id)
        if stored is None:
            return False
        self._take(namespace, response_id)
        for name in (response_id, *(item["id"] for item in stored.response["output"])):
            self._write(namespace, name, None)  # the latest value counts
        return True

    def _take(self, namespace: str, response_id: str) -> None:
        bucket = self._buckets.get(namespace, _NamespaceBucket())
        stored, num_bytes = bucket.responses.pop(response_id, (None, 0))
        if stored is None:
            return
        bucket.num_bytes -= num_bytes
        for item in stored.conversation:
            kept, num = bucket.items.pop(item["id"], (item, 0))
            if num > 1:
                bucket.items[item["id"]] = kept, num - 1
