"""The Python API: a model in this process that chats, continues text and counts tokens.

    import a3b

    with a3b.load() as model:  # the embedded model, or the directory of another one
        reply = model.chat("What are you?")
        print(reply.thinking, reply.text)

Knows no HTTP and no terminal. Requests from several threads are computed together. Enter at `load`."""

from __future__ import annotations

import atexit
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack, overload

from a3b.cache.disk_store import Store
from a3b.cache.identity import cache_identity
from a3b.engine.engine import Engine, resolve
from a3b.engine.local import local_service
from a3b.engine.request_renderer import ServiceSettings
from a3b.engine.service import AnswerStream, Service, random_call_id
from a3b.engine.stored_models import packed_model
from a3b.errors import ConversationError, UsageError, did_you_mean
from a3b.interface.events import (
    Event,
    Finished,
    Reading,
    Reason,
    Started,
    Usage,
    assistant_message,
)
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams
from a3b.prompt.chat_template import check_messages
from a3b.prompt.message_faults import check_tools, missing_fault
from a3b.prompt.tool_results import KNOWN, ROLES
from a3b.settings import RuntimeConfig

Message = Mapping[str, Any]
Messages = str | Sequence[Message]
"""What a user says, or messages as OpenAI's chat API has them."""
SAMPLING = tuple(field.name for field in fields(SamplingParams))
ALIASES = {  # what others call our fields
    "repeat_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
}


class Sampling(TypedDict, total=False):
    """How tokens are chosen; what is left out is the model's recommendation. See SamplingParams."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    max_tokens: int | None
    logit_bias: Mapping[int, float]
    sampling_params: SamplingParams  # all of them at once; fields given as well win


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool. complete is False if the output ended inside the call: show it, do not carry it out."""

    id: str
    name: str
    arguments: dict[str, Any]
    complete: bool = True


@dataclass(frozen=True)
class Reply:
    """One answer.

    finish_reason: "stop", "length" (the token limit or the context), "tool_calls" or "cancelled". message: what to
    append to the messages of the conversation; the thinking then goes back into the prompt as it was sampled."""

    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: Reason
    usage: Usage
    message: dict[str, Any]


