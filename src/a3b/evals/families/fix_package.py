"""Generated packages for *fix*: two modules of two functions, a test script, one bug. Enter at `make_package`.

Names of functions and modules and texts of documentation of the test split never occur in training; the words that
they consist of do. The tests run in this process: `run_tests` prints what `python3 test.py` prints."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field
from typing import Any

from a3b.agent.demo import RUN_CASES
from a3b.evals.families.fix_functions import FUNCTIONS
from a3b.evals.families.fix_patterns import UNSEEN_KINDS, Pattern

PARTS = (
    "name file value read line key path end data mod other default code time string error result context option "
    "image part user field item level head test source number root message current valid state base load record "
    "place index action form local server node host child event word group parent width request response select "
    "order section position col main press day box point content age work letter top search date length air year "
    "type update row thing status body move meet color bar view table way enter change show leg client label "
    "style height ear title side control location dev public query author auto cover button post light fore "
    "template turn web face product model page private click book center team admin room play player check log "
    "note link map rule shape size space step store task text token track unit water week world"
).split()
NUMBERS = (
    "a b c d n m x y z width height price count size start end limit amount number step base length cost level left "
    "right top age day year point place position"
).split()
LISTS = (
    "items values users data points files results days args params names lines pages rows words keys nodes scores "
    "prices sizes cards counts"
).split()
TEXTS = "text word name line label title key path part message string body content query file url code".split()
LOCALS = "result total out found best current res val answer".split()
ITEMS = "item value v e one it x entry".split()
WORDS = "red house light water word list code one table open left new".split()
TEST_HEAD = """import sys

sys.dont_write_bytecode = True
{imports}

CASES = [
{cases}
]

