"""Where chat templates run: a Jinja sandbox with sentinels for the template's control tokens, and with limits.

Owns the environment and its limits; the sentinels are those of `a3b.prompt.control_marks`. Knows no messages. Enter at
`TemplateEnvironment`.

Sentinels. Literals of the template are compiled with sentinels for their control tokens. Where the template looks for a
control token in data (`'</think>' in content`, `content.split('</think>')`), the literal must mean its spelling:
comparisons are rewritten to unmark their operands, and string methods get unmarked arguments.

Limits. A template is untrusted code. It cannot reach Python internals (Jinja's immutable sandbox, no loader, no
modules). `TemplateLimits` bounds loop rounds plus calls, the length of each string or list that operators, string
methods, filters, slices and blocks build, the total of what is built, the text of lists that contain each other many
times over, integers, and the output; Jinja bounds `range`. Not bounded: hashes of nested tuples, and regular
expressions inside Jinja's filters."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from itertools import islice
from typing import Any, TypeAlias

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from a3b.isolation import deadlines
from a3b.prompt.control_marks import ControlSentinels

_WIDE_PERCENT = re.compile(r"%(\([^)]*\))?[^%a-zA-Z]*(\d{5}|\*)")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(\d{5}|\{)")
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "indent"})
_SPELLING = frozenset(
    "e escape forceescape string title upper lower capitalize trim urlencode wordcount truncate tojson list".split()
)
# comparing nested lists takes time in proportion to their text
_COMPARING = frozenset({"max", "min", "sort", "unique", "groupby", "dictsort"})
MAX_ARGUMENT = 100  # of an indent, a separator, a number of digits
PART_SIZE = 16  # what each part of a split text counts
CHECK_STEPS = 1000  # between two checks whether the work has to end
Filter: TypeAlias = Callable[..., Any]
_REMOVED_FILTERS = ("batch", "pprint", "random", "slice", "striptags", "urlize", "wordwrap", "xmlattr")


@dataclass(frozen=True)
class TemplateLimits:
    """What one rendering may use."""

    steps: int = 5_000_000  # loop rounds and calls
    chars: int = 1 << 26  # characters of one string, items of one list, and characters of the output
    built: int = 1 << 29  # characters and items of all strings and lists that are built
    bits: int = 4096  # of an integer


class RefusedByTemplate(Exception):
    """The template called `raise_exception`. message: what it passed."""

    def __init__(self, message: Any):
        super().__init__(message)
        self.message = message


class LimitReached(Exception):
    """A template ran into one of its limits."""


class _Spent:
    def __init__(self) -> None:
        self.steps = self.built = self.looked = 0


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The environment that chat templates expect, with the helpers of `transformers`, sentinels and limits."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, marks: ControlSentinels, limits: TemplateLimits | None = None):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
            cache_size=0,
            finalize=self.spelled,
        )
        self.marks, self.limits = marks, limits or TemplateLimits()
        self._spent: ContextVar[_Spent] = ContextVar("spent")
        self._now: ContextVar[datetime] = ContextVar("now")
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        for name in ("center", "indent", "format"):
            self.filters[name] = self._padded(name, self.filters[name])
        self.filters |= {"tojson": to_json, "length": self._length, "count": self._length}
        self.filters["round"] = _rounded(self.filters["round"])
        self.filters |= {"replace": self._replace, "join": self._join_filter, "sum": self._sum}
        self.filters = {name: self._counting(name, function) for name, function in self.filters.items()}
        for name in ("in", "eq", "equalto", "==", "ne", "!="):
            test: Any = self.tests[name]
            self.tests[name] = self._unmarked_test(test)
        self.globals |= {"raise_exception": _refuse, "namespace": _SafeNamespace, "dict": _new_dict}
        self.globals["strftime_now"] = self._strftime
        del self.globals["lipsum"]

    def render(self, template: Any, variables: dict[str, Any], now: datetime) -> str:
        """The output, with sentinels. Raises what the template raises."""
        spent, clock = self._spent.set(_Spent()), self._now.set(now)
        try:
            return str(template.render(variables))
        finally:
            self._spent.reset(spent)
            self._now.reset(clock)

    # -- limits

    def spend(self, steps: int) -> None:
        """Count loop rounds or calls. Raises LimitReached, and whatever ends the work of this thread."""
        spent = self._spent.get(None)
        if spent is None:  # Jinja folds constants while it compiles
            return
        spent.steps += steps
        if spent.steps > self.limits.steps:
            raise LimitReached(f"more than {self.limits.steps:,} loop rounds and calls")
        if spent.steps - spent.looked >= CHECK_STEPS:
            spent.looked = spent.steps
            deadlines.check()

    def allow(self, length: int) -> None:
        """Count a string or list of `length` before it is built. Raises LimitReached."""
        spent = self._spent.get(None) or _Spent()
        spent.built += length
        if length > self.limits.chars:
            raise LimitReached(f"a text or list of {length:,}, longer than {self.limits.chars:,}")
        if spent.built > self.limits.built:
            raise LimitReached(f"more than {self.limits.built:,} characters built")

    def counted(self, value: Any) -> Any:
        """The value, counted if it is a string, list or object."""
        if isinstance(value, str | list | tuple | dict):
            self.allow(len(value))
        return value

    def spelled(self, value: Any) -> Any:
        """The value, with its text counted before it is made: that of a list may be much longer than the list."""
        if not isinstance(value, str | int | float | None):
            self.allow(text_size(value))
        return value

    def _allow_formatted(self, pattern: str, fields: int, values: Iterable[Any]) -> None:
        self.allow(len(pattern) + fields * max(map(text_size, values), default=0))

    def concat(self, pieces: Iterable[str]) -> str:
        """Jinja's own way to join the pieces of the output, of macros and of blocks."""
        kept, length = [], 0
        for piece in pieces:
            kept.append(piece)
            length += len(piece)
            if length > self.limits.chars:
                break
        self.allow(length)
        return "".join(kept)

    def bounded(self, items: Iterable[Any]) -> list[Any]:
        """The items of a for loop, counted before the first round."""
        taken = list(islice(items, self.limits.steps + 1))
        self.spend(len(taken))
        return taken

    def joined(self, *parts: Any) -> str:
        """The `~` operator."""
        return self.concat(str(self.spelled(part)) for part in parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_widths(_WIDE_PERCENT, left.replace("%%", ""))
            self._allow_formatted(left, left.count("%"), right if isinstance(right, tuple) else [right])
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            self.allow(len(left) + len(right))
        elif operator == "*":
            for series, times in ((left, right), (right, left)):
                if isinstance(series, (str, list, tuple)) and isinstance(times, int):
                    self.allow(len(series) * max(times, 0))
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > self.limits.bits:
                raise LimitReached(f"an integer of more than {self.limits.bits} bits")
        return super().call_binop(context, operator, left, right)

    def _strftime(self, pattern: str) -> str:
        _check_widths(_WIDE_PERCENT, pattern)
        if len(pattern) > MAX_ARGUMENT:
            raise LimitReached(f"a pattern of {len(pattern)} characters for the time")
        return self._now.get().strftime(pattern)

    # -- strings that may hold sentinels

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.spend(1)
        if type(function) is types.BuiltinMethodType and isinstance(function.__self__, str):
            kwargs = {key: value for key, value in kwargs.items() if not key.startswith("_")}  # Jinja's own
            return self._string_method(function.__self__, function.__name__, args, kwargs)
        if getattr(function, "__name__", "") in ("index", "count") and isinstance(
            getattr(function, "__self__", None), list | tuple
        ):
            self.spelled([function.__self__, *args])  # they are compared
        return super().call(context, function, *args, **kwargs)

    def _string_method(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in ("startswith", "endswith", "count"):
            return getattr(self.marks.unmark(text), name)(*map(self.marks.unmark, args))
        if name == "replace":
            return self._replace(text, *args, **kwargs)
        if name == "join":
            return self._join(text, *args)
        if name in _PADDING:
            widths = [value for value in (*args, *kwargs.values()) if isinstance(value, int)]
            self.allow(len(text) + max(widths, default=8) * (len(text) if name == "expandtabs" else 1))
        elif name in ("split", "rsplit", "splitlines"):  # a part takes more than its characters
            separators = args[:1] if args and isinstance(args[0], str) and args[0] else " \n\t"
            self.allow(PART_SIZE * sum(map(text.count, separators)))
        elif name == "translate":
            self.allow(
                len(text) * max(map(text_size, args[0].values()), default=1)
                if args and isinstance(args[0], dict)
                else len(text)
            )
        kwargs = {key: self.marks.needle(value, text) for key, value in kwargs.items()}
        return self.counted(getattr(text, name)(*(self.marks.needle(value, text) for value in args), **kwargs))

    def _replace(self, text: Any, old: str, new: str, count: int | None = None) -> str:
        self.spelled(text)
        whole = str(text)
        old = self.marks.needle(str(old), whole)
        self.allow(len(whole) + whole.count(old) * len(str(new)))
        return whole.replace(old, str(new), -1 if count is None else count)

    def _join(self, separator: str, parts: Iterable[str]) -> str:
        parts = self.bounded(parts)
        self.allow(sum(map(len, parts)) + len(separator) * len(parts))
        return separator.join(parts)

    def _join_filter(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        items = self.bounded(value)
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        return self._join(str(d), [str(self.spelled(item)) for item in items])

    def _sum(self, value: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        items = self.bounded(value)
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        if not all(isinstance(item, int | float) for item in (start, *items)):
            raise LimitReached("sum of values that are not numbers")
        return sum(items, start)

    def _length(self, value: Any) -> int:
        return len(self.marks.unmark(value) if isinstance(value, str) else value)

    def _padded(self, name: str, function: Filter) -> Filter:
        @wraps(function)
        def padded(value: Any, *args: Any, **kwargs: Any) -> Any:
            text = str(self.spelled(value))
            if name == "format":
                _check_widths(_WIDE_PERCENT, text.replace("%%", ""))
                self._allow_formatted(text, text.count("%"), [*args, *kwargs.values()])
            elif widths := [v for v in (*args, *kwargs.values()) if isinstance(v, (int, str))]:
                width = max(len(v) if isinstance(v, str) else int(v) for v in widths)
                self.allow(len(text) + width * (text.count("\n") + 1))
            return function(value, *args, **kwargs)

        return padded

    def _unmarked_test(self, function: Filter) -> Filter:
        return lambda value, *args: function(self.unmarked(value), *map(self.unmarked, args))

    def unmarked(self, value: Any) -> Any:
        """An operand of a comparison, spelled out."""
        return self.marks.unmark(value) if isinstance(value, str) else self.marks.unmark(self.spelled(value))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapper = super().wrap_str_format(value)
        if wrapper is None:
            return None
        pattern = value.__self__
        _check_widths(_WIDE_BRACES, pattern)

        @wraps(wrapper)
        def formatted(*args: Any, **kwargs: Any) -> str:
            self._allow_formatted(pattern, pattern.count("{"), [*args, *kwargs.values()])
            return wrapper(*args, **kwargs)

        return formatted

    def _counting(self, name: str, function: Filter) -> Filter:
        """A filter that counts the text of its input before it is made, and its result."""
        place = int(hasattr(function, "jinja_pass_arg"))  # index of the filtered value

        @wraps(function)
        def counting(*args: Any, **kwargs: Any) -> Any:
            if name in _COMPARING and len(args) > place:
                values = (
                    args[place] if isinstance(args[place], str | list | tuple | dict) else self.bounded(args[place])
                )
                args = (*args[:place], self.spelled(values), *args[place + 1 :])
            if name in _SPELLING and len(args) > place:
                self.spelled(args[place])
                if name == "list" and isinstance(args[place], str):
                    self.allow(PART_SIZE * len(args[place]))
                elif name == "tojson" and isinstance(indent := kwargs.get("indent"), int):
                    self.allow(text_size(args[place]) * (1 + indent))
            return self.counted(function(*args, **kwargs))

        return counting

    # -- compiling

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Rewrite(self).visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree


class _Rewrite(NodeTransformer):
    """Puts sentinels into literals, and lets comparisons, loops, slices and `~` go through the environment."""

    def __init__(self, environment: TemplateEnvironment):
        self.marks = environment.marks

    def _through(self, method: str, *args: nodes.Node, lineno: int) -> nodes.Call:
        return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None, lineno=lineno)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        return nodes.Const(self.marks.mark(node.value), lineno=node.lineno) if isinstance(node.value, str) else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.TemplateData(self.marks.mark(node.data), lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._through("unmarked", node.expr, lineno=node.lineno)
        for operand in node.ops:
            operand.expr = self._through("unmarked", operand.expr, lineno=node.lineno)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._through("bounded", node.iter, lineno=node.lineno)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._through("counted", node, lineno=node.lineno) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._through("joined", *node.nodes, lineno=node.lineno)


class _GenerationTag(Extension):
    """`{% generation %}` marks what to train on; a prompt needs only its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _SafeNamespace(Namespace):
    """A namespace that stores no underscored names."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no `self`: a template may use that name
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"namespace attribute {name!r} starts with an underscore")


def _new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _check_widths(wide: re.Pattern[str], pattern: str) -> None:
    if wide.search(pattern):
        raise LimitReached("a format field wider than 9999 or of variable width")


def _rounded(function: Filter) -> Filter:
    @wraps(function)
    def rounded(value: Any, precision: int = 0, method: Any = "common") -> Any:
        if not -MAX_ARGUMENT <= precision <= MAX_ARGUMENT:
            raise LimitReached(f"round to {precision} digits")
        return function(value, precision, method)

    return rounded


def _refuse(message: Any = "") -> None:
    raise RefusedByTemplate(message)


def text_size(value: Any, known: dict[int, int] | None = None) -> int:
    """A bound on the characters of the text of a value. Each list is measured once, however often it occurs."""
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, int):
        return value.bit_length() // 3 + 2
    if isinstance(value, Namespace):
        value = value._Namespace__attrs  # jinja2 offers no other way
    known = {} if known is None else known
    if not isinstance(value, Mapping | list | tuple):
        return 32
    if id(value) not in known:
        items = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        known[id(value)] = 2 + sum(text_size(item, known) + 2 for item in items)
    return known[id(value)]


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: nothing escaped for HTML, keys in their order."""
    for given in (indent, *(separators or ())):
        if (given if isinstance(given, int) else len(given or "")) > MAX_ARGUMENT:
            raise LimitReached(f"tojson with an indent or a separator of more than {MAX_ARGUMENT} characters")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