class ReplyStream:
    """The events of an answer while it is written: ThinkingDelta, TextDelta, ToolCallStart, ToolCallDelta, ToolCallEnd,
    and Finished as the last, all of them in `a3b.interface.events`. `close`, the end of a `with` or the loss of the
    last reference cancels an answer that is not complete; `break` alone does not: iterate again to go on."""

    def __init__(self, stream: AnswerStream):
        self._stream = stream
        self._events: list[Event] = []
        self._is_closed = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = next(self._stream)
        while isinstance(event, Started | Reading):
            event = next(self._stream)
        self._events.append(event)
        return event

    @property
    def reply(self) -> Reply:
        """The whole answer. Raises UsageError before the last event, and for an answer that was cancelled."""
        if not self._events or not isinstance(finished := self._events[-1], Finished):
            if self._is_closed:
                raise UsageError("reply: the answer was cancelled before its end; read it before you close the stream")
            raise UsageError("reply: the answer is still being written; iterate to the end first")
        message = assistant_message(self._events)
        calls = tuple(
            ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"], call.get("complete", True))
            for call in message.get("tool_calls", ())
        )
        return Reply(message["content"], message["reasoning_content"], calls, finished.reason, finished.usage, message)

    def read(self) -> Reply:
        """The whole answer, after the events that are left."""
        with self:
            for _ in self:
                pass
        return self.reply

    def close(self) -> None:
        """Cancel what is left of the answer. Call it in the thread that iterates."""
        self._is_closed = True
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LLM:
    """A loaded model. Close it, or use it as a context manager: nothing else gives its memory back before the process
    ends. All methods may be called from several threads, but only in the process that loaded it, not in its forks."""

    def __init__(self, engine: Engine, service: Service, resources: ExitStack):
        """Use `load`. resources: closed after the service."""
        self._engine, self._service, self._resources, self._is_closed = engine, service, resources, False
        self._process = os.getpid()
        atexit.register(self.close)

    @property
    def name(self) -> str:
        """What the model is called: the name of its directory, or a3b-nano."""
        return self._engine.name

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._engine.context

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about how the model was loaded, such as weights that would be faster packed."""
        return self._engine.notes

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        schema: Mapping[str, Any] | None = None,
        think: bool = True,
        thinking_budget: int | None = None,
        thinking_policy: str | None = None,
        stream: Literal[False] = False,
        **sampling: Unpack[Sampling],
    ) -> Reply: ...
    @overload
    def chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        schema: Mapping[str, Any] | None = None,
        think: bool = True,
        thinking_budget: int | None = None,
        thinking_policy: str | None = None,
        stream: Literal[True],
        **sampling: Unpack[Sampling],
    ) -> ReplyStream: ...
    def chat(self, messages: Messages, *, stream: bool = False, **options: Any) -> Reply | ReplyStream:
        """Answer a conversation.

        messages: what the user says, or messages in OpenAI's form. tools: in OpenAI's form. tool_choice: "auto",
        "none", "required", the name of a tool, or OpenAI's object. parallel_tool_calls: whether one answer may call
        several times. schema: a JSON schema that the text satisfies. think: whether the model thinks first.
        thinking_budget: most tokens of thinking. thinking_policy: which thinking of earlier turns stays: "all",
        "current-task", "none" or "budget:N". stream: give a ReplyStream at once. Other arguments are the fields of
        SamplingParams; what is left out is the model's recommendation. sampling_params: all of them at once; fields
        given as well win.

        Raises A3BError, of `a3b.errors`: UsageError for arguments, ConversationError for messages, ContextError for a
        prompt that is too long, OverloadedError if the model is closed meanwhile, LogitsError for damaged weights."""
        _check_bool("stream", stream)
        found = self._start(_chat_request(messages, **options))
        return found if stream else found.read()

    def chat_many(self, conversations: Sequence[Messages], **options: Any) -> list[Reply]:
        """The replies to several conversations, computed together; options as for `chat`, without stream."""
        if isinstance(conversations, str | bytes | Mapping) or not isinstance(conversations, Iterable):
            found = type(conversations).__name__
            raise UsageError(f"conversations: {found}; chat_many expects a list of them, and chat takes one")
        if "stream" in options:
            raise UsageError("stream: chat_many has no streams; use chat in several threads")
        requests = [_chat_request(messages, **options) for messages in conversations]
        with ExitStack() as stack:
            streams = [stack.enter_context(self._start(request)) for request in requests]
            return [stream.read() for stream in streams]

    @overload
    def generate(self, text: str, *, stream: Literal[False] = False, **sampling: Unpack[Sampling]) -> Reply: ...
    @overload
    def generate(self, text: str, *, stream: Literal[True], **sampling: Unpack[Sampling]) -> ReplyStream: ...
    def generate(self, text: str, *, stream: bool = False, **sampling: Any) -> Reply | ReplyStream:
        """Continue a text as it is: no template, thinking or tool calls. Raises A3BError as `chat` does."""
        if not isinstance(text, str):
            raise UsageError(f"text: {type(text).__name__}; expected text to continue, or use chat for messages")
        _check_bool("stream", stream)
        found = self._start(Request(prompt=text, sampling=_sampling(sampling, ())))
        return found if stream else found.read()

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text in which nothing is a control token."""
        if not isinstance(text, str):
            raise UsageError(f"text: {type(text).__name__}; expected text")
        return self._service.encode(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of ids. Raises TokenizerError for ids that the vocabulary does not have."""
        if not isinstance(ids, Iterable):
            raise UsageError(f"ids: {type(ids).__name__}; expected a list of token ids")
        found: list[Any] = list(ids)
        for one in found:
            if isinstance(one, bool) or not isinstance(one, numbers.Integral):
                raise UsageError(f"ids: {one!r}; expected whole numbers")
        return self._service.decode([int(one) for one in found])

    def count_tokens(self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Tokens of the prompt of a conversation, even if it is longer than the context."""
        request = _chat_request(messages, tools=tools)
        return len(self._service.renderer.ids(request, self._service.renderer.render(request)))

    def close(self) -> None:
        """Give the memory back; answers that are still being written end with OverloadedError. The end of the process
        closes a model, too."""
        if not self._is_closed and self._process == os.getpid():
            self._is_closed = True
            atexit.unregister(self.close)
            self._service.close()
            self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, request: Request) -> ReplyStream:
        if self._is_closed:
            raise UsageError(f"{self.name}: the model is closed; load it again: a3b.load()")
        if self._process != os.getpid():
            raise UsageError(
                f"{self.name}: loaded by process {self._process}, of which this is a fork without its threads; "
                "load it in this process"
            )
        return ReplyStream(self._service.answer(request))


