"""What a model hub holds, and the bytes of one of its files from any position on.

Addresses, tokens, sessions and errors are those of `huggingface_hub`, which is imported when a `Hub` is made, since
that takes half a second. Bytes are read here, over plain HTTP, because its own download discards a partial file when it
is interrupted. Every network error becomes a DownloadError of one line. Writes no files; `a3b.hub.download` does. Enter
at `Hub`."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from a3b.errors import DownloadError, UsageError

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_S = 30.0  # without a single byte
LISTING_S, MAX_LISTING_BYTES = 120.0, 64 << 20  # for the list of a repository's files: some hundred bytes each
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # statuses that the next attempt may not get
MAX_WAIT_S = 60.0  # longest wait that a server may request; beyond that the user decides
REPO = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+", re.ASCII)
ADDRESS = re.compile(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/")  # of a page, before OWNER/NAME
MAX_FILE = 1 << 50  # bytes; a larger file is a lie
MAX_PATH = 1000  # characters of a file's name with its directories
SUMS = {"sha256": 64, "git-sha1": 40}  # hex digits of each


@dataclass(frozen=True)
class HubFile:
    """A file as the hub describes it."""

    path: str  # in the repository, with "/"
    num_bytes: int
    sum: str  # hex
    algorithm: str  # one of SUMS; git hashes a header and the content

    def digest(self) -> hashlib._Hash:
        """A new hash object that gives `sum` once it is updated with the content."""
        if self.algorithm == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.num_bytes, usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]


class TransientFailure(Exception):
    """A failure that may pass: the next attempt continues where this one stopped."""

    def __init__(self, reason: str, wait_s: float | None = None):
        super().__init__(reason)
        self.wait_s = wait_s  # how long the server asks to wait


class _Response(Protocol):
    """What is read of a response of the client library that huggingface_hub uses."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


