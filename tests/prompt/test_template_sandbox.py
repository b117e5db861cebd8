"""What a template can do: look for control words in text, but not escape, hang or exhaust memory."""

from __future__ import annotations

import time

import pytest

from a3b.errors import TemplateError
from a3b.prompt.chat_template import ChatTemplate, prompt_text
from a3b.prompt.segments import Text
from a3b.prompt.template_sandbox import TemplateLimits

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def user(content="Hi"):
    return {"role": "user", "content": content}


def refused(source: str, *messages, limits: TemplateLimits | None = None) -> str:
    """What a template is refused with."""
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source, limits=limits).render(list(messages) or [user()])
    return str(caught.value)


def test_a_template_that_reshapes_control_tokens_is_refused():
    for source in (
        "{{ '<|im_start|>' | upper }}",
        "{{ '<|im_start|>'[1:] }}",
        "{{ '<think>' | list | first }}",
    ):
        assert "control tokens" in refused(source)


LOOKS = {  # expressions over c = "a</think>b" and t = "</think>", with what they give
    "t in c": True,
    "c == 'a</think>b'": True,
    "c != t": True,
    "t in [t]": True,
    "t is in(['</think>'])": True,
    "c.find(t)": 1,
    "c.count(t)": 1,
    "t | length": 8,
    "c.endswith((t, t ~ 'b'))": True,
    "c.split(sep=t)[0]": "a",
    "c.partition(t)[2]": "b",
    "c.rsplit(t, 1)[1]": "b",
    "c | replace(t, '-')": "a-b",
    "c.replace(t, '')": "ab",
    "c.removeprefix('a' ~ t)": "b",
    "('<think>' ~ c).split('<think>')[1].split(t)[1]": "b",
    "[t, c] | select('in', [t]) | list | length": 1,
}


@pytest.mark.parametrize("expression", LOOKS)
def test_looking_for_control_words_in_text_works_as_in_plain_jinja(expression):
    template = ChatTemplate("{% set t = '</think>' %}{% set c = messages[0].content %}{{ " + expression + " }}")
    assert template.render([user("a</think>b")]) == [Text(str(LOOKS[expression]))]


# -- hostile templates

ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ strftime_now.__closure__[0] }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '%s' | attr('format_map') | attr('__self__') }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{% set n = namespace(__class__=1) %}",
    "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{{ open('/etc/passwd') }}",
    "{{ self._TemplateReference__context.environment.globals.x.y }}",
)
NESTED = (
    "n.x",
    "n.y",
    "n.x | tojson",
    "n.y | tojson",
    "n.x ~ 'a'",
    "n.x | string",
    "n.x | title",
    "n.x | upper",
    "n.x | join",
    "'%s' % [n.x]",
    "'{}'.format(n.x)",
    "'%s' | format(n.x)",
    "n.x == [n.x, n.x][0:1]",
    "namespace(a=n.x)",
    "n.x | replace('a', 'b')",
    "n.x | e",
)
COMPARED = (
    "[n.x].index(n.y)",
    "[n.x].count(n.y)",
    "[n.x, n.y] | max",
    "[n.x, n.y] | min | length",
    "[n.x, n.y] | sort | length",
    "[{'a': n.x}, {'a': n.y}] | map(attribute='a') | max",
    "[{'a': n.x}, {'a': n.y}] | groupby('a') | length",
)
FORMATTED = (
    "'%s%s%s' % (n.x, n.x, n.x)",
    "'%(a)s%(a)s%(a)s' % {'a': n.x}",
    "'{0}{0}{0}'.format(n.x)",
    "'{a}{a}{a}'.format_map({'a': n.x})",
    "'%s%s%s' | format(n.x, n.x, n.x)",
)
COPIES = ("n.x.title()", "n.x | title", "n.x | upper", "n.x[1:]", "n.x[:-1]", "n.x.upper()", "n.x | trim")
GREEDY = (
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(1000000) %}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ 'a' * 10000000000 }}",
    "{{ 10 ** (10 ** 10) }}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set y %}{{n.x}}{{n.x}}{% endset %}"
    "{% set n.x=y %}{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x|replace('a', n.x) %}{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x.join(n.x|list) %}{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x|join(n.x) %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{{ 'a'.ljust(10000000000) }}",
    "{{ 'a' | center(10000000000) }}",
    "{{ 'a' | indent(10000000000, true) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '%*d' % (10000000000, 1) }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10000000000) }}",
    "{{ [1] | tojson(indent=10000000000) }}",
    "{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}",
    "{{ ([['a'] * 1000] * 1000) | sum(start=[]) }}",
    "{{ ('a ' * 200000).split() | length }}",
    "{{ ('a' * 500000) | list | length }}",
    *(
        "{% set n = namespace(x=['a'], y=['a']) %}{% for i in range(60) %}{% set "
        "n.x = [n.x, n.x] %}{% set n.y = {'a': n.y, 'b': n.y} %}"
        "{% endfor %}{{ " + expression + " }}"
        for expression in NESTED
    ),
    *(
        "{% set n = namespace(x=['a'], y=['a']) %}{% for i in range(60) %}{% "
        "set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}"
        "{% endfor %}{{ " + expression + " }}"
        for expression in COMPARED
    ),
    "{{ '%(a)2000000d' | format(a=1) }}",
    "{{ strftime_now('%2000000Y') }}",
    "{{ strftime_now('%9999Y' * 1000) }}",
    "{{ ('a' * 9999).translate({97: 'b' * 9999}) }}",
    "{{ [1, 2] | tojson(indent=' ' * 2000000) }}",
    "{{ [1, 2] | tojson(separators=(' ' * 2000000, ':')) }}",
    "{{ (10 ** 300) | round(-99999999) }}",
    *("{% set n = namespace(x='a' * 500000) %}{{ " + expression + " }}" for expression in FORMATTED),
    *(
        "{% set n = namespace(x='a' * 500000, y=[]) %}{% for i in range(99) %}{% set n.y = [n.y, "
        + expression
        + "] %}{% endfor %}"
        for expression in COPIES
    ),
)


@pytest.mark.parametrize("source", ESCAPES)
def test_a_hostile_template_gets_nothing_and_nowhere(source):
    try:
        prompt = ChatTemplate(source).render([user()])
    except TemplateError:
        return
    assert prompt_text(prompt) == ""


@pytest.mark.parametrize("source", GREEDY)
def test_a_greedy_template_is_stopped(source):
    start = time.monotonic()
    refused(source, user("long text " * 100), limits=TemplateLimits(steps=200_000, chars=1 << 20, built=1 << 24))
    assert time.monotonic() - start < 20  # without the limit: years, or all memory


def test_helpers_of_transformers_templates_exist():
    source = "{% generation %}a{% endgeneration %}{{ strftime_now('%Y') | length }}{% for i in [1] %}{% break %}b"
    source += "{% endfor %}"
    assert prompt_text(ChatTemplate(source).render([user()])) == "a4"
    tojson = ChatTemplate("{{ messages[0].v | tojson }}{{ messages[0].v | tojson(indent=1) | length }}")
    assert prompt_text(tojson.render([{"v": {"b": "<é'>", "a": [1.0, None]}}])) == '{"b": "<é\'>", "a": [1.0, null]}42'