def load(
    name_or_directory: str | Path | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    isa: str | None = None,
    kv: str = "q8",
    cache_dir: str | Path | None = None,
    max_active: int = 4,
    drafts: bool = True,
) -> LLM:
    """Load a model: a directory of a checkpoint, the name of a model that `a3b list` shows, or None for the embedded
    miniature.

    context: tokens wanted, beyond the native length with YaRN. threads: None is what this process may use. isa: the
    instruction set of the kernels, None the best one here. kv: how keys and values are kept ("q8", "bf16", "f32").
    cache_dir: where sessions outlive the process, None for memory alone. max_active: answers computed together.
    drafts: read tokens ahead where that is measured to pay, which changes no token.

    Raises A3BError: UsageError for arguments, CheckpointError and TokenizerError for files, StoreError for cache_dir.
    """
    if not isinstance(max_active, int) or isinstance(max_active, bool) or max_active < 1:
        raise UsageError(f"max_active: {max_active!r}; expected a whole number of at least 1")
    _check_bool("drafts", drafts)
    if cache_dir is not None and not isinstance(cache_dir, str | Path):
        raise UsageError(f"cache_dir: {type(cache_dir).__name__}; expected the name of a directory, or None")
    if isinstance(name_or_directory, str) and not os.path.isdir(name_or_directory):
        name_or_directory = packed_model(name_or_directory, RuntimeConfig.from_env().home) or name_or_directory
    engine = Engine.load(name_or_directory, context=context, threads=threads, isa=isa, kv=kv, mtp=drafts)
    with ExitStack() as resources:
        settings = ServiceSettings(exact_dates=True)
        store, identity = None, b""
        if cache_dir is not None:
            store = resources.enter_context(Store(cache_dir))
            model = engine.model
            identity = cache_identity(
                engine.config, resolve(name_or_directory), model.kv, model.isa, mtp=model.mtp is not None
            )
        service = local_service(
            engine,
            settings,
            max_active=max_active,
            store=store,
            identity=identity,
            drafts=drafts,
            call_id=random_call_id,
        )
        if engine.huge_pages:
            engine.huge_pages.start()
        return LLM(engine, service, resources.pop_all())


def _chat_request(
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] = "auto",
    parallel_tool_calls: bool = True,
    schema: Mapping[str, Any] | None = None,
    think: bool = True,
    thinking_budget: int | None = None,
    thinking_policy: str | None = None,
    **sampling: Any,
) -> Request:
    known = ("tools", "tool_choice", "parallel_tool_calls", "schema", "think", "thinking_budget", "thinking_policy")
    choice, name = _tool_choice(tool_choice)
    _check_bool("think", think)
    _check_bool("parallel_tool_calls", parallel_tool_calls)
    is_budget = isinstance(thinking_budget, int) and not isinstance(thinking_budget, bool) and thinking_budget >= 0
    if thinking_budget is not None and not is_budget:
        raise UsageError(f"thinking_budget: {thinking_budget!r}; expected a whole number of at least 0, or None")
    if schema is not None and not isinstance(schema, Mapping):
        raise UsageError(f"schema: {type(schema).__name__}; expected a JSON schema as a dict")
    return Request(
        messages=_messages(messages),
        tools=[dict(tool) for tool in check_tools(tools) or ()],
        tool_choice=choice,
        tool_name=name,
        parallel_tool_calls=parallel_tool_calls,
        schema=schema,
        think=think,
        thinking_budget=thinking_budget,
        policy=thinking_policy,
        sampling=_sampling(sampling, ("stream", *known)),
    )


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{name}: {value!r}; expected True or False")


def _messages(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list | tuple) or not given:
        found = "nothing" if isinstance(given, list | tuple) else type(given).__name__
        raise UsageError(f"messages: {found}; expected text or a list of messages")
    if fault := missing_fault(check_messages(given), {*KNOWN, *ROLES}):
        raise ConversationError(fault)
    return [dict(message) for message in given]


def _tool_choice(given: Any) -> tuple[Literal["auto", "none", "required", "named"], str | None]:
    if isinstance(given, Mapping):
        function = given.get("function", given)
        given = function.get("name") if isinstance(function, Mapping) else None
    if given in ("auto", "none", "required"):
        return given, None
    if not isinstance(given, str) or not given:
        raise UsageError('tool_choice: expected "auto", "none", "required" or the name of a tool')
    return "named", given


def _sampling(given: dict[str, Any], others: Sequence[str]) -> dict[str, Any]:
    """Sampling fields by our names. Raises UsageError for a name that is unknown, with the nearest one."""
    params = given.pop("sampling_params", None)
    if params is not None and not isinstance(params, SamplingParams):
        raise UsageError(f"sampling_params: {type(params).__name__}; expected a3b.SamplingParams")
    found = dict(vars(params)) if params is not None else {}
    for name, value in given.items():
        if name not in SAMPLING and name not in ALIASES:
            known = (*SAMPLING, "sampling_params", *ALIASES, *others)
            raise UsageError(
                f"argument {name!r} is unknown" + (did_you_mean(name, known) or f"; known: {', '.join(known)}")
            )
        found[ALIASES.get(name, name)] = value
    if isinstance(found.get("stop"), str):
        found["stop"] = (found["stop"],)
    if isinstance(found.get("logit_bias"), Mapping):
        found["logit_bias"] = tuple(found["logit_bias"].items())
    return found
