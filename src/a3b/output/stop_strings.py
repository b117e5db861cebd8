"""Stop strings, at which the caller wants the answer's text to end.

Owns the search in text that arrives in pieces, and its effect on events. Enter at `StopStrings`.
"""

from __future__ import annotations

from collections.abc import Iterable

from a3b.interface.events import Event, TextDelta, merge_events


class StopStrings:
    """Ends the answer's text at the first stop string that is completed; the stop string is not part of the text.

    If one character completes several, the longest counts. Thinking and tool calls are not searched,
    and no stop string reaches across a tool call. Only text that may begin a stop string is held
    back. `found` is the stop string that ended the text, or None.
    """

    def __init__(self, stops: Iterable[str]):
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Return the text that certainly precedes any stop string; "" once one has been found."""
        if self.found is not None:
            return ""
        text = self._held + text
        hits = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            _, start, self.found = min(hits)
            self._held = ""
            return text[:start]
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        sizes = (n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in self._stops))
        keep = len(text) - next(sizes, 0)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """Return what was held back; no more text follows."""
        held, self._held = self._held, ""
        return held

    def apply(self, events: Iterable[Event], last: bool = False) -> list[Event]:
        """Return the events up to the stop string; the rest is dropped. last: no more events follow these."""
        kept: list[Event] = []
        for event in events:
            if self.found is not None:
                break
            if isinstance(event, TextDelta):
                kept.append(TextDelta(self.push(event.text)))
            else:
                kept += [TextDelta(self.finish()), event]
        if last:
            kept.append(TextDelta(self.finish()))
        return merge_events(kept)
