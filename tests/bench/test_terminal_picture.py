"""The picture of a terminal in the docs is that of its recording."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from bench import agent_picture, terminal_picture


@pytest.mark.parametrize("name", ["terminal", "agent"])
def test_the_picture_in_the_docs_is_drawn_from_the_recording_beside_it(name):
    recording = (terminal_picture.DOCS / f"{name}.ansi").read_text(encoding="utf-8")
    found = (terminal_picture.DOCS / f"{name}.svg").read_text(encoding="utf-8")
    assert found == terminal_picture.draw(recording), f"run python -m bench.{name}_picture"
    assert len(found) < 60_000
    shown = "\n".join(
        "".join(line.itertext()) for line in ET.fromstring(found).iter("{http://www.w3.org/2000/svg}text")
    )
    assert shown == re.sub(r"\n\n+", "\n", re.sub(r"\x1b\[\d*m", "", recording)).rstrip()


def test_colours_and_characters_of_markup_are_kept():
    drawn = terminal_picture.draw("a \x1b[90m<b> & c\x1b[0m d\n")
    assert '>a <tspan class="dim">&lt;b&gt; &amp; c</tspan> d</text>' in drawn


def test_the_recorded_session_of_the_agent_has_the_calls_of_its_script():
    recording = (terminal_picture.DOCS / "agent.ansi").read_text(encoding="utf-8")
    shown = re.sub(r"\x1b\[\d*m", "", recording)
    told = [re.search(rf"^\[{number}\] (\$|\w+) ", shown, re.M) for number in range(1, 5)]
    names = ["$" if isinstance(command, str) else command["tool"] for command in agent_picture.SCRIPT["commands"]]
    assert [found and found[1] for found in told] == names
    assert "\x1b[32m+        if value > 6:" in recording and "\x1b[31m-        if value < 6:" in recording
