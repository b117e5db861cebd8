"""a3b: Qwen3.6-35B-A3B and its embedded miniature on a CPU.

    import a3b

    with a3b.load() as model:
        print(model.chat("What are you?").text)

Enter at `load`; `a3b.api` has all of the Python API, `a3b.cli` is the command line. Importing this package starts
nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a3b.api import LLM, Reply, ReplyStream, ToolCall, load
    from a3b.errors import A3BError, ContextError, ConversationError, UsageError
    from a3b.interface.events import (
        Finished,
        TextDelta,
        ThinkingDelta,
        ToolCallDelta,
        ToolCallEnd,
        ToolCallStart,
        Usage,
    )
    from a3b.interface.sampling_params import SamplingParams

try:
    __version__ = version("a3b")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "LLM",
    "A3BError",
    "ContextError",
    "ConversationError",
    "Finished",
    "Reply",
    "ReplyStream",
    "SamplingParams",
    "TextDelta",
    "ThinkingDelta",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallEnd",
    "ToolCallStart",
    "Usage",
    "UsageError",
    "__version__",
    "load",
]

_PLACES = {
    "SamplingParams": "a3b.interface.sampling_params",
    **dict.fromkeys(("LLM", "Reply", "ReplyStream", "ToolCall", "load"), "a3b.api"),
    **dict.fromkeys(("A3BError", "ContextError", "ConversationError", "UsageError"), "a3b.errors"),
    **dict.fromkeys(
        ("Finished", "TextDelta", "ThinkingDelta", "ToolCallDelta", "ToolCallEnd", "ToolCallStart", "Usage"),
        "a3b.interface.events",
    ),
}


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that `import a3b` stays instant."""
    if name not in _PLACES:
        raise AttributeError(f"module 'a3b' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
