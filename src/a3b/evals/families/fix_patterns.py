"""The functions of the packages of *fix*: one line of documentation, the right code and the ways in which it is broken.

A bug is (kind, right text, wrong text); the right text stands exactly once in the code, the wrong one replaces it.
In braces: parameters (a, b, s, l, w), locals (t total, i item), k and m constants. Enter at `pattern`."""

from __future__ import annotations

from dataclasses import dataclass

UNSEEN_KINDS = ("wrong builtin", "lost sum", "early return")  # never in training


@dataclass(frozen=True)
class Pattern:
    """verbs: beginnings of its name; params: "a:n b:n=K" (name, kind of value, default); docs: ways to say it; code:
    its lines; bugs: (kind, right, wrong)."""

    verbs: list[str]
    params: list[tuple[str, str, str]]
    docs: list[str]
    code: str
    bugs: list[tuple[str, str, str]]


def pattern(verbs: str, params: str, docs: str, code: str, *bugs: str) -> Pattern:
    """Bugs as "kind: right -> wrong"; lines of code and of bugs are separated by " ; ", four blanks indent."""
    signature = []
    for param in params.split():
        name, _, kind = param.partition(":")
        kind, _, default = kind.partition("=")
        signature.append((name, kind, default))
    found = []
    for bug in bugs:
        kind, _, change = bug.partition(": ")
        right, _, wrong = change.partition(" -> ")
        found.append((kind, right.replace(" ; ", "\n"), wrong.replace(" ; ", "\n")))
    return Pattern(verbs.split(), signature, docs.split("|"), code.replace(" ; ", "\n"), found)


SUM = "{t} = 0 ; for {i} in {l}: ;     {t} += {i} ; return {t}"
COUNT = "{t} = 0 ; for {i} in {l}: ;     if {i} > {k}: ;         {t} += 1 ; return {t}"
BIGGEST = "{t} = {l}[0] ; for {i} in {l}: ;     if {i} > {t}: ;         {t} = {i} ; return {t}"
SMALLEST = BIGGEST.replace(">", "<")
PLACE = "for {i} in range(len({l})): ;     if {l}[{i}] == {a}: ;         return {i} ; return -1"
SIGN = "if {a} > 0: ;     return 1 ; if {a} < 0: ;     return -1 ; return 0"
