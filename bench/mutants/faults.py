"""What is mutated: mutmut's faults and two of ours, less those that no test should notice."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import Mutation, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

# What is not mutated, because no test should pin it: texts for people, and arguments that state a default or name a
# thread. mutmut itself leaves out annotations, decorators, docstrings, len() and isinstance().
SILENT_CALLS = {"log", "logger", "logging", "warnings", "cast", "TypeVar", "NewType"}
IDLE_ARGUMENTS = {
    "encoding",
    "daemon",
    "name",
    "strict",
    "stacklevel",
    "help",
    "metavar",
    "description",
    "epilog",
    "title",
}
IDLE_FUNCTIONS = {"__repr__", "__str__"}
IDLE_NAMES = {"__all__", "__slots__", "log", "logger"}


@dataclass(frozen=True)
class Mutant:
    """One fault in the module at `path` below src/a3b."""

    path: str
    function: str
    lines: range  # of the statement
    module: cst.Module
    mutation: Mutation

    @cached_property
    def sample_key(self) -> str:
        """Cheap, and the same as long as the changed expression is: it survives moves inside the file."""
        codes = (self.module.code_for_node(n) for n in (self.mutation.original_node, self.mutation.mutated_node))
        return digest(self.path, self.function, *codes)

    @cached_property
    def text(self) -> str:
        """The whole changed file."""
        changed = self.module.deep_replace(self.mutation.original_node, self.mutation.mutated_node)
        return cst.ensure_type(changed, cst.Module).code

    @cached_property
    def change(self) -> tuple[str, str]:
        """The lines that differ, stripped: as they were and as they are now."""
        old, new = self.module.code.splitlines(), self.text.splitlines()
        while old and new and old[0] == new[0]:
            del old[0], new[0]
        while old and new and old[-1] == new[-1]:
            del old[-1], new[-1]
        was, now = ("\n".join(line.strip() for line in lines) for lines in (old, new))
        return was, now

    @property
    def key(self) -> str:
        return digest(self.path, self.function, *self.change)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def drop_call(node: cst.Expr) -> Iterator[cst.BaseSmallStatement]:
    if isinstance(node.value, cst.Call | cst.Await):
        yield cst.Pass()


def negate_condition(node: cst.If) -> Iterator[cst.If]:
    if not isinstance(node.test, cst.Comparison | cst.UnaryOperation):  # mutmut negates these itself
        grouped = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), grouped))


def is_prose(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.ConcatenatedString):
        return is_prose(node.left) or is_prose(node.right)
    if isinstance(node, cst.FormattedString):
        return any(
            isinstance(part, cst.FormattedStringText) and re.search("[a-z]{2},? |: $", part.value)
            for part in node.parts
        )
    return isinstance(node, cst.SimpleString) and bool(re.search("[a-z]{2}[,.:;]? [a-z]", node.value))


class Mutations(MutationVisitor):
    """mutmut's mutations, decorated functions included (whole files are replaced), without those that cannot matter."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return node.name.value in IDLE_FUNCTIONS
        if isinstance(node, cst.If):
            return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
        if isinstance(node, cst.Call):
            owner = node.func.value if isinstance(node.func, cst.Attribute) else node.func
            if isinstance(owner, cst.Name) and owner.value in SILENT_CALLS:
                return True
        if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value in IDLE_ARGUMENTS:
            return True
        if isinstance(node, cst.Assign) and any(
            isinstance(t.target, cst.Name) and t.target.value in IDLE_NAMES for t in node.targets
        ):
            return True
        return is_prose(node) or super()._skip_node_and_children(node)

    def _removes_ignored_code(self, node: cst.CSTNode, mutated_node: cst.CSTNode) -> bool:
        if (
            isinstance(node, cst.Assign | cst.AnnAssign)
            and isinstance(node.value, cst.Name)
            and node.value.value in ("False", "None")
        ):
            return True  # mutmut writes None and "", which are as false
        if isinstance(node, cst.SimpleString) and isinstance(mutated_node, cst.SimpleString):
            return "XX" not in mutated_node.value  # one change per string is enough
        if isinstance(node, cst.Call) and isinstance(mutated_node, cst.Call):
            kept = {id(arg) for arg in mutated_node.args}
            return any(self._skip_node_and_children(a) or is_prose(a.value) for a in node.args if id(a) not in kept)
        return isinstance(node, cst.Expr) and self._skip_node_and_children(node.value)


def defined(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    targets = getattr(node, "targets", []) + [
        target for target in [getattr(node, "target", None)] if target is not None
    ]
    names = {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return names | ({node.name} if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else set())


class Places:
    """For each line its function, the lines of its statement, and, if it runs at import, the names it defines."""

    def __init__(self, code: str) -> None:
        self.function: dict[int, str] = defaultdict(str)
        self.statement: dict[int, range] = {}
        self.names: dict[int, set[str]] = {}
        self._visit(ast.parse(code), "", at_import=True)

    def names_at(self, lines: range) -> set[str] | None:
        """The names that lines which run at import define; None for lines that run in a call."""
        found = [self.names[line] for line in lines if line in self.names]
        return set().union(*found) if found else None

    def _visit(self, parent: ast.AST, prefix: str, at_import: bool) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.stmt):
                body = getattr(node, "body", None)
                lines = range(node.lineno, max(body[0].lineno, node.lineno + 1) if body else (node.end_lineno or 0) + 1)
                self.statement.update(dict.fromkeys(lines, lines))
                if at_import:
                    self.names.update(dict.fromkeys(lines, defined(node)))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{node.name}"
                self.function.update(dict.fromkeys(range(node.lineno, (node.end_lineno or 0) + 1), name))
                self._visit(node, f"{name}.", at_import and isinstance(node, ast.ClassDef))
            else:
                self._visit(node, prefix, at_import)


def mutants_of(path: str, code: str) -> list[Mutant]:
    wrapper, places = MetadataWrapper(cst.parse_module(code)), Places(code)
    operators: list[tuple[type, Callable[[Any], Iterable[cst.CSTNode]]]]
    operators = [*mutation_operators, (cst.Expr, drop_call), (cst.If, negate_condition)]
    wrapper.visit(visitor := Mutations(operators, IgnoredCode(set(), set(), set())))
    positions = wrapper.resolve(PositionProvider)
    found: dict[str, Mutant] = {}
    for mutation in visitor.mutations:
        line = positions[mutation.original_node].start.line
        mutant = Mutant(
            path, places.function[line], places.statement.get(line, range(line, line + 1)), wrapper.module, mutation
        )
        found.setdefault(mutant.sample_key, mutant)
    return list(found.values())
