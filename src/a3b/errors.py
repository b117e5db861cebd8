"""Every error a3b raises on purpose, in one tree.

    A3BError
    ├── UsageError            an option, argument or field the caller gave
    ├── CheckpointError       a file of a model directory
    │   ├── ConfigError       config.json: contradictory, incomplete or not implemented
    │   ├── TensorError       a tensor: missing, misshapen, duplicate, of an unknown dtype
    │   └── FileFormatError   a container: truncated, or a header that lies
    ├── DownloadError         a repository on a hub, or a file in it, that cannot be fetched
    ├── TokenizerError        tokenizer.json, or ids the vocabulary does not have
    ├── TemplateError         the chat template refused the conversation, or is broken
    ├── ConversationError     messages or tools that cannot be made into a prompt
    ├── ContextError          more tokens than the context holds
    ├── OverloadedError       a server with no room for another request
    ├── StoreError            a session store that cannot be opened or written
    ├── SandboxUnavailable    nothing on this machine can hold the agent's commands
    ├── JournalError          the record of what the agent changed, or an undo that is not possible
    ├── LogitsError           logits that no token can be drawn from
    └── Interrupted           a computation that was cancelled

A message names the thing, what was found, what was expected and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'X'?" for the nearest known word, of equals the first, "" if none is close."""
    names, word = {name.lower(): name for name in known}, word[:80].lower()
    near = get_close_matches(word, names, n=8)
    found = max((name for name in names if name in near), key=lambda name: _likeness(name, word), default=None)
    return f"; did you mean {names[found]!r}?" if found else ""


def _likeness(name: str, word: str) -> float:
    return SequenceMatcher(None, name, word).ratio()


class A3BError(Exception):
    """Base of all errors raised on purpose; its text is fit to show to a user."""


class UsageError(A3BError):
    """An option, argument or request field has a value that cannot be used."""


class CheckpointError(A3BError):
    """A model directory cannot be used."""


class ConfigError(CheckpointError):
    """config.json contradicts itself, lacks a key or asks for something that is not implemented."""


class TensorError(CheckpointError):
    """A tensor is missing, misshapen, duplicate or of an unknown dtype."""


class FileFormatError(CheckpointError):
    """A file is truncated or its header does not describe it."""


class DownloadError(A3BError):
    """A repository or file cannot be fetched, or differs from what the hub announced."""


class TokenizerError(A3BError):
    """tokenizer.json is unusable, or ids do not belong to its vocabulary."""


class TemplateError(A3BError):
    """The chat template refused the conversation, or the template itself is broken.

    refusal: the template's own message, if it refused."""

    refusal: str | None = None


class ConversationError(A3BError):
    """Messages or tools have a form that cannot be made into a prompt."""


class ContextError(A3BError):
    """A prompt or an answer does not fit into the context."""


class OverloadedError(A3BError):
    """The server is at capacity; the same request may succeed later."""


class SandboxUnavailable(A3BError):
    """No sandbox can be set up, or not for this directory; the text names the command that helps."""


class LogitsError(A3BError):
    """The model gave logits that no token can be drawn from."""


class StoreError(A3BError):
    """The session store cannot be opened or written."""


class JournalError(A3BError):
    """The record of what the agent changed cannot be used, or there is nothing to undo."""


class Interrupted(A3BError):
    """Work was cancelled. A forward pass stops between two layers and leaves its states torn."""