"""
COMMAND = "python3 test.py"
FunctionTest = tuple[tuple[object, ...], object]  # a call, and what it returns
PackageTest = tuple[str, str, tuple[object, ...], object]  # module and function before them


def is_kept(name: str, split: str) -> bool:
    """Whether a name belongs to the split; an eighth of all names is for tests."""
    return (zlib.crc32(name.encode()) % 8 == 0) == (split == "test")


@dataclass(frozen=True)
class PackageFunction:
    """A function of a package. right, broken: its text; args: calls of its tests, with what the right one returns."""

    name: str
    doc: str
    right: str
    broken: str
    kind: str
    tests: list[FunctionTest]


@dataclass
class Package:
    """files: path -> text, with the bug; functions: by module; bug: the broken one, in `module`."""

    files: dict[str, str]
    right: dict[str, str]
    modules: dict[str, list[PackageFunction]]
    module: str
    bug: PackageFunction
    tests: list[PackageTest] = field(default_factory=list)


def a_value(rng: random.Random, kind: str) -> object:
    """An argument of a kind: n number, z signed, p positive, big, few, l list, l0 maybe empty, s word, S capitals."""
    if kind in ("n", "p", "few", "big", "z"):
        low, high = {"n": (0, 12), "p": (1, 5), "few": (2, 4), "big": (5, 40), "z": (-9, 9)}[kind]
        return rng.choice((0, 1, -1)) if kind == "z" and rng.random() < 0.4 else rng.randint(low, high)
    if kind in ("l", "l0"):
        if kind == "l0" and rng.random() < 0.35:
            return []
        return [rng.randint(0, 12) for _ in range(rng.choice((2, 3, 3, 4)))]
    word = rng.choice(WORDS)
    if kind == "c":
        return rng.choice((word[0], word[-1], word[:2], word[-2:]))
    if kind == "text":
        return " ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 2, 3))))
    return word.upper() if kind == "S" else word


def filled(pattern: Pattern, rng: random.Random, split: str, taken: set[str]) -> tuple[str, dict[str, str]]:
    """(function name, what stands for the braces)."""
    while True:
        name = f"{rng.choice(pattern.verbs)}_{rng.choice(PARTS)}"
        if name not in taken and is_kept(name, split):
            break
    used: set[str] = set()

    def draw(pool: list[str]) -> str:
        word = rng.choice([word for word in pool if word not in used])
        used.add(word)
        return word

    words = {}
    for param, kind, _ in pattern.params:
        pool = LISTS if kind in ("l", "l0") else TEXTS if kind in ("s", "S", "text", "c") else NUMBERS
        words[param] = draw(pool)
    k, m = rng.sample(range(2, 10), 2)
    return name, words | {"t": draw(LOCALS), "i": draw(ITEMS), "k": str(k), "m": str(m)}


def written(name: str, code: str, doc: str) -> str:
    """The text of a function; the first line of `code` is its signature."""
    first, *rest = code.split("\n")
    return "\n".join([first, f'    """{doc}"""', *("    " + line for line in rest)]) + "\n"


def called(text: str, name: str, args: tuple[object, ...]) -> str:
    """repr of what the function in `text` returns, or the name of its error."""
    space: dict[str, Any] = {}
    exec(text, space)
    try:
        return repr(space[name](*args))
    except Exception as error:
        return type(error).__name__


def make_function(rng: random.Random, split: str, taken: set[str], kinds: list[str] | None) -> PackageFunction | None:
    """One function; with `kinds` given it has a bug of one of them that its tests find, else none."""
    pattern = rng.choice(FUNCTIONS)
    name, words = filled(pattern, rng, split, taken)
    signature = ", ".join(words[p] + ("=" + words["k"] if default else "") for p, _, default in pattern.params)
    code = f"def {name}({signature}):\n{pattern.code.format(**words)}"
    doc = rng.choice(pattern.docs).format(**words)
    if not is_kept(doc, split):
        return None
    right = broken = written(name, code, doc)
    kind = ""
    if kinds is not None:
        fitting = [bug for bug in pattern.bugs if bug[0] in kinds]
        if not fitting:
            return None
        kind, good, bad = rng.choice(fitting)
        good, bad = good.format(**words), bad.format(**words)
        if code.count(good) != 1:
            return None
        broken = written(name, code.replace(good, bad), doc)
    tests = some_tests(rng, pattern, name, right, broken, kind)
    return PackageFunction(name, doc, right, broken, kind, tests) if tests else None


def some_tests(
    rng: random.Random, pattern: Pattern, name: str, right: str, broken: str, kind: str
) -> list[FunctionTest] | None:
    """Two or three calls with what they must return; None if no call tells the broken function from the right one."""
    spaces: list[dict[str, Any]] = [{}, {}]
    for text, space in zip((right, broken), spaces, strict=True):
        exec(text, space)
    failing: list[FunctionTest] = []
    passing: list[FunctionTest] = []
    for _ in range(40):
        params = [p for p in pattern.params if not (p[2] and (kind == "default" or rng.random() < 0.3))]
        args = tuple(a_value(rng, p[1]) for p in params)
        results = []
        for space in spaces:
            try:
                results.append(space[name](*args))
            except Exception as error:
                results.append(type(error))
        if isinstance(results[0], type):
            continue
        good = results[0]
        same = repr(results[0]) == repr(results[1])
        (passing if same else failing).append((args, good))
        if len(passing) >= 3 and (failing or not kind):
            break
    if kind and not failing:
        return None
    tests = failing[:2] + passing[:2] if kind else passing[:3]
    return tests if tests else None


def make_package(rng: random.Random, split: str = "train", kinds: list[str] | None = None) -> Package:
    """A package with one bug, of one of `kinds`; by default of any kind but those kept from training."""
    if kinds is None:
        every = {bug[0] for p in FUNCTIONS for bug in p.bugs}
        kinds = sorted(every - set(UNSEEN_KINDS))
    while True:
        taken: set[str] = set()
        modules: list[str] = []
        while len(modules) < 2:
            module = "_".join(rng.sample(PARTS, 2))
            if module not in modules and is_kept(module, split):
                modules.append(module)
        kind = rng.choice(kinds)
        at = rng.randrange(4)
        functions: list[PackageFunction] = []
        while len(functions) < 4:
            if made := make_function(rng, split, taken, [kind] if len(functions) == at else None):
                functions.append(made)
                taken.add(made.name)
        package = assembled(rng, dict(zip(modules, (functions[:2], functions[2:]), strict=True)), functions[at])
        old, _ = change_of(package.bug)
        if package.files[package.module + ".py"].count(old) == 1:
            return package


def assembled(rng: random.Random, modules: dict[str, list[PackageFunction]], bug: PackageFunction) -> Package:
    files, right = {}, {}
    for module, functions in modules.items():
        files[f"{module}.py"] = "\n\n".join(f.broken for f in functions)
        right[f"{module}.py"] = "\n\n".join(f.right for f in functions)
    tests = [(m, f.name, args, good) for m, functions in modules.items() for f in functions for args, good in f.tests]
    cases = "\n".join(f"    ({m}.{name}, {args!r}, {good!r})," for m, name, args, good in tests)
    head = TEST_HEAD.format(imports="\n".join(f"import {m}" for m in sorted(modules)), cases=cases)
    files["test.py"] = right["test.py"] = head + RUN_CASES
    module = next(m for m, functions in modules.items() if bug in functions)
    return Package(files, right, modules, module, bug, tests)


def change_of(function: PackageFunction) -> tuple[str, str]:
    """(old, new): the lines that an edit has to replace, whole, without the last newline."""
    wrong, right = function.broken.split("\n"), function.right.split("\n")
    start = next(i for i, (a, b) in enumerate(zip(wrong, right, strict=False)) if a != b)
    tail = 0
    while tail < min(len(wrong), len(right)) - start and wrong[-1 - tail] == right[-1 - tail]:
        tail += 1
    if len(wrong) - tail <= start:  # lines are missing: the one after them stays
        tail = len(wrong) - start - 1
    return "\n".join(wrong[start : len(wrong) - tail]), "\n".join(right[start : len(right) - tail])


def run_tests(files: dict[str, str], tests: list[PackageTest]) -> str:
    """What `bash` answers to COMMAND."""
    spaces: dict[str, dict[str, Any]] = {}
    for module in sorted({t[0] for t in tests}):
        space: dict[str, Any] = {"__name__": module}
        try:
            exec(compile(files[f"{module}.py"], f"{module}.py", "exec"), space)
        except Exception as error:
            return f"{type(error).__name__} in {module}.py\n[exit status 1]"
        spaces[module] = space
    lines, failed = [], set()
    for module, name, args, expected in tests:
        if (module, name) in failed:
            continue
        try:
            got = repr(spaces[module][name](*args))
        except Exception as error:
            got = type(error).__name__
        if got != repr(expected):
            failed.add((module, name))
            call = ", ".join(map(repr, args))
            lines.append(f"{module}.py: FAIL {name}({call}): expected {expected!r}, got {got}")
    return "\n".join([*lines, "[exit status 1]"]) if lines else "ok"
