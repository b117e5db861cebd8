"""The heaviest requests a client can send, each alongside a stream of the embedded model: what they are answered, cost
and hold up.

    python -m bench.heavy [--only TEXT] [--json]

Starts `a3b serve` without a model directory and without a cache on disk. One client streams all the time. For each
input: the status and the seconds of its answer, the peak of memory of the server with all its processes (above what it
had before), and the longest time in which the stream got nothing. At the end the server is stopped while the
heaviest of them run."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.turns import Server, free_port

CHAT, MESSAGES, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"
COUNT, TOKENIZE = "/v1/messages/count_tokens", "/tokenize"
LOOK_S = 0.02
MB = 1_000_000
Case = tuple[str, Callable[[], Any]]  # path, and what makes the body: bytes, or a value of JSON


def chat(messages: Any = "hi", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    return {"messages": messages, "max_tokens": 3, **more}


def tool(name: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


def shape(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def called(*schemas: dict[str, Any], **more: Any) -> dict[str, Any]:
    return chat(tools=[tool(f"f{i}", schema, **more) for i, schema in enumerate(schemas)], tool_choice="required")


def answered(schema: dict[str, Any]) -> dict[str, Any]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}})


def reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def lattice(width: int, depth: int, key: str) -> dict[str, Any]:
    names = [f"n{i}" for i in range(depth)]
    defs = {name: {key: [reference(below)] * width} for name, below in zip(names, names[1:], strict=False)}
    return {**shape(x=reference("n0")), "$defs": {**defs, names[-1]: {"enum": ["a", "b"]}}}


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        found = shape(a=found)
    return found


def tool_call(arguments: str) -> list[dict[str, Any]]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ]


def many_calls(num: int) -> list[dict[str, Any]]:
    calls = [{"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in range(num)]
    return [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": f"c{i}", "content": "r"} for i in range(num)),
    ]


def talk(num: int) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": "hi there"} for i in range(num)]


def large(text: str = "x y z, and so on. ", megabytes: int = 28) -> str:
    return text * (megabytes * MB // len(text.encode()))


def response(given: Any, **more: Any) -> dict[str, Any]:
    return {"input": given, "max_output_tokens": 3, **more}


def object_of(num: int) -> dict[str, Any]:
    return {str(i): 1 for i in range(num)}


def responses_call(arguments: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "q"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c", "output": "r"},
    ]


def patterned(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


ITSELF = {**shape(x=reference("a")), "$defs": {"a": {"anyOf": [reference("a")] * 80}}}
LOOK_AHEADS = "^" + "".join(f"(?=.*a.{{{n}}}b)" for n in range(1, 25)) + ".*$"
WORDS = [r"^[a-z0-9]+(-[a-z0-9]+)*$", r"^\d{4}-\d{2}-\d{2}$", r"^https?://[^\s]+$", r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"]
PRODUCT = {"allOf": [{"anyOf": [shape(**{f"k{i}{j}": {}}) for j in range(8)]} for i in range(8)]}
PROPERTIES = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}}
NAMED = {"type": "object", "patternProperties": {f"^.*a.{{{i}}}b": {} for i in range(30)}}
DEEP = b'{"messages":[{"role":"user","content":"q"}],"response_format":' + b'{"a":' * 5000 + b"1" + b"}" * 5001
ITEMS = {"type": "array", "minItems": 9999, "items": {"type": "array", "minItems": 9999, "items": {"type": "integer"}}}
CASES: dict[str, Case] = {
    "$defs that refer to themselves 80 times": (CHAT, lambda: called(ITSELF)),
    "the same as response_format": (CHAT, lambda: answered(ITSELF)),
    "a lattice of anyOf": (CHAT, lambda: called(lattice(40, 8, "anyOf"))),
    "a lattice of allOf": (CHAT, lambda: answered(lattice(12, 8, "allOf"))),
    "a lattice of oneOf": (CHAT, lambda: called(lattice(12, 8, "oneOf"))),
    "a product of allOf and anyOf": (CHAT, lambda: answered(PRODUCT)),
    "objects nested 60 deep": (CHAT, lambda: answered(nested(60))),
    "objects nested 5,000 deep": (CHAT, lambda: DEEP),
    "24 look-aheads in one pattern": (CHAT, lambda: called(shape(x=patterned(LOOK_AHEADS)))),
    "24 look-aheads inside JSON": (CHAT, lambda: called(shape(x=shape(y=patterned(LOOK_AHEADS))))),
    "repeats of repeats in a pattern": (CHAT, lambda: called(shape(x=patterned("^((a{1,99}b?){1,99}c?){1,99}$")))),
    "oneOf of 40 patterns": (CHAT, lambda: called(shape(x={"oneOf": [patterned(f"a.{{{i}}}b") for i in range(40)]}))),
    "a pattern of 90 kB": (CHAT, lambda: called(shape(x=patterned("^" + "(?=a)" * 18_000)))),
    "30 patternProperties": (CHAT, lambda: answered(NAMED)),
    "propertyNames with a pattern": (
        CHAT,
        lambda: answered({"type": "object", "propertyNames": {"pattern": LOOK_AHEADS}}),
    ),
    "an enum of 9,000": (CHAT, lambda: answered(shape(x={"enum": [f"v{i}" for i in range(9000)]}))),
    "3,000 properties": (CHAT, lambda: answered(PROPERTIES)),
    "3,000 properties in a tool": (CHAT, lambda: called(shape(x=PROPERTIES))),
    "60 tools with patterns": (
        CHAT,
        lambda: called(*[shape(**{f"p{j}": patterned(WORDS[j % 4]) for j in range(6)})] * 60),
    ),
    "300 tools of 90 kB": (
        CHAT,
        lambda: called(*[shape(**{f"p{j}": {"enum": ["v" * 1400]} for j in range(60)})] * 300),
    ),
    "items 9,999 times 9,999": (CHAT, lambda: answered(ITEMS)),
    "multiples of 987654321": (CHAT, lambda: answered({"type": "integer", "multipleOf": 987654321, "minimum": 1})),
    "30,000 messages": (CHAT, lambda: chat(talk(30_000))),
    "4,000 messages": (CHAT, lambda: chat(talk(4_000))),
    "30,000 messages to be counted": (COUNT, lambda: chat(talk(30_000))),
    "10,000 calls and results": (CHAT, lambda: chat(many_calls(10_000))),
    "150,000 content parts": (
        CHAT,
        lambda: chat([{"role": "user", "content": [{"type": "text", "text": "a"}] * 150_000}]),
    ),
    "2,000,000 empty messages": (CHAT, lambda: b'{"messages":[' + b"{}," * 2_000_000 + b"{}]}"),
    "20,000 items (responses)": (RESPONSES, lambda: response(talk(20_000))),
    "28 MB in one string": (CHAT, lambda: chat(large())),
    "28 MB of blanks": (CHAT, lambda: chat(large(" "))),
    "11 million blanks in a prompt": (COMPLETIONS, lambda: {"prompt": large(" ", 11), "max_tokens": 3}),
    "28 MB of halves of pairs": (
        CHAT,
        lambda: b'{"messages":[{"role":"user","content":"' + rb"\ud800" * (28 * MB // 6) + b'"}]}',
    ),
    "28 MB of emoji (messages)": (MESSAGES, lambda: chat(large("\U0001f600"))),
    "28 MB of digits (responses)": (RESPONSES, lambda: response(large("1"))),
    "28 MB of a system prompt (messages)": (MESSAGES, lambda: chat(system=large())),
    "28 MB of instructions (responses)": (RESPONSES, lambda: response("q", instructions=large())),
    "28 MB of a tool's description": (CHAT, lambda: chat(tools=[tool("f", shape(), description=large())])),
    "28 MB of a tool's result": (
        CHAT,
        lambda: chat([*tool_call("{}")[:2], {"role": "tool", "tool_call_id": "c", "content": large()}]),
    ),
    "28 MB of thinking": (
        CHAT,
        lambda: chat([*talk(1), {"role": "assistant", "content": "a", "reasoning_content": large()}, *talk(1)]),
    ),
    "28 MB of a model's name": (CHAT, lambda: chat(model=large("m"))),
    "28 MB of a stop string": (CHAT, lambda: chat(stop=large("s"))),
    "400,000 stop strings": (CHAT, lambda: chat(stop=["s"] * 400_000)),
    "a bias for 400,000 tokens": (CHAT, lambda: chat(logit_bias=object_of(400_000))),
    "metadata of 400,000 keys": (RESPONSES, lambda: response("q", metadata=object_of(400_000))),
    "28 MB of empty lists": (CHAT, lambda: b'{"messages":' + b"[" + b"[]," * (9 * MB) + b"[]]}"),
    "28 MB of empty lists in a string": (CHAT, lambda: chat(tool_call("[" + "[]," * (9 * MB) + "[]]"))),
    "arguments nested 900 deep": (CHAT, lambda: chat(tool_call('{"a":' * 900 + "1" + "}" * 900))),
    "arguments nested 900 deep (responses)": (RESPONSES, lambda: response(responses_call("[" * 900 + "]" * 900))),
    "14 MB to be counted": (COUNT, lambda: chat(large(megabytes=14))),
    "14 MB to be tokenised": (TOKENIZE, lambda: {"content": large(megabytes=14)}),
    "28 MB of blanks to be tokenised": (TOKENIZE, lambda: {"content": large(" ")}),
}


class Stream:
    """A client that streams all the time; `longest` is the longest pause since it was last set to 0."""

    def __init__(self, port: int):
        self.port, self.longest, self.last, self.stops = port, 0.0, time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stops.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
            try:
                body = {"prompt": "One, two,", "max_tokens": 2000, "temperature": 1, "stream": True}
                connection.request("POST", COMPLETIONS, json.dumps(body), {"content-type": "application/json"})
                for line in connection.getresponse():
                    if line.startswith(b"data: {"):
                        self.tick()
            except OSError:
                time.sleep(LOOK_S)  # the server has stopped
            finally:
                connection.close()

    def tick(self) -> None:
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now


class Memory:
    """The peak of memory of a process and its children since it was last set to 0, bytes."""

    def __init__(self, pid: int):
        self.pid, self.peak = pid, 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.peak = max(self.peak, resident(self.pid))
            time.sleep(LOOK_S)


def resident(root: int) -> int:
    """Bytes of a process and all below it; what they share counts once (proportional set size)."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            pass
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for pid in family:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            pass
    return total


