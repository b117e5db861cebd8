"""What the fields mean that several APIs have, as the tables of fields and docs/api.md say it."""

from __future__ import annotations

from a3b.interface.sampling_params import MAX_STOP_CHARS, MAX_STOPS
from a3b.server.fields import EFFORTS, MAX_MODEL, Harmless

_UNLIMITED = ", ".join(f"`{effort}`" for effort, limit in EFFORTS.items() if limit is None and effort != "none")
ANY_MODEL = f"any name of up to {MAX_MODEL} characters; the served model answers, and the name comes back"
CONVERSATION = "see [What a conversation may hold](#what-a-conversation-may-hold)"
STREAM = "true: server-sent events"
INCLUDE_USAGE = "the last chunk has the usage and the `a3b` object"
STOPS = f"up to {MAX_STOPS} texts of {MAX_STOP_CHARS:,} characters at which the answer ends; they are left out"
EFFORT = (
    "how long to think: `none` not at all, "
    + ", ".join(f"`{effort}` {limit:,}" for effort, limit in EFFORTS.items() if limit)
    + f" tokens at most, {_UNLIMITED} without a limit"
)
BUDGET = "most tokens of thinking in this answer"
TASK_BUDGET = "most tokens of thinking since the user's last message"
POLICY = "which thinking of earlier turns stays: `all`, `current-task`, `budget:N` or `none`; docs/thinking.md"
CALLED_DIRECTLY = Harmless(
    'empty, or a list with `"direct"`', lambda value: value == [] or (isinstance(value, list) and "direct" in value)
)
