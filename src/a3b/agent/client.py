"""Talks to an OpenAI-compatible server: what it serves, and one answer after another, streamed or whole.

A stream is judged by silence alone: a3b's server sends a heartbeat every ten seconds, however long a prompt is read. A
server that sends none may be silent for as long as its machine answers (TCP keep-alive). Enter at
`ModelClient`."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from a3b.agent.answer import AnswerReader, ModelAnswer, count, error_text
from a3b.agent.event_lines import END, BadStreamError, Heartbeat, StreamEnd, json_events
from a3b.agent.events import AgentEvent, Notice
from a3b.errors import A3BError

ASK_S = 30.0  # for an answer that takes no computing
CONNECT_S = 10.0
SILENCE_S = 180.0  # of a server that sends heartbeats
WHOLE_S = 6 * 3600.0  # for an answer that comes whole: a model on a CPU may write for hours
OF_STREAMS = ("stream", "stream_options", "return_progress")  # fields of a request
MAX_BODY = 16 << 20  # bytes of an answer that is not streamed
MOST_CONTEXT = 1 << 26  # tokens; more is a lie
ASSUMED_CONTEXT = 32_768
TRIES = 6
ABOUT = ("version", "instruction_set", "kv", "preset", "identity", "positions")  # of /health
MAX_WAIT_S = 120.0  # that a server may ask for
BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # the same request may succeed later
FIELDS = ("max_tokens", "stream_options")  # of a request, which may be left out
VERSION = re.compile(r"/v\d+[a-z]*\d*(?:/openai)?$")  # at the end of a path: nothing has to be added
LENGTH_WORDS = ("context", "too long", "maximum length", "tokens")
KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 8),
]

StreamItem = dict[str, Any] | Heartbeat | StreamEnd


class ModelServerError(A3BError):
    """A server that cannot be reached or refuses. is_length: the prompt does not fit; retry_s: when to try again, None
    if that is of no use; field: of the request, one that can be left out and that the server does not like."""

    def __init__(self, text: str, retry_s: float | None = None, is_length: bool = False, field: str = ""):
        super().__init__(text)
        self.retry_s, self.is_length, self.field = retry_s, is_length, field


@dataclass(frozen=True)
class ServerFacts:
    """What a server serves. kind: "a3b", "llama.cpp", "vllm", "sglang" or "other"; context: tokens; is_known: whether
    the server said how many; positions: how it reads them, in words, "" if it does not say."""

    model: str
    context: int
    kind: str
    is_known: bool = True
    positions: str = ""

    @property
    def replays_exactly(self) -> bool:
        return self.kind == "a3b"


class ModelClient:
    """One server. url: with or without /v1, or with the version of its own that some have; context: tokens, of a server
    that does not say how many, or fewer than it says; streams: whether it is asked for streams."""

    def __init__(
        self, url: str, key: str = "", model: str | None = None, context: int | None = None, streams: bool = True
    ):
        self.root = url.strip().rstrip("/").removesuffix("/v1")
        self.api = "" if VERSION.search(urlsplit(self.root).path) else "/v1"
        self._named, self._context, self._streams = model, context, streams
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=CONNECT_S, write=300.0),
            trust_env=not is_local(self.root),  # a proxy has another loopback
            transport=httpx2.AsyncHTTPTransport(socket_options=KEEP_ALIVE) if is_local(self.root) else None,
        )
        self._facts: ServerFacts | None = None
        self.reader = AnswerReader()  # of the answer that is being written, or was last

    async def aclose(self) -> None:
        await self._http.aclose()

    # -- what is served

    async def facts(self) -> ServerFacts:
        """Raises ModelServerError."""
        if self._facts is None:
            self._facts = await self._ask_facts()
        return self._facts

    async def _ask_facts(self) -> ServerFacts:
        try:
            listed = await self._json("GET", f"{self.api}/models")
        except ModelServerError as error:
            if self._named is None or error.retry_s is not None:
                raise
            listed = {}  # some gateways list nothing
        data = listed.get("data") if isinstance(listed, dict) else None
        models = (
            [m for m in data if isinstance(m, dict) and isinstance(m.get("id"), str)] if isinstance(data, list) else []
        )
        named = [m for m in models if m["id"] == self._named]
        first = next(iter(named or models), {})
        name = self._named or first.get("id")
        if not name:
            raise ModelServerError(f"{self.root}{self.api}/models names no model; give one with --model")
        owner = str(first.get("owned_by", ""))
        props = await self._props() if owner != "a3b" else {}
        kind = owner if owner in ("a3b", "vllm", "sglang") else "llama.cpp" if props else "other"
        known = [n for n in (_context(props, first), self._context) if n is not None]
        positions = first.get("positions")
        said = positions[:80] if isinstance(positions, str) else ""
        return ServerFacts(str(name)[:200], min(known, default=ASSUMED_CONTEXT), kind, bool(known), said)

    async def _props(self) -> dict[str, Any]:
        """What llama.cpp's server says of itself; {} for others."""
        try:
            found = await self._json("GET", "/props")
        except ModelServerError:
            return {}
        return found if isinstance(found, dict) and "default_generation_settings" in found else {}

    async def slots(self) -> int | None:
        """How many answers the server writes at once, where it says so: a3b and llama.cpp."""
        found = count((await self._props()).get("total_slots"))
        return found or None

    async def about(self) -> dict[str, str]:
        """What a3b's server says of what computes, for a record of what it wrote; {} of others."""
        if (await self.facts()).kind != "a3b":
            return {}
        try:
            found = await self._json("GET", "/health")
        except ModelServerError:
            return {}
        said = found if isinstance(found, dict) else {}
        return {name: said[name][:100] for name in ABOUT if isinstance(said.get(name), str)}

    async def count(self, body: Mapping[str, Any]) -> int | None:
        """The tokens of a prompt, from a server that can tell: a3b and vLLM."""
        if (await self.facts()).kind not in ("a3b", "vllm"):
            return None
        kept = {key: body[key] for key in ("model", "messages", "tools", "chat_template_kwargs") if key in body}
        try:
            return count((await self._json("POST", "/tokenize", kept)).get("count"))
        except (ModelServerError, AttributeError):
            return None

    async def _json(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request that takes no computing. Raises ModelServerError."""
        try:
            async with asyncio.timeout(ASK_S), self._open(method, path, body) as answer:
                data = await _whole(answer)
        except TimeoutError:
            raise ModelServerError(f"{self.root}{path}: no answer in {ASK_S:g} s; is this the right server?") from None
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise ModelServerError(
                f"{self.root}{path}: the answer is not JSON; is this an OpenAI-compatible server?"
            ) from None

    # -- answers

    async def answer(
        self, body: Mapping[str, Any], used_ids: Collection[str] = ()
    ) -> AsyncGenerator[AgentEvent | ModelAnswer, None]:
        """What comes while the answer is written, and the answer last. Nothing was acted upon before that, so a request
        that breaks off is sent again, which a Notice says. Raises ModelServerError."""
        for attempt in range(1, TRIES + 1):
            reader = AnswerReader(used_ids)
            try:
                async for item in self._tried(body, reader):
                    yield item
                return
            except ModelServerError as error:
                if error.retry_s is None or attempt == TRIES:
                    raise
                wait = min(max(error.retry_s, 2.0 ** (attempt - 1)), MAX_WAIT_S)
                again = " The answer so far is discarded; nothing of it was acted upon." if reader.has_begun else ""
                yield Notice(f"{error}; try {attempt + 1} of {TRIES} in {wait:.0f} s.{again}", "warning")
                await asyncio.sleep(wait)

    async def _tried(self, body: Mapping[str, Any], reader: AnswerReader) -> AsyncIterator[AgentEvent | ModelAnswer]:
        self.reader = reader
        silence = SILENCE_S if (await self.facts()).kind == "a3b" else None
        if not self._streams:  # nothing is heard before the end, from any server
            body = {name: value for name, value in body.items() if name not in OF_STREAMS}
            silence = WHOLE_S
        try:
            async with self._open("POST", f"{self.api}/chat/completions", body, silence) as response:
                if "event-stream" not in response.headers.get("content-type", ""):
                    async with asyncio.timeout(silence):
                        events = _only(json.loads(await _whole(response)))
                else:
                    events = json_events(response.aiter_bytes())
                async for chunk in _while_heard(events, silence):
                    if isinstance(chunk, dict):
                        for event in reader.add(chunk):
                            yield event
                    reader.is_ended |= isinstance(chunk, StreamEnd)
            yield reader.answer()
        except BadStreamError as error:
            raise ModelServerError(f"{self.root}: {error}", retry_s=1.0) from None
        except (ValueError, RecursionError):
            raise ModelServerError(f"{self.root}: the answer is not JSON", retry_s=1.0) from None
        except TimeoutError:
            if not self._streams:
                raise ModelServerError(f"{self.root}: no answer within {WHOLE_S / 3600:g} hours") from None
            raise ModelServerError(f"{self.root}: silent for {SILENCE_S:.0f} s, heartbeats too", retry_s=1.0) from None

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, body: Any = None, silence: float | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """A response with status 200. Raises ModelServerError, and TimeoutError for no sign of one within `silence`."""
        data = None if body is None else json.dumps(body).encode()
        request = self._http.build_request(
            method, self.root + path, content=data, headers={"content-type": "application/json"} if data else None
        )
        try:
            async with asyncio.timeout(silence):
                response = await self._http.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise _refusal(self.root + path, response, await _whole(response))
                yield response
            finally:
                await response.aclose()
        except httpx2.ConnectError:
            raise ModelServerError(
                f"{self.root}: nobody answers there; start a3b serve, or give another --base-url", retry_s=1.0
            ) from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise ModelServerError(f"--base-url {self.root[:200]}: expected http://HOST:PORT") from None
        except httpx2.HTTPError as error:
            said = str(error)[:200] or type(error).__name__
            raise ModelServerError(f"{self.root}: the connection broke off ({said})", retry_s=1.0) from None


def is_local(url: str) -> bool:
    """Whether a URL is of this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _whole(response: httpx2.Response) -> bytes:
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > MAX_BODY:
            raise ModelServerError(f"an answer has more than {MAX_BODY >> 20} MiB; expected less")
    return bytes(data)


async def _only(chunk: Any) -> AsyncIterator[StreamItem]:
    """An answer that was not streamed."""
    if not isinstance(chunk, dict):
        raise BadStreamError("the answer is no JSON object")
    yield chunk
    yield END


async def _while_heard(events: AsyncIterator[StreamItem], silence: float | None) -> AsyncIterator[StreamItem]:
    """The same events. Raises TimeoutError after that many seconds without one."""
    while True:
        async with asyncio.timeout(silence):
            event = await anext(events, None)
        if event is None:
            return
        yield event


def _refusal(where: str, response: httpx2.Response, said: bytes) -> ModelServerError:
    status = response.status_code
    try:
        told = error_text(json.loads(said))
    except (ValueError, RecursionError):
        told = said[:300].decode(errors="replace")
    if status in (401, 403):
        return ModelServerError(f"{where}: {told or status}; give the key with --api-key or A3B_API_KEY")
    if 300 <= status < 400:
        return ModelServerError(f"{where}: sends elsewhere ({status}); give the address itself with --base-url")
    if status == 404:
        return ModelServerError(f"{where}: not found ({told}); is this an OpenAI-compatible server?")
    is_wrong = status in (400, 413, 422)
    return ModelServerError(
        f"{where}: {status}: {told}",
        _retry_after(response.headers.get("retry-after")) if status in BUSY else None,
        is_wrong and any(word in told.lower() for word in LENGTH_WORDS),
        next((field for field in FIELDS if is_wrong and field in told), ""),
    )


def _retry_after(given: str | None) -> float:
    try:
        wait = float(given or 1.0)
    except ValueError:  # a date: a server that is so exact can wait
        return 5.0
    return min(wait, MAX_WAIT_S) if wait >= 0 else 1.0  # "nan" is a float, too


def _context(props: Mapping[str, Any], model: Mapping[str, Any]) -> int | None:
    """The tokens that a server can hold, in the forms of a3b and vLLM, of llama.cpp, of gateways and of LM Studio."""
    settings = props.get("default_generation_settings")
    meta = model.get("meta")
    found: Sequence[Any] = (
        settings.get("n_ctx") if isinstance(settings, dict) else None,
        model.get("max_model_len"),
        model.get("loaded_context_length"),
        model.get("context_length"),
        model.get("context_window"),
        model.get("max_context_length"),
        meta.get("n_ctx") if isinstance(meta, dict) else None,
    )
    return next((n for n in found if type(n) is int and 0 < n <= MOST_CONTEXT), None)
