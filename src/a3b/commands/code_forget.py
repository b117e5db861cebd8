"""`a3b code forget ID ...|--all`: sessions of this directory, with what servers of this machine keep of them.

A server keeps a conversation by its tokens, and its turns by keys that the conversation itself gives
(a3b.thinking.conversation_key); from these the states are found. Enter at `forget`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from a3b.agent.recall.forgetting import all_of, answers_of, forget_sessions
from a3b.agent.sessions import ProjectSessions
from a3b.cache.disk_index import Index
from a3b.cache.index_database import FAILURES
from a3b.commands.ask import agreed
from a3b.commands.cache_directories import kept, root
from a3b.errors import A3BError, StoreError, UsageError
from a3b.printable import printable, report, say
from a3b.prompt.normalise_messages import normalise_messages
from a3b.thinking.conversation_key import ConversationKey, key_of_parts
from a3b.thinking.stable_dates import undated
from a3b.thinking.turn import call_ids, calls_of, text_of
from a3b.units import counted


def forget(
    sessions: ProjectSessions, home: Path, given: list[str], everything: bool, with_forks: bool, yes: bool = False
) -> int:
    """The exit status. yes: everything goes without a question, which only a terminal asks."""
    if bool(given) == everything:
        raise UsageError("forget: expected the ID of a session, as 'a3b code sessions' shows it, or --all")
    chosen = sessions.ids() if everything else all_of(sessions, [sessions.find(id) for id in given], with_forks)
    if everything and chosen and sys.stdin.isatty():
        what = f"{counted(len(chosen), 'session')} of {printable(str(sessions.workspace))}"
        if not agreed(f"Forget {what}, with their thinking and what /undo needs?", yes, ""):
            return 1
    for id in chosen:
        with sessions.held(id):  # raises UsageError if it is open, before anything is removed
            pass
    states = forget_states(root(str(home)), {"", sessions.key}, [sessions.path(id) for id in chosen])
    gone = forget_sessions(sessions, None if everything else chosen)
    report(
        f"Forgotten: {counted(len(gone.ids), 'session')}, {counted(gone.steps, 'step')} of the journal, "
        f"{counted(states, 'state')} of servers."
    )
    if gone.ids:
        say(
            "What a server on another machine or with a --cache-dir of its own keeps of them is not reached: use "
            "'a3b cache forget' there."
        )
    return 0


def forget_states(parent: Path, namespaces: set[str], transcripts: Iterable[Path]) -> int:
    """Removes what servers keep on disk of the answers of sessions; returns the number of entries."""
    directories = kept(parent)
    if not directories:
        return 0
    keys = {key for path in transcripts for messages, own in answers_of(path) for key in _keys(messages, own)}
    num = 0
    for directory in directories:
        try:
            with closing(Index.open(directory)) as index:
                nodes = index.records.take(namespaces, keys)
                ids = {id for node in nodes if index.row(node) is not None for id in index.session(node)}
                num += len(index.remove(ids, with_records=True)) if ids else 0
        except (StoreError, *FAILURES) as error:
            raise StoreError(
                f"{directory}: {error}; nothing is forgotten yet: 'a3b cache verify' looks after it"
            ) from None
    return num


def _keys(messages: list[dict[str, Any]], own: list[int]) -> set[bytes]:
    """The keys under which a server knows the answers at these places."""
    out: set[bytes] = set()
    if not own:
        return out
    conversation, ours = ConversationKey(), {id(messages[place]) for place in own}
    try:
        fitted, _ = normalise_messages([{**message, OURS: id(message) in ours} for message in messages])
    except A3BError:
        fitted = [message for message in messages if message["role"] != "system"]
    for message in undated(fitted):
        if message["role"] == "assistant" and message.get(OURS):
            calls, ids = calls_of(message), call_ids(message)
            found = [*conversation.keys_of(text_of(message), calls), *conversation.keys_of_stopped(0)]
            found += [conversation.key_with_stop_string()] + ([key_of_parts(ids[0])] if ids else [])
            out |= {key.value for key in found if key.is_certain}
        conversation.add(message)
    return out


OURS = "_ours"  # marks a message through its way to the form that templates accept
