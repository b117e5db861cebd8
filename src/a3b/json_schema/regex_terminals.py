"""Patterns and formats of JSON schemas as terminals of llguidance's Lark, for whole texts.

Owns the translation of ECMA-262's syntax, where the two differ: a pattern is searched for, not matched; \\d and \\w are
ASCII; `.` does not match a line break; what a text must or must not begin with, `^(?=...)(?!...)`, is an intersection.
What has no translation is refused, here or by the library. Enter at `search_terminal`, `plain` and `FORMATS`."""

from __future__ import annotations

import re

from a3b.errors import UsageError

MAX_GROUPS = 50  # around an anchor
ANYTHING = "(?s:.*)"
_TOKEN = re.compile(
    r"\\[uxpP]\{\w+\}|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\c[A-Za-z]|\(\?P?<[A-Za-z_]\w*>|\(\?<?[a-zA-Z]*[:)=!]?|\(|\\?.|\\",
    re.DOTALL,
)
_WORDS = {r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[A-Za-z0-9_]", r"\W": "[^A-Za-z0-9_]", r"\0": r"\x{0}"}
_KEPT = frozenset(r"\s \S \t \n \r \f \v".split())
_EQUIVALENT = {  # patterns of Zod 4 and pydantic with look-aheads, and the same without
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(\d+\.?\d*|\.\d+)$",
    (r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@" r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"): (
        r"^([A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]@"
        r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    ),
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$": (
        r"^P(\d+W|(\d+Y(\d+M)?(\d+D)?|\d+M(\d+D)?|\d+D)(T(\d+H(\d+M)?(\d+([.,]\d+)?S)?|\d+M(\d+"
        r"([.,]\d+)?S)?|\d+([.,]\d+)?S))?|T(\d+H(\d+M)?(\d+([.,]\d+)?S)?|\d+M(\d+([.,]\d+)?S)?|\d+"
        r"([.,]\d+)?S))$"
    ),
}
_AHEAD = ("(?=", "(?!")
_PLAIN = re.compile(r"[A-Za-z0-9_]|[^\x00-\x7f]")


class PatternError(UsageError):
    """Not a regular expression at all."""


def check_pattern(pattern: str, where: str) -> None:
    """Raises UsageError if `pattern` is not a regular expression; one that merely has no translation passes."""
    try:
        _translated(pattern)
    except PatternError as error:
        raise UsageError(
            f"{where}: pattern {pattern[:100]!r}: not a regex: {error}; expected a regular expression"
        ) from None
    except UsageError:
        pass


def plain(pattern: str) -> str:
    """The same as a regular expression of the library. Raises UsageError for what cannot be translated."""
    tokens = _translated(_EQUIVALENT.get(pattern, pattern))
    if any(token in _AHEAD for token in tokens):
        raise UsageError("a look-ahead")
    return "".join(tokens)


def search_terminal(pattern: str) -> str:
    """The terminal of all texts in which `pattern` is found. Raises UsageError for what cannot be translated."""
    tokens = _translated(_EQUIVALENT.get(pattern, pattern))
    flag = tokens[:1] == ["(?i)"]
    return _union(_alternatives(tokens[flag:], False, False, MAX_GROUPS, "(?i:" if flag else "(?:"))


def _union(terminals: list[str]) -> str:
    return f"({' | '.join(terminals)})"


def literal(char: str) -> str:
    """An expression for one character."""
    return char if _PLAIN.fullmatch(char) else f"\\x{{{ord(char):x}}}"


def _translated(pattern: str) -> list[str]:
    """The parts of a pattern: ^ $ | and brackets of groups as they were, everything else translated; a class is one
    part."""
    tokens: list[str] = []
    members: list[str] | None = None  # of the class that is open
    depth = 0
    for found in _TOKEN.finditer(pattern):
        token = found[0]
        if members is not None:
            if token == "]" and members[-1] not in ("[", "[^"):
                tokens.append("".join([*members, "]"]))
                members = None
            elif token == "^" and members == ["["]:
                members = ["[^"]
            elif token == "]":
                raise UsageError(f"an empty class at {pattern[: found.end()][-20:]!r}")
            else:
                members += [_member(char, members[-1]) for char in ([token] if token[0] == "\\" else token)]
        elif token == "[":
            members = ["["]
        elif token == ".":
            tokens.append(r"[^\n\r\x{2028}\x{2029}]")
        elif token[0] == "(":
            token = "(" if token.endswith(">") else token
            if token not in ("(", "(?:", "(?i:", *_AHEAD) and (token != "(?i)" or tokens):
                raise UsageError(f"a group {token!r}")
            depth += token != "(?i)"
            tokens.append(token)
        else:
            if token in ("*", "+", "?") and (not tokens or tokens[-1] in ("(", "(?:", "|")):
                raise PatternError(f"nothing before {token!r}")
            depth -= token == ")"
            if depth < 0:
                raise PatternError("an unopened bracket")
            tokens.append(token if token in "^$|)*+?{},-" else _escape(token) if token[0] == "\\" else literal(token))
    if depth:
        raise PatternError("an unclosed group")
    if members is not None:
        raise PatternError("an unclosed class")
    return tokens


