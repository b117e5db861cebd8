"""The picture of a terminal in the docs is that of its recording."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from bench import terminal_picture


def test_the_picture_in_the_docs_is_drawn_from_the_recording_beside_it():
    recording = (terminal_picture.DOCS / "terminal.ansi").read_text(encoding="utf-8")
    found = (terminal_picture.DOCS / "terminal.svg").read_text(encoding="utf-8")
    assert found == terminal_picture.draw(recording), "run python -m bench.terminal_picture"
    assert len(found) < 60_000
    shown = "\n".join(
        "".join(line.itertext()) for line in ET.fromstring(found).iter("{http://www.w3.org/2000/svg}text")
    )
    assert shown == re.sub(r"\x1b\[\d*m", "", recording).rstrip()


def test_colours_and_characters_of_markup_are_kept():
    drawn = terminal_picture.draw("a \x1b[90m<b> & c\x1b[0m d\n")
    assert '>a <tspan class="dim">&lt;b&gt; &amp; c</tspan> d</text>' in drawn
