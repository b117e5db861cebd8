"""Seals: only what this server sealed, for this namespace, opens; and it opens to the same text."""

from __future__ import annotations

import base64

import pytest

from a3b.server.thinking_signatures import Opened, Seals, turn_of

SECRET = b"0123456789abcdef"
TEXTS = ["", "a", "x" * 31, "y" * 32, "z" * 33, "Denken — 思考 🧠\n" * 50]
FORMS = ["sign", "seal"]


def made(seals, form, text, namespace="alice", turn=None):
    return getattr(seals, form)(text, namespace, turn)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_seal_opens_to_the_text_and_the_turn_it_was_made_of(form, text):
    seal = made(Seals(SECRET), form, text)
    assert Seals(SECRET).open(seal, "alice", text) == Opened(text, turn_of(text))


@pytest.mark.parametrize("form", FORMS)
def test_a_seal_carries_the_turn_it_is_given(form):
    turn = "00112233445566778899aabbccddeeff"
    assert Seals(SECRET).open(made(Seals(SECRET), form, "t", turn=turn), "alice", "t").turn == turn


@pytest.mark.parametrize("form", FORMS)
def test_another_namespace_and_another_secret_cannot_open_it(form):
    seal = made(Seals(SECRET), form, "thought")
    assert Seals(SECRET).open(seal, "bob", "thought") is None
    assert Seals(SECRET[::-1]).open(seal, "alice", "thought") is None
    assert Seals(SECRET).open(seal, "alice", "thought") is not None


@pytest.mark.parametrize("form", FORMS)
def test_any_changed_bit_makes_it_invalid(form):
    seals = Seals(SECRET)
    raw = base64.urlsafe_b64decode(made(seals, form, "a thought") + "===")
    for at in range(len(raw)):
        for bit in (1, 128):
            forged = raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :]
            assert seals.open(base64.urlsafe_b64encode(forged).decode(), "alice", "a thought") is None, at


@pytest.mark.parametrize("form", FORMS)
def test_what_is_cut_off_or_longer_or_no_base64_is_invalid(form):
    seals = Seals(SECRET)
    seal = made(seals, form, "a thought")
    shorter = [seal[:n] for n in range(len(seal))]
    for wrong in [
        *shorter,
        seal + "A",
        seal + "AAAA",
        "    " + seal,
        seal[:-1] + "!",
        "ÄÖÜ",
        seal[:8] + "\n\n\n\n" + seal[8:],
    ]:
        assert seals.open(wrong, "alice", "a thought") is None, wrong


def test_a_signature_is_for_one_text_only():
    seals = Seals(SECRET)
    assert seals.open(seals.sign("a thought", "alice"), "alice", "another") is None


def test_namespace_and_text_cannot_be_shifted_into_each_other():
    seals = Seals(SECRET)
    turn = turn_of("x")
    assert seals.open(seals.sign("bc", "a", turn), "ab", "c") is None


def test_a_sealed_text_is_hidden_and_sealed_differently_each_time():
    seals = Seals(SECRET)
    text = "the password is swordfish" * 4
    one, two = (base64.urlsafe_b64decode(made(seals, "seal", text) + "===") for _ in range(2))
    assert one[33:] != two[33:] and one[:17] == two[:17]
    assert b"swordfish" not in one
    hidden = one[33:-32]
    assert hidden[:32] != hidden[32:64]  # the keystream goes on, it does not repeat
    assert len({hidden[i] ^ text.encode()[i] for i in range(len(text))}) > 32


def test_nothing_can_be_put_between_the_turn_and_the_signature():
    seals = Seals(SECRET)
    signed = base64.urlsafe_b64decode(seals.sign("t", "alice") + "===")
    longer = signed[:17] + b"more" + signed[17:]
    assert seals.open(base64.urlsafe_b64encode(longer).decode(), "alice", "t") is None


def test_one_form_cannot_be_passed_for_the_other():
    seals = Seals(SECRET)
    signed = base64.urlsafe_b64decode(seals.sign("t", "alice") + "===")
    assert seals.open(base64.urlsafe_b64encode(b"\x02" + signed[1:]).decode(), "alice", "t") is None


def test_each_purpose_has_a_key_of_its_own():
    seals = Seals(SECRET)
    assert len({seals._sign, seals._encrypt, seals._authenticate, SECRET}) == 4


@pytest.mark.parametrize("num", [0, 1, 15])
def test_a_secret_that_is_too_short_is_refused(num):
    with pytest.raises(ValueError, match=f"secret: {num} bytes; expected at least 16"):
        Seals(SECRET[:num])