def post(port: int, path: str, body: bytes) -> tuple[str, str]:
    """(status, beginning of the answer)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return str(response.status), response.read(300).decode("utf-8", "replace")
    except OSError as error:
        return type(error).__name__, ""
    finally:
        connection.close()


def measure(server: Server, stream: Stream, memory: Memory, path: str, make: Callable[[], Any]) -> dict[str, Any]:
    made = make()
    body = made if isinstance(made, bytes) else json.dumps(made, ensure_ascii=False).encode()
    del made
    time.sleep(0.3)
    before, memory.peak, stream.longest = resident(server.process.pid), 0, 0.0
    began = time.monotonic()
    status, text = post(server.port, path, body)
    seconds = time.monotonic() - began
    time.sleep(0.3)
    stream.tick()  # a pause that lasts counts, too
    return {
        "status": status,
        "seconds": seconds,
        "bytes": len(body),
        "memory": max(memory.peak - before, 0),
        "pause": stream.longest,
        "answer": text,
    }


def stop_beside_work(server: Server, names: list[str]) -> float:
    """Seconds until the server has ended after SIGTERM, while it works on some of the inputs."""
    for name in names:
        path, make = CASES[name]
        made = make()
        body = made if isinstance(made, bytes) else json.dumps(made).encode()
        threading.Thread(target=post, args=(server.port, path, body), daemon=True).start()
    time.sleep(1)
    began = time.monotonic()
    server.process.terminate()
    server.process.wait(60)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="inputs whose names have this text")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = {}
    with Server([sys.executable, "-m", "a3b.cli", "serve", "--no-persist"], "/health", free_port()) as server:
        stream, memory = Stream(server.port), Memory(server.process.pid)
        time.sleep(1)
        for name, (path, make) in CASES.items():
            if args.only in name:
                rows[name] = row = measure(server, stream, memory, path, make)
                if not args.json:
                    print(
                        f"{name:42} {row['status']:>4} {row['seconds']:6.2f} s "
                        f"{row['memory'] >> 20:5} MiB  pause {row['pause']:.2f} s   "
                        f"{message(row['answer'])[:100]}",
                        flush=True,
                    )
        stream.stops.set()
        stopped = stop_beside_work(
            server, ["24 look-aheads in one pattern", "30,000 messages to be counted", "14 MB to be counted"]
        )
    if args.json:
        print(json.dumps({"rows": rows, "stopped_s": stopped}, indent=2))
    else:
        print(
            f"the longest pause: {max(row['pause'] for row in rows.values()):.2f} "
            f"s; SIGTERM beside work: ended after {stopped:.1f} s"
        )
    return 0


def message(answer: str) -> str:
    try:
        return json.loads(answer)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