class Hub:
    """One repository of a hub."""

    def __init__(self, repo: str, revision: str | None = None, endpoint: str | None = None):
        """Raises UsageError if `repo` is not OWNER/NAME.

        revision: a branch, tag or commit; None is main. endpoint: None is that of huggingface_hub (HF_ENDPOINT)."""
        self.repo, self.revision = checked_repo(repo), revision or "main"
        try:
            from huggingface_hub import HfApi, constants
            from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported lazily
        except ValueError as error:  # it reads the environment when it is imported
            raise DownloadError(
                f"huggingface_hub cannot start ({_reason(error)}); check the variables that begin with HF_"
            ) from None

        # a variable that is set to nothing counts as unset
        self._api = HfApi(endpoint=endpoint or constants.ENDPOINT or DEFAULT_ENDPOINT, library_name="a3b")
        self.endpoint = self._api.endpoint.rstrip("/")
        headers = build_hf_headers(library_name="a3b")
        self._headers = {
            **headers,
            "Accept-Encoding": "identity",
        }  # a download cannot continue inside of compressed bytes
        self._has_token = "authorization" in headers

    def listing(self) -> Listing:
        """The files at the revision, each with size and checksum. Raises DownloadError."""
        try:
            info = json.loads(self._listed())
            commit, siblings = info.get("sha"), info.get("siblings") or []
            entries = []
            for one in siblings:
                lfs = one.get("lfs")
                sizes = (lfs["size"], lfs["sha256"]) if lfs else (one.get("size"), one.get("blobId"))
                entries.append((one["rfilename"], *sizes))
        except (OSError, self._http_error()) as error:
            raise self._refusal(error) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DownloadError(
                f"{self.endpoint}: its answer is not that of a model hub; check HF_ENDPOINT and proxies"
            ) from None
        if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            raise DownloadError(f"{self.repo}: the hub names no commit for revision {self.revision!r}; try again later")
        files = {path: self._file(path, num_bytes, sum) for path, num_bytes, sum in entries}
        return Listing(self.repo, commit, tuple(files.values()))

    def _listed(self) -> bytes:
        """What the hub says of the repository. The library's own call would take an answer without an end."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
            get_session,
            hf_raise_for_status,
        )

        url = f"{self.endpoint}/api/models/{self.repo}/revision/{quote(self.revision, safe='')}"
        answer, deadline = bytearray(), time.monotonic() + LISTING_S
        with get_session().stream(
            "GET", url, headers=self._headers, params={"blobs": True}, timeout=TIMEOUT_S
        ) as response:
            hf_raise_for_status(response)
            for piece in response.iter_bytes():
                answer += piece
                if len(answer) > MAX_LISTING_BYTES or time.monotonic() > deadline:
                    raise DownloadError(
                        f"{self.repo}: the hub's list of its files does not end within "
                        f"{MAX_LISTING_BYTES >> 20} MiB and {LISTING_S:.0f} s; check HF_ENDPOINT and proxies"
                    )
        return bytes(answer)

    def read(self, file: HubFile, commit: str, start: int, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Pieces (position, bytes) of a file; the first position is `start`, or 0 if the server cannot start there.

        stop: where the range that is asked for ends, None for the end of the file; the server may send more. Raises
        TransientFailure for a failure that may pass, DownloadError for any other."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
            get_session,
            hf_raise_for_status,
        )

        url = f"{self.endpoint}/{self.repo}/resolve/{commit}/{quote(file.path)}"
        end = "" if stop is None else stop - 1
        headers = {**self._headers, "Range": f"bytes={start}-{end}"} if start or stop is not None else self._headers
        try:
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
                if response.status_code in TRANSIENT:
                    raise TransientFailure(f"HTTP {response.status_code}", _retry_after(response.headers))
                if response.status_code == 416:
                    raise DownloadError(
                        f"{file.path}: the server holds at most {start} bytes, the hub's list says {file.num_bytes}; "
                        "try again later, or another --revision"
                    )
                hf_raise_for_status(response)
                position = _first_position(response, start)
                self._check_total(response, file)
                for piece in response.iter_bytes():  # as they arrive: nothing read is lost when the connection breaks
                    yield position, piece
                    position += len(piece)
        except (OSError, self._http_error()) as error:
            if getattr(error, "response", None) is None and not self._is_offline(error):
                raise TransientFailure(_reason(error)) from None
            raise self._refusal(error, file.path) from None

    def unreachable(self, reason: str) -> DownloadError:
        """The error once every attempt to reach the server has failed."""
        return DownloadError(
            f"{self.endpoint} cannot be reached ({reason}); check the network, proxies and HF_ENDPOINT, "
            "then run the same command: it continues where it stopped"
        )

    def _check_total(self, response: _Response, file: HubFile) -> None:
        """Raises DownloadError if the server speaks of a file of another size than the list does."""
        total = re.fullmatch(r"bytes \d{1,20}-\d{1,20}/(\d{1,20})", response.headers.get("Content-Range", ""))
        if total and int(total[1]) != file.num_bytes:
            raise DownloadError(
                f"{file.path}: the server holds {int(total[1])} bytes, the hub's list says {file.num_bytes}; "
                "try again later, or another --revision"
            )

    def _file(self, path: Any, num_bytes: int | None, sum: str | None) -> HubFile:
        parts = path.split("/") if isinstance(path, str) else []
        if (
            not parts
            or len(path) > MAX_PATH
            or not path.isprintable()
            or "\\" in path
            or any(part in ("", ".", "..") for part in parts)
        ):
            raise DownloadError(
                f"{self.repo}: holds a file called {str(path)[:80]!r}, which cannot be written under that name"
            )
        digits = sum if isinstance(sum, str) else ""
        algorithm = next((name for name, num in SUMS.items() if re.fullmatch(f"[0-9a-f]{{{num}}}", digits)), None)
        if type(num_bytes) is not int or not 0 <= num_bytes <= MAX_FILE or algorithm is None:
            raise DownloadError(
                f"{self.repo}: the hub gives no size and checksum for {path}; nothing could be verified"
            )
        return HubFile(path, num_bytes, digits, algorithm)

    def _http_error(self) -> type[Exception]:
        """The base of network errors in the client library that huggingface_hub uses."""
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # imported there, not exported

        found: type[Exception] = HTTPError
        return found

    def _is_offline(self, error: Exception) -> bool:
        from huggingface_hub.errors import OfflineModeIsEnabled

        return isinstance(error, OfflineModeIsEnabled)

    def _refusal(self, error: Exception, path: str | None = None) -> DownloadError:
        """An error of huggingface_hub as one line that says what to do next."""
        from huggingface_hub import errors

        repo, page = self.repo, f"{self.endpoint}/{self.repo}"
        response: Any = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        tokens = f"make a token at {self.endpoint}/settings/tokens and give it as HF_TOKEN"
        if self._is_offline(error):
            return DownloadError("HF_HUB_OFFLINE is set, so nothing can be fetched; unset it and run the same command")
        if status is None:
            return self.unreachable(_reason(error))
        if isinstance(error, errors.GatedRepoError):
            step = (
                "ask for access there with the account of your token"
                if self._has_token
                else f"accept them there, {tokens}"
            )
            return DownloadError(f"{repo} is open only to those who accept its terms at {page}: {step}")
        if isinstance(error, errors.RevisionNotFoundError):
            return DownloadError(
                f"{repo} has no revision {self.revision!r}; {page}/branches/main lists them, --revision takes one"
            )
        if isinstance(error, errors.EntryNotFoundError):
            return DownloadError(
                f"{repo} no longer holds {path or 'that file'}; run the same command to fetch what it holds now"
            )
        if isinstance(error, errors.DisabledRepoError):
            return DownloadError(f"{repo} was disabled by the hub or its owner; {page} may say why")
        bad_token = (
            status == 401 and self._has_token and "Invalid credentials" in response.headers.get("X-Error-Message", "")
        )
        if not bad_token and (isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404)):
            step = "your token may not see it" if self._has_token else f"if it is private, {tokens}"
            return DownloadError(f"{repo} does not exist on {self.endpoint}, or is private; check the name; {step}")
        if bad_token:
            return DownloadError(f"{self.endpoint} does not accept your token (HTTP 401); {tokens}, or unset HF_TOKEN")
        if status == 403:
            return DownloadError(
                f"{repo}: access is forbidden (HTTP 403); your token needs the right to read it: {tokens}"
            )
        if status == 429:
            wait = _retry_after(response.headers)
            when = f"in {wait:.0f} s" if wait else "in some minutes"
            step = "" if self._has_token else "; with HF_TOKEN the limit is higher"
            return DownloadError(f"{self.endpoint} wants fewer requests (HTTP 429); run the same command {when}{step}")
        return DownloadError(f"{self.endpoint} answered HTTP {status} for {path or repo}; run the same command later")


def checked_repo(text: str) -> str:
    """OWNER/NAME, given as such or as the address of its page. Raises UsageError."""
    repo = ADDRESS.sub("", text.strip()).removesuffix("/")
    if ":" in repo:
        repo, _, tag = repo.partition(":")
        raise UsageError(
            f"REPO is {text!r}; expected OWNER/NAME. For a certain file write: a3b pull {repo} --include '*{tag}*'"
        )
    if not is_repo(repo):
        raise UsageError(f"REPO is {text[:120]!r}; expected OWNER/NAME, such as Qwen/Qwen3.6-35B-A3B")
    return repo


def is_repo(text: str) -> bool:
    """Whether a text has the form OWNER/NAME."""
    return bool(REPO.fullmatch(text)) and ".." not in text and "--" not in text


def _first_position(response: _Response, start: int) -> int:
    """Where the body starts in the file."""
    if response.status_code == 200 or (not start and not response.headers.get("Content-Range")):
        return 0
    match = re.match(r"bytes (\d{1,20})-", response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != start:
        raise TransientFailure("the server sent a different part of the file than requested")
    return start


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds in a Retry-After header."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "".join(c for c in text if c.isprintable())[:200] or type(error).__name__
