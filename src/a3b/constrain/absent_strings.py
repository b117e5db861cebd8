"""A regular expression for all texts that do not contain certain strings, written without negation.

If a negation is combined with a length, the library proves for each remaining length that nothing can follow, and gives
up after a few hundred. This expression needs no proof. Enter at `absent`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Step = tuple[str, bool]
"""The characters that match here, and whether any number of them may occur here."""
_State = frozenset[tuple[int, int]]  # (index of a text, steps of it that are done)


def letters(text: str) -> tuple[Step, ...]:
    """The steps of a plain text."""
    return tuple((char, False) for char in text)


def absent(texts: Sequence[Sequence[Step]]) -> str:
    """A regular expression in the syntax of Rust, for whole texts. texts: what does not occur, step by step."""
    alphabet = sorted({char for text in texts for chars, _ in text for char in chars})
    start = _closed(texts, ((i, 0) for i in range(len(texts))))
    edges: dict[_State, dict[_State, list[str]]] = {}
    todo = [start]
    while todo:
        state = todo.pop()
        if state not in edges:
            edges[state] = {}
            for char in [*alphabet, ""]:  # "" is any other
                then = _closed(texts, _after(texts, state, char))
                if not any(done == len(texts[i]) for i, done in then):
                    edges[state].setdefault(then, []).append(char)
                    todo.append(then)
    return _solved(
        {state: {then: _class(chars, alphabet) for then, chars in found.items()} for state, found in edges.items()},
        start,
    )


def _after(texts: Sequence[Sequence[Step]], state: _State, char: str) -> Iterable[tuple[int, int]]:
    yield from ((i, 0) for i in range(len(texts)))
    for i, done in state:
        chars, repeats = texts[i][done]
        if char and char in chars:
            yield (i, done if repeats else done + 1)


def _closed(texts: Sequence[Sequence[Step]], places: Iterable[tuple[int, int]]) -> _State:
    found = set()
    for i, done in places:
        found.add((i, done))
        while done < len(texts[i]) and texts[i][done][1]:
            done += 1
            found.add((i, done))
    return frozenset(found)


def _quoted(char: str) -> str:
    return char if char.isalnum() else f"\\x{{{ord(char):02x}}}"


def _class(chars: list[str], alphabet: list[str]) -> str:
    if "" in chars:
        rest = "".join(_quoted(char) for char in alphabet if char not in chars)
        return f"[^{rest}]"
    return _quoted(chars[0]) if len(chars) == 1 else f"[{''.join(map(_quoted, chars))}]"


def _solved(edges: dict[_State, dict[_State, str]], start: _State) -> str:
    """The expression for texts that lead from `start` to any state. Eliminates one state after another, those with the
    fewest paths first."""
    ends = dict.fromkeys(edges, "")  # what may end the text in a state
    while len(edges) > 1:
        state = min((one for one in edges if one != start), key=lambda one: _num_paths(edges, one))
        own, end = edges.pop(state), ends.pop(state)
        loop = f"(?:{own.pop(state)})*" if state in own else ""
        for before, others in edges.items():
            if (way := others.pop(state, None)) is None:
                continue
            for then, rest in own.items():
                path = f"{way}{loop}{rest}"
                others[then] = f"(?:{others[then]}|{path})" if then in others else path
            ends[before] = f"(?:{ends[before]}|{way}{loop}{end})" if ends[before] else f"(?:{way}{loop}{end})?"
    loop = f"(?:{edges[start][start]})*" if start in edges[start] else ""
    return f"{loop}{ends[start]}"


def _num_paths(edges: dict[_State, dict[_State, str]], state: _State) -> int:
    return len(edges[state]) * sum(state in others for others in edges.values())
