"""Messages to a prompt, by the checkpoint's own chat template.

Owns compiling and running the template, which alone says what a prompt looks like. Does not repair messages
(`a3b.prompt.normalise_messages`) and knows no ids but replayed ones. Enter at `ChatTemplate.read`.

Control tokens. Every conversation is rendered twice: with the template as it is, which gives the text, and with
sentinels in place of the control tokens in the template's literals (`a3b.prompt.control_marks`), which tells them from
the same characters in a message, a tool or an argument. Both must give the same text, or rendering is refused. So the
prompt is exactly the template's, and what a caller supplied is always text.

Replay. An assistant message may carry `_replay`, a tuple of the ids that the model sampled after a generation prompt
with open thinking, up to and including the end of the turn. They replace all that the template would write between
`<think>` and the end of that turn, so a conversation grows by appending. Where the template drops the turn's thinking,
the message is rendered as text. Ids sampled after a closed block, because thinking was off, come as `Closed`, which is
also a tuple; they replace what follows that block. Only tuples count, which JSON cannot express, so no client can send
ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from a3b.errors import ConversationError, UsageError
from a3b.prompt.control_marks import ControlSentinels
from a3b.prompt.segments import CONTROL_NAMES, END_OF_TURN, Control, Prompt, Replay, Text, well_formed
from a3b.prompt.template_files import SPECIAL_TOKENS, read_template_files, template_error
from a3b.prompt.template_sandbox import LimitReached, RefusedByTemplate, TemplateEnvironment, TemplateLimits
from a3b.prompt.tokenizer import Tokenizer

REPLAY_KEY = "_replay"
RESERVED = frozenset(  # what the prompt is made of, the checkpoint's own tokens, and what templates call
    "messages tools add_generation_prompt self raise_exception strftime_now "
    "namespace dict range cycler joiner loop caller varargs kwargs".split()
) | set(SPECIAL_TOKENS)


class Closed(tuple[int, ...]):
    """Ids of a turn that began after a closed thinking block."""


_THINKING, _ANSWER = "\udffe", "\udfff"  # landmarks in the output; no text holds lone surrogates


class ChatTemplate:
    """A compiled template. Immutable; safe to share between threads."""

    def __init__(
        self,
        source: str,
        control_names: Sequence[str] = CONTROL_NAMES,
        where: str = "chat template",
        variables: Mapping[str, str] | None = None,
        limits: TemplateLimits | None = None,
    ):
        """Compile a template. Raises TemplateError.

        source: Jinja. control_names: what is a control token where the template itself writes it. where: the source's
        name in errors. variables: trusted strings that the template may print, such as `eos_token`."""
        self.source, self._where = source, where
        self.arguments = (source, tuple(control_names), where, variables, limits)  # to rebuild it in another process
        self._variables = dict(variables or {})
        self._marks = ControlSentinels(control_names)
        self._plain = TemplateEnvironment(ControlSentinels(), limits)
        self._marked = TemplateEnvironment(self._marks, limits)
        try:
            self._templates = (self._plain.from_string(source), self._marked.from_string(source))
        except TemplateSyntaxError as error:
            raise template_error(
                f"{where}, line {error.lineno}: {error.message}; copy the checkpoint's template again"
            ) from error
        except Exception as error:  # what Python's own compiler refuses
            raise template_error(f"{where}: {_describe(error)}; copy the checkpoint's template again") from error

    @classmethod
    def read(cls, directory: str | Path, control_names: Sequence[str] | None = None) -> ChatTemplate:
        """The template of a checkpoint directory. Raises TemplateError and TokenizerError.

        control_names: those of its tokenizer; None reads them from tokenizer.json, if there is one."""
        files = read_template_files(Path(directory), control_names)
        return cls(files.source, files.control_names, files.where, files.variables)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        tools: Any = None,
        add_generation_prompt: Any = True,
        **kwargs: Any,
    ) -> Prompt:
        """The prompt for a list of messages; `tools` and `kwargs` are passed to the template unchanged.

        Raises ConversationError (not a list of objects, or values that JSON does not have), UsageError (a reserved name
        in `kwargs`) and TemplateError, whose `refusal` is the template's own message if it refused."""
        check_template_kwargs(kwargs)
        messages = check_messages(messages)
        replays = {
            i: message[REPLAY_KEY]
            for i, message in enumerate(messages)
            if isinstance(message.get(REPLAY_KEY), tuple) and message.get("role") == "assistant"
        }
        variables = {
            "tools": _copy(tools, "tools"),
            "add_generation_prompt": _copy(add_generation_prompt, "kwargs"),
        }
        variables |= {name: _copy(value, name) for name, value in kwargs.items()}
        plain = [
            _copy({k: v for k, v in m.items() if k != REPLAY_KEY}, f"messages[{i}]") for i, m in enumerate(messages)
        ]
        while True:
            variables["messages"] = [_placeholder(m, i, replays[i]) if i in replays else m for i, m in enumerate(plain)]
            output = self._run(variables)
            kept = _find_replays(output, replays, self._marks.of(END_OF_TURN))
            if kept is not None:
                return _merge(self._segments(output, kept, replays))
            replays = {i: ids for i, ids in replays.items() if _found(output, i, ids)}

    def _run(self, variables: dict[str, Any]) -> str:
        """The output with sentinels, checked against the output without."""
        now, outputs = datetime.now(), []
        for environment, template in zip((self._plain, self._marked), self._templates, strict=True):
            trusted = {name: environment.marks.mark(text) for name, text in self._variables.items()}
            try:
                outputs.append(environment.render(template, trusted | variables, now))
            except RefusedByTemplate as refused:
                message = str(environment.marks.unmark(refused.message))
                raise template_error(f"{self._where} refused the conversation: {message}", message) from refused
            except LimitReached as error:
                raise template_error(
                    f"{self._where}: stopped at {error}; shorten the conversation or use another template"
                ) from error
            except Exception as error:  # a template is a program and fails like one
                raise template_error(
                    f"{self._where} failed on the conversation: {_describe(error)}; "
                    "check the messages, or let --fit repair them"
                ) from error
        plain, marked = outputs
        if self._marks.unmark(marked) != plain:
            raise template_error(
                f"{self._where}: it changes the text of control tokens, so they cannot be told from text in "
                "messages; use the checkpoint's own template"
            )
        return marked

    def _segments(self, output: str, kept: list[tuple[int, int, int]], replays: dict[int, tuple[int, ...]]) -> Prompt:
        prompt: Prompt = []
        at = 0
        for index, start, end in kept:
            prompt += [*self._marks.split(output[at:start]), Replay(_checked_ids(replays[index], index))]
            at = end
        return prompt + self._marks.split(output[at:])


