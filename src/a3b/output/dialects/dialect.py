"""What a dialect of tool calls is: how a call opens and closes, is parsed, is written as a grammar, and is replayed.

The parser, the grammars and the thinking budget ask these objects; no other module knows a tag. A new dialect is a
file with a subclass of `Dialect`, and its place in `DIALECTS`. Enter at `Dialect`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from a3b.output.buffer import Buffer, skip_blank
from a3b.output.call_writer import CallWriter
from a3b.prompt.segments import Control, Text


class CallReader(Protocol):
    """Reads one call, or several that are written together, starting after the head of the first."""

    def step(self) -> None:
        """Take something from the buffer, or raise NeedMore. The last step ends the call (`CallWriter.end`)."""


class HeldCall(Protocol):
    """A call without its opener inside the thinking, held back until it is clear whether it is really a call."""

    def decide(self, text: str) -> int:
        """0 for a call; otherwise how many characters are thinking. Raises NeedMore while that is open."""


class Rules(Protocol):
    """Writes the grammar of one tool's arguments; each method gives an expression of llguidance's Lark."""

    def raw_parameters(self) -> str:
        """Parameters in any order, in the form of the dialect's `raw`."""

    def json_object(self) -> str:
        """All arguments as one JSON object."""


@dataclass(frozen=True)
class NameRule:
    """pattern: what a name must match. expected: the same in words, for errors."""

    pattern: re.Pattern[str]
    expected: str


@dataclass(frozen=True)
class RawParameters:
    """Parameters one after the other, with their texts verbatim between tags.

    before, after: around the name of a parameter. close: after its value. any_key: a regular expression, in Lark's
    syntax, for names that a tool does not declare. text_ends: where the parser may end a text of its own accord, so no
    text holds them; a space means any whitespace. free_ends: the same for a parameter that is never read as JSON."""

    before: str
    after: str
    close: str
    any_key: str
    text_ends: tuple[str, ...]
    free_ends: tuple[str, ...]


class Dialect(ABC):
    """One way to write tool calls. It keeps no state: `open` gives a reader for each call."""

    opener: str
    """The control token that a call begins with."""
    closer: str = ""
    """The control token that ends a call, "" if a call needs none."""
    lead: str = ""
    """What chat templates write between the opener and the head."""
    head: tuple[str, str]
    """The text before and after the name of the tool; the arguments follow."""
    between: str = "\n"
    """What chat templates write between two calls."""
    first_chars: str
    """The characters with which a head can begin; other text after an opener is prose. "" if nothing but a call can
    follow an opener."""
    max_opening: int = 24
    """Tokens after an opener by which it is clear whether a call follows."""
    tool_names: NameRule
    """Names of tools that can be written."""
    parameter_names: NameRule
    """Names of parameters that can be written."""
    raw: RawParameters | None = None
    """How parameters are written outside of JSON, if they are."""
    bare_start: str = ""
    """The character that a call without its opener begins with, at the start of a line; "" if there are no such
    calls."""

    # Reading. Methods raise NeedMore where the buffer ends too early.

    @abstractmethod
    def open(self, buffer: Buffer, at: int, calls: CallWriter, is_bare: bool = False) -> CallReader | None:
        """Take the head of a call at `at` and what precedes it from the buffer; None, and nothing taken, for no call.

        is_bare: the call has no opener."""

    def may_follow(self, last: Dialect) -> bool:
        """Whether a call may come after one of dialect `last` without another opener."""
        return last is self

    def skip_between(self, text: str) -> int:
        """The offset of what follows the whitespace, or what models write in its place, after a call."""
        return skip_blank(text, 0)

    def skip_closing(self, text: str, at: int) -> int:
        """The offset after a needless closing tag that follows a call at `at`, 0 if there is none."""
        return 0

    def find_bare(self, text: str, calls: CallWriter) -> int:
        """The offset after the head of a call without its opener at the start of `text`, 0 if there is none."""
        return 0

    def hold(self, head_end: int, calls: CallWriter) -> HeldCall:
        """Hold back a call of `find_bare` inside the thinking."""
        raise NotImplementedError(f"{type(self).__name__} has calls without their opener, and no way to hold them")

    # Writing

    @abstractmethod
    def arguments_rule(self, rules: Rules) -> str:
        """An expression of Lark for what follows the head, up to the closer."""

    @abstractmethod
    def arguments_text(self, arguments: Mapping[str, Any]) -> str:
        """What follows the head, up to the closer, as chat templates write it."""

    def replay(self, name: str, arguments: Mapping[str, Any]) -> list[Control | Text]:
        """A whole call as chat templates write it into the history of a conversation."""
        text = f"{self.lead}{self.head[0]}{name}{self.head[1]}{self.arguments_text(arguments)}"
        return [Control(self.opener), Text(text), *([Control(self.closer)] if self.closer else [])]
