"""What a server says over HTTP: whether it is a3b, which model it serves, how fast it reads.

Everything in an answer may be wrong; what is read is bounded. Enter at `Asker`."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from a3b.errors import A3BError, UsageError
from a3b.server.limits import is_loopback

ASK_S = 10.0  # for an answer that takes no computing
MAX_ANSWER = 16 << 20  # bytes
MOST_CONTEXT = 1 << 26  # tokens; more is a lie
LEAST_READ, LEAST_WRITTEN = 256, 64  # tokens that tell a speed
MOST_SPEED = 1e7  # tokens a second; more is a lie
WORDS = 300  # characters of an answer that an error quotes
COUNTER = re.compile(
    r"^a3b_(prefill_tokens|prefill_seconds|completion_tokens|decode_seconds)_total ([0-9.e+]{1,32})$", re.MULTILINE
)


class NoServerError(A3BError):
    """Nobody listens at an address."""


@dataclass(frozen=True)
class ServedModel:
    name: str
    context: int  # tokens


def url_of(host: str, port: int) -> str:
    """Where a server that listens on a host can be reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """a3b sends nobody elsewhere, and a key is for the server that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value of an answer can be a number of tokens."""
    return type(value) is int and 0 <= value <= MOST_CONTEXT


class Asker:
    """Asks one server. url: without /v1, with http or https."""

    def __init__(self, url: str, key: str = ""):
        self.url, self.key = checked_url(url), key
        local = is_loopback(urlsplit(self.url).hostname or "")
        direct = [urllib.request.ProxyHandler({})] if local else []  # a proxy has another loopback
        self._opener = urllib.request.build_opener(_NoRedirects, *direct)

    def model(self) -> ServedModel:
        """What is served. Raises NoServerError if nobody listens, UsageError for anything but an a3b server."""
        found = self.json("/v1/models")
        data = found.get("data") if isinstance(found, dict) else None
        first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
        name, context = first.get("id"), first.get("max_model_len")
        if first.get("owned_by") != "a3b" or not isinstance(name, str) or type(context) is not int:
            raise UsageError(f"{self.url}: this is no a3b server; {self._elsewhere()}")
        if not 0 < context <= MOST_CONTEXT:
            raise UsageError(f"{self.url}: says that its context is {context} tokens; {self._elsewhere()}")
        return ServedModel(name, context)

    def speed(self) -> float | None:
        """Tokens of prompts that it read in a second so far; None if it read too few to tell."""
        return _rate(self._counted(), "prefill_tokens", "prefill_seconds", LEAST_READ)

    def rates(self) -> tuple[float, float] | None:
        """Tokens that it read and wrote in a second so far, drafts included; None if they were too few to tell."""
        counted = self._counted()
        read = _rate(counted, "prefill_tokens", "prefill_seconds", LEAST_READ)
        write = _rate(counted, "completion_tokens", "decode_seconds", LEAST_WRITTEN)
        return None if read is None or write is None else (read, write)

    def _counted(self) -> dict[str, str]:
        with self._open("/metrics") as answer:
            return dict(COUNTER.findall(answer.read(MAX_ANSWER).decode(errors="replace")))

    def json(self, path: str, body: Any = None, timeout: float = ASK_S) -> Any:
        """The answer to a request, parsed. Raises NoServerError, UsageError."""
        with self._open(path, body, timeout) as answer:
            data = answer.read(MAX_ANSWER)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise UsageError(f"{self.url}{path}: the answer is not JSON; {self._elsewhere()}") from None

    def events(self, path: str, body: Any, timeout: float) -> Iterator[Any]:
        """The events of a streamed answer, or the answer itself if it is not streamed. timeout: between two pieces.

        Raises UsageError."""
        with self._open(path, body, timeout) as answer:
            if "event-stream" not in (answer.headers.get("content-type") or ""):
                yield json.loads(answer.read(MAX_ANSWER))
                return
            while line := answer.readline(MAX_ANSWER):
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])

    @contextmanager
    def _open(self, path: str, body: Any = None, timeout: float = ASK_S) -> Iterator[Any]:
        data = None if body is None else json.dumps(body).encode(errors="surrogatepass")
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            with self._opener.open(urllib.request.Request(self.url + path, data, headers), timeout=timeout) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise UsageError(self._refused(path, error)) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                raise NoServerError(f"{self.url}: nobody listens there") from None
            raise UsageError(f"{self.url}: {error.reason}; {self._elsewhere()}") from None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise UsageError(f"{self.url}: {error or type(error).__name__}; {self._elsewhere()}") from None

    def _refused(self, path: str, error: urllib.error.HTTPError) -> str:
        with error:
            said = error.read(1 << 16)
        try:
            told = json.loads(said)["error"]["message"]
            is_ours = isinstance(told, str) and bool(error.headers.get("x-request-id"))
        except (ValueError, KeyError, TypeError, RecursionError):
            is_ours = False
        if is_ours and error.code == 401:
            way = "another one" if self.key else "one"
            return f"{self.url}: {told}; give {way} with --api-key-file or A3B_API_KEY"
        if is_ours:
            return f"{self.url}{path}: {told[:WORDS]}"
        return f"{self.url}: this is no a3b server (it answers {path} with {error.code}); {self._elsewhere()}"

    def _elsewhere(self) -> str:
        return "give the address of one with --base-url or --port; --port 0 starts one on a free port"


def _rate(counted: Mapping[str, str], tokens: str, seconds: str, least: int) -> float | None:
    """Tokens a second of two counters; None where they do not tell."""
    try:
        number = float(counted[tokens])
        speed = number / float(counted[seconds])
        return speed if number >= least and 1 / MOST_SPEED < speed < MOST_SPEED else None
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def checked_url(url: str) -> str:
    """The URL without its end. Raises UsageError."""
    try:
        parts = urlsplit(url.strip())
        fits = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits or re.search(r"[\s\x00-\x1f\x7f]", url.strip()) or parts.query or parts.fragment or parts.username:
        raise UsageError(f"--base-url {url[:100]!r}: expected http://HOST:PORT")
    return url.strip().rstrip("/").removesuffix("/v1")