def prompt_text(prompt: Prompt, tokenizer: Tokenizer | None = None) -> str:
    """The prompt as one string, for people to read. Raises UsageError for replayed ids without a tokenizer."""
    pieces = []
    for segment in prompt:
        match segment:
            case Control(name):
                pieces.append(name)
            case Text(text):
                pieces.append(text)
            case Replay(ids) if tokenizer is not None:
                pieces.append(tokenizer.decode(ids))
            case Replay(ids):
                raise UsageError(f"a prompt with {len(ids)} replayed ids has text only with a tokenizer; give one")
    return "".join(pieces)


def check_messages(messages: Any) -> Sequence[Mapping[str, Any]]:
    """`messages` if it is a list of objects. Raises ConversationError."""
    if not isinstance(messages, (list, tuple)):
        raise ConversationError(f"messages: expected a list of objects, found {type(messages).__name__}")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ConversationError(
                f"messages[{index}]: expected an object with role and content, found {type(message).__name__}"
            )
    return messages


def is_reserved(name: str) -> bool:
    """Whether a template argument of this name would hide one of the template's own names."""
    return name in RESERVED or name.startswith("_")


def check_template_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Raises UsageError for a template argument that would hide one of the template's own names."""
    for name in kwargs:
        if is_reserved(name):
            raise UsageError(
                f"template argument {name[:80]!r}: the name is reserved; leave it out of the template arguments"
            )


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {well_formed(str(error))[:500]}"


# -- values on their way into the template


def _copy(value: Any, where: str) -> Any:
    """A deep copy with valid Unicode in every string, keys too, so that no string holds a sentinel."""
    try:
        return _copied(value, where)
    except RecursionError:
        raise ConversationError(f"{where}: nested too deeply; send flatter JSON") from None


def _copied(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return well_formed(str(value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {
            _copied(k, where) if isinstance(k, str) else _checked_key(k, where): _copied(v, where)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_copied(item, where) for item in value]
    raise ConversationError(f"{where}: expected JSON values, found {type(value).__name__}")


def _checked_key(key: Any, where: str) -> Any:
    if key is None or isinstance(key, (bool, int, float)):
        return key
    raise ConversationError(f"{where}: expected text as key of an object, found {type(key).__name__}")


# -- replayed turns


def _placeholder(message: dict[str, Any], index: int, ids: tuple[int, ...]) -> dict[str, Any]:
    """The message with landmarks for thinking and answer; calls stay, so that the template sees the same turn."""
    thinking = "" if isinstance(ids, Closed) else f"{_THINKING}{index}{_THINKING}"
    return {**message, "reasoning_content": thinking, "content": f"{_ANSWER}{index}{_ANSWER}"}


def _found(output: str, index: int, ids: tuple[int, ...]) -> bool:
    landmark = _ANSWER if isinstance(ids, Closed) else _THINKING
    return f"{landmark}{index}{landmark}" in output


def _find_replays(output: str, replays: dict[int, Any], end: str | None) -> list[tuple[int, int, int]] | None:
    """(index, start, end) of each replayed turn in the output; None if the template dropped the thinking of one."""
    if not all(_found(output, index, ids) for index, ids in replays.items()):
        return None
    rest = f"[^{_THINKING}{_ANSWER}]*?{end}"
    pattern = re.compile(
        f"{_THINKING}(\\d+){_THINKING}.*?{_ANSWER}\\1{_ANSWER}{rest}|{_ANSWER}(\\d+){_ANSWER}{rest}", re.DOTALL
    )
    spans = [(int(found[1] or found[2]), *found.span()) for found in pattern.finditer(output)] if replays else []
    if [span[0] for span in spans] != sorted(replays):
        raise template_error(
            "chat template: a replayed turn is not thinking, answer, end of turn; render it without _replay"
        )
    return spans


def _checked_ids(ids: tuple[Any, ...], index: int) -> tuple[int, ...]:
    if not all(isinstance(i, int) and i >= 0 for i in ids):
        raise ConversationError(f"messages[{index}].{REPLAY_KEY}: expected token ids, found {str(ids)[:100]}")
    return tuple(ids)


def _merge(prompt: Prompt) -> Prompt:
    """The prompt with neighbouring texts joined, so that they are tokenised together."""
    merged: Prompt = []
    for segment in prompt:
        if isinstance(segment, Text) and merged and isinstance(merged[-1], Text):
            merged[-1] = Text(merged[-1].text + segment.text)
        else:
            merged.append(segment)
    return merged
