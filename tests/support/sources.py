"""What stands in the sources of the package, each file parsed once a process. Enter at `facts_of`."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

PACKAGE = ROOT / "src" / "a3b"
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass
class SourceFacts:
    """modules: what a file imports, "from a3b import x" as "a3b.x"; functions: (name, lines); classes: of the top
    level; prints: line and arguments of each call of print; strings: (line, value, whether it is a docstring)."""

    text: str
    modules: set[str] = field(default_factory=set)
    functions: list[tuple[str, int]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    prints: list[tuple[int, list[ast.expr]]] = field(default_factory=list)
    strings: list[tuple[int, str, bool]] = field(default_factory=list)


@cache
def facts_of(path: Path) -> SourceFacts:
    """Of a file."""
    return read_facts(path.read_text(encoding="utf-8"))


def read_facts(text: str) -> SourceFacts:
    """Of a source."""
    tree = ast.parse(text)
    found = SourceFacts(text, classes=[node.name for node in tree.body if isinstance(node, ast.ClassDef)])
    docs: set[int] = set()
    for node in ast.walk(tree):  # from the outside in: an expression comes before its value
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                found.modules |= {f"{module}.{name.name}" for name in names} if module == "a3b" else {module}
            case ast.Import(names=names):
                found.modules |= {name.name for name in names}
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.functions.append((node.name, (node.end_lineno or 0) - node.lineno + 1))
            case ast.Call(func=ast.Name(id="print"), args=args):
                found.prints.append((node.lineno, args))
            case ast.Expr(value=ast.Constant() as value):
                docs.add(id(value))
            case ast.Constant(value=str(value)):
                found.strings.append((node.lineno, value, id(node) in docs))
    return found