def _member(token: str, last: str) -> str:
    """A part of a class: what only the library takes for an operator is escaped."""
    if token == "-":
        return r"\x{2d}" if last in ("[", "[^", "-") else "-"
    return _escape(token) if token[0] == "\\" else literal(token)


def _escape(token: str) -> str:
    if token in _WORDS:
        return _WORDS[token]
    if token[:2] == r"\c" and len(token) == 3:
        return f"\\x{{{ord(token[2]) % 32:x}}}"
    if token in _KEPT or len(token) > 2:
        return token
    if len(token) == 2 and not token[1].isalnum():
        return literal(token[1])
    raise UsageError(f"an escape {token!r}")


def _alternatives(tokens: list[str], is_left: bool, is_right: bool, depth: int, group: str) -> list[str]:
    """Terminals, one of which must match. is_left, is_right: anchored by what is around. group: how an expression is
    put in brackets."""
    found = []
    for part in _split(tokens):
        left, right = is_left, is_right
        others = []
        while part[:1] == ["^"] or (left and part and part[0] in _AHEAD):
            left = True
            if part[0] in _AHEAD and depth:
                end = _closing(part)
                ahead = _union(_alternatives(part[1:end], True, False, depth - 1, group))
                others.append(" & " + "~" * (part[0] == "(?!") + ahead)
                part = part[end:]
            part = part[1:]
        while part[-1:] == ["$"]:
            right, part = True, part[:-1]
        if any(token in ("^", "$", *_AHEAD) for token in part):
            if others or part[0] not in ("(", "(?:") or _closing(part) != len(part) - 1 or not depth:
                raise UsageError("an anchor or a look-ahead in the middle")
            found += _alternatives(part[1:-1], left, right, depth - 1, group)
        else:
            text = f"/{'' if left else ANYTHING}{group}{''.join(part)}){'' if right else ANYTHING}/"
            found.append(f"({text}{''.join(others)})" if others else text)
    return found


def _split(tokens: list[str]) -> list[list[str]]:
    """The alternatives of an expression."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token[0] == "(") - (token == ")")
        if token == "|" and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _closing(part: list[str]) -> int:
    """Where the group ends that `part` begins with."""
    depth = 0
    for index, token in enumerate(part):
        depth += (token[0] == "(") - (token == ")")
        if depth == 0:
            return index
    return len(part)


_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_HMS = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_YMD = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_IPV4 = r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_H = "[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(  # eight groups, or n before :: and at most 7 - n after it
    [
        f"(?:{_H}:){{7}}{_H}",
        *(f"{f'(?:{_H}:){{{n - 1}}}{_H}' if n else ''}::(?:(?:{_H}:){{0,{6 - n}}}{_H})?" for n in range(7)),
        f"(?:{_H}:){{6}}{_H}::",
    ]
)
_PCHAR = r"(?:[A-Za-z0-9._\x{7e}!$\x{26}'()*+,;=:@\-]|%[0-9A-Fa-f]{2})"
_HOST = rf"(?:[A-Za-z0-9._\x{{7e}}\-]+|\[(?:{_IPV6})\])(?::[0-9]{{1,5}})?"
FORMATS = {
    "date-time": f"{_DATE}T{_TIME}",
    "date": _DATE,
    "time": _TIME,
    "duration": f"P(?:{_YMD}(?:{_HMS})?|{_HMS}|[0-9]+W)",
    "email": rf"[A-Za-z0-9_+\-]+(?:\.[A-Za-z0-9_+\-]+)*@{_LABEL}(?:\.{_LABEL})+",
    "hostname": rf"{_LABEL}(?:\.{_LABEL}){{0,3}}",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "uri": rf"[A-Za-z][A-Za-z0-9+.\-]*:(?:\/\/{_HOST}(?:\/{_PCHAR}*)*|\/\/\/{_PCHAR}+(?:\/{_PCHAR}*)*"
    rf"|{_PCHAR}+(?:\/{_PCHAR}*)*)"
    rf"(?:\?(?:{_PCHAR}|[\/?])*)?(?:\x{{23}}(?:{_PCHAR}|[\/?])*)?",
}
"""Regular expressions of formats; every text they match is valid, but not every valid text matches (RFC 3339, 3986,
4291, 1123, 9562)."""
