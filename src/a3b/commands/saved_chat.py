"""The conversation of this `a3b chat`: what it continues, what is written to disk, what is shown of it.

Keeping never stops a chat: a failure to write is reported once. Enter at `Kept.of`.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from a3b.cache.identity import cache_identity
from a3b.commands.cache import ago
from a3b.commands.dialogue import Dialogue
from a3b.commands.transcripts import Head, Transcript, Transcripts, TurnIds
from a3b.engine.engine import Engine, nano_directory, resolve
from a3b.errors import A3BError, StoreError, UsageError
from a3b.model.config_reader import read_config
from a3b.printable import printable, say
from a3b.prompt.segments import Replay

SHOWN_CHARS = 1000  # of the last question and the last answer
LISTED = 50


class Kept:
    def __init__(self, transcripts: Transcripts, model: str, identity: str, writes: bool):
        self.transcripts, self.model, self.identity, self.writes = transcripts, model, identity, writes
        self.positions = ""  # how they are read, known once the model is loaded
        self.transcript: Transcript | None = None

    @classmethod
    def of(cls, args: Namespace) -> Kept:
        """As the options of `chat` say, with the conversation they ask for. Raises UsageError, StoreError."""
        path = resolve(args.model)
        model = "a3b-nano" if path.resolve() == nano_directory().resolve() else path.resolve().name
        identity = cache_identity(
            read_config(path), path, "", "", 0, mtp=False
        ).hex()  # of the weights: no run changes it
        try:
            place = directory(args)
        except RuntimeError:  # no home
            if args.go_on or args.resume is not None:
                raise
            say("this chat is not kept: the home directory is not known; set HOME or A3B_HOME")
            place, args.no_history = Path(args.runtime.home), True
        kept = cls(Transcripts(place), model, identity, not args.no_history)
        if args.go_on and args.resume is not None:
            raise UsageError("--continue and --resume ID: expected one of them")
        if args.go_on:
            kept.transcript = kept.transcripts.latest(model, identity)
        elif args.resume is not None:
            kept.transcript = kept.transcripts.resume(args.resume, model, identity)
        if kept.transcript and args.system is not None and (args.system or None) != kept.transcript.head.system:
            kept.close()
            raise UsageError(
                "--system: an earlier conversation keeps its system prompt; leave it out, or begin a new conversation"
            )
        return kept

    def resume(self, id: str, dialogue: Dialogue) -> None:
        """Leave this conversation for another one."""
        if self.transcript and self.transcript.id.startswith(id):
            raise UsageError(f"/resume {id[:60]}: this is that conversation")
        before, found = self.transcript, self.transcripts.resume(id, self.model, self.identity)
        self.transcript = found
        try:
            self.fill(dialogue)
        except BaseException:
            found.close()
            self.transcript = before
            raise
        if before:
            before.close()

    def fill(self, dialogue: Dialogue) -> None:
        """Put the messages of the conversation into `dialogue`, and show the end of it. Raises StoreError before
        anything is changed."""
        transcript = self.transcript
        assert transcript is not None
        check_ids(transcript, dialogue.engine)
        dialogue.resume(transcript.head.system, transcript.messages, transcript.turns)
        num = len(transcript.messages) // 2
        say(f"conversation {transcript.id}, {num} answer{'s' * (num != 1)}")
        before = transcript.head.positions
        if before and before != self.positions:
            say(f"it began with {before}; all of it is now read with {self.positions} (--context, A3B_CONTEXT)")
        if num:
            say(f"> {shortened(transcript.messages[-2]['content'])}\n{shortened(transcript.messages[-1]['content'])}")
        if transcript.unanswered is not None:
            say(f"not answered, ask again: {shortened(transcript.unanswered)}")

    def asked(self, text: str, system: str | None) -> None:
        def write() -> None:
            if self.transcript is None:
                self.transcript = self.transcripts.begin(
                    Head(self.model, self.identity, system or None, self.positions)
                )
            self.transcript.asked(text)

        self._try(write)

    def answered(self, message: dict[str, Any], turn: TurnIds | None) -> None:
        if (transcript := self.transcript) is not None:
            self._try(lambda: transcript.answered(message, turn))

    def close(self) -> None:
        """The next question begins a new conversation."""
        if self.transcript:
            self.transcript.close()
            self.transcript = None

    def _try(self, write: Callable[[], None]) -> None:
        if not self.writes:
            return
        try:
            write()
        except OSError as error:
            self.writes = False
            say(f"this conversation is no longer kept: {error.strerror or error} ({self.transcripts.directory})")


def directory(args: Namespace) -> Path:
    """Where conversations are kept. Raises RuntimeError if that is below a home that is not known."""
    return Path(args.runtime.home).expanduser() / "chats"


def check_ids(transcript: Transcript, engine: Engine) -> None:
    """Raises StoreError for ids the vocabulary does not have."""
    try:
        engine.tokenizer.encode([Replay(turn.ids) for turn in transcript.turns if turn is not None])
    except A3BError as error:
        raise StoreError(f"{transcript.path}: {error}; begin a new conversation: a3b chat") from None


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + " ..."


def listing(transcripts: Transcripts) -> list[str]:
    """A line for each of the latest conversations, fit for a terminal."""
    rows = [row for row, _ in zip(transcripts.listed(), range(LISTED), strict=False)]
    if not rows:
        return [f"no conversations are kept in {transcripts.directory}"]
    width = max(len(model) for _, _, model, _ in rows)
    return [printable(f"{id}  {ago(age):>8}  {model:<{width}}  {question[:60]}") for id, age, model, question in rows]


def print_listing(transcripts: Transcripts, to: TextIO | None = None) -> None:
    for line in listing(transcripts):
        say(line, to or sys.stdout)
