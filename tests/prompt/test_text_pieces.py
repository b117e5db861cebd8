"""Long texts are cut into pieces with the tokens of the whole, in bounded memory; what cannot be cut, or is too long,
is refused."""

from __future__ import annotations

import json
import random

import pytest

from a3b.engine.engine import nano_directory
from a3b.errors import ContextError, TokenizerError, UsageError
from a3b.prompt import segments, text_pieces
from a3b.prompt.segments import Control, Text, well_formed
from a3b.prompt.text_pieces import Cutter
from a3b.prompt.tokenizer import Tokenizer

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

SPEC = json.loads((nano_directory() / "tokenizer.json").read_text())
TOKENIZER = Tokenizer(SPEC)
PARTS = [
    "a",
    "B",
    "'s",
    "'",
    "z",
    "1",
    "23",
    " ",
    "  ",
    "\n",
    "\r",
    "\r\n",
    "\t",
    "!",
    "!!",
    "=",
    "好",
    "。",
    "，",
    "e\u0301",
    "\u0301",
    "é",
    "\u00a0",
    "\u2028",
    "😀",
    "・",
    "\u3099",
    "か",
    "\x1c",
    "\x85",
    "ſ",
    "한",
    "\u1100\u1161",
    "न",
    "ि",
    "_",
    ".",
]


def spec_with(regex: str) -> dict:
    spec = json.loads(json.dumps(SPEC))
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex
    return spec


@pytest.mark.parametrize("regex", sorted(text_pieces.KNOWN))
def test_pieces_have_the_tokens_of_the_whole(regex):
    spec, rng = spec_with(regex), random.Random(1)
    tokenizer, cutter, num = Tokenizer(spec), Cutter(spec, piece=4), 0
    for _ in range(2000):
        text = "".join(rng.choice(PARTS) for _ in range(rng.randint(5, 40)))
        pieces = list(cutter.pieces(text))
        assert "".join(pieces) == text
        assert [token for piece in pieces for token in tokenizer.encode_text(piece)] == tokenizer.encode_text(text), (
            ascii(text)
        )
        num += len(pieces)
    assert num > 6000


def test_a_text_of_many_pieces_is_encoded_whole():
    text = "A word, 12 more\nand 好的。" * 20_000
    assert TOKENIZER.decode(TOKENIZER.encode_text(text)) == text


@pytest.mark.parametrize("char", [" ", "a", "!", "\n", "😀"])
def test_what_would_break_the_library_is_refused_before_it_gets_there(char):
    with pytest.raises(UsageError, match="1,048,576 characters without a space"):
        TOKENIZER.encode_text(char * 11_000_000)


def test_a_text_beyond_the_limit_is_refused():
    with pytest.raises(UsageError, match="expected at most 16,777,216"):
        TOKENIZER.encode_text("a " * 9_000_000)


def test_a_text_beyond_the_limit_is_a_prompt_that_does_not_fit_where_that_is_certain():
    with pytest.raises(ContextError, match="at least"):
        TOKENIZER.encode([Text("a " * 9_000_000)], most=1000)


def test_no_text_is_cut_for_an_unknown_expression():
    assert list(Cutter(spec_with(r"\S+|\s+"), piece=4).pieces("one two three four")) == ["one two three four"]


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_encoded(monkeypatch):
    monkeypatch.setattr(Tokenizer, "_encoded", lambda self, piece: pytest.fail("it was encoded"))
    with pytest.raises(ContextError, match=r"at least \d+ tokens > 100,"):
        TOKENIZER.encode([Control("<|im_start|>"), Text("word " * 100_000)], most=100)


def test_encoding_ends_when_a_prompt_is_too_long(monkeypatch):
    sizes, encoded = [], Tokenizer._encoded
    monkeypatch.setattr(Tokenizer, "_encoded", lambda self, piece: sizes.append(len(piece)) or encoded(self, piece))
    with pytest.raises(ContextError, match=r"tokens > 20000,"):
        TOKENIZER.encode([Text("x y z " * 50_000)], most=20_000)
    assert sum(sizes) <= 2 * text_pieces.PIECE


def test_a_panic_of_the_library_is_an_error_of_ours(monkeypatch):
    class Panic(BaseException):
        pass

    class Broken:
        def encode(self, *args, **kwargs):
            raise Panic("called `Result::unwrap()` on an `Err` value")

        encode_batch_fast = encode

    tokenizer = Tokenizer(SPEC)
    monkeypatch.setattr(tokenizer, "_encoder", Broken())
    for text in ("some text", "some text " * 1000):
        with pytest.raises(TokenizerError, match="the tokenizer failed on it"):
            tokenizer.encode_text(text)


def test_halves_of_pairs_are_mended_as_the_codec_does_it(monkeypatch):
    monkeypatch.setattr(segments, "_CHUNK", 3)
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(
            rng.choice(["\ud800", "\udbff", "\udc00", "\udfff", "a", "好", "😀", "\0"])
            for _ in range(rng.randint(1, 12))
        )
        assert well_formed(text) == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), ascii(
            text
        )
