"""ThinkingSigner: only what this server signed, for this namespace, verifies; and it gives the same text back."""

from __future__ import annotations

import base64

import pytest

from a3b.server.thinking_signatures import ThinkingSigner

SECRET = b"0123456789abcdef"
TEXTS = ["", "a", "x" * 31, "y" * 32, "z" * 33, "Denken — 思考 🧠\n" * 50]
FORMS = ["sign", "encrypt"]


def made(signer, form, text, namespace="alice"):
    return getattr(signer, form)(text, namespace)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_signature_verifies_to_the_text_it_was_made_of(form, text):
    signature = made(ThinkingSigner(SECRET), form, text)
    assert ThinkingSigner(SECRET).verify(signature, "alice", text) == text


@pytest.mark.parametrize("form", FORMS)
def test_another_namespace_and_another_secret_cannot_open_it(form):
    signature = made(ThinkingSigner(SECRET), form, "thought")
    assert ThinkingSigner(SECRET).verify(signature, "bob", "thought") is None
    assert ThinkingSigner(SECRET[::-1]).verify(signature, "alice", "thought") is None
    assert ThinkingSigner(SECRET).verify(signature, "alice", "thought") is not None


@pytest.mark.parametrize("form", FORMS)
def test_any_changed_bit_makes_it_invalid(form):
    signer = ThinkingSigner(SECRET)
    raw = base64.urlsafe_b64decode(made(signer, form, "a thought") + "===")
    for at in range(len(raw)):
        for bit in (1, 128):
            forged = raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :]
            assert signer.verify(base64.urlsafe_b64encode(forged).decode(), "alice", "a thought") is None, at


@pytest.mark.parametrize("form", FORMS)
def test_what_is_cut_off_or_longer_or_no_base64_is_invalid(form):
    signer = ThinkingSigner(SECRET)
    signature = made(signer, form, "a thought")
    shorter = [signature[:n] for n in range(len(signature))]
    for wrong in [
        *shorter,
        signature + "A",
        signature + "AAAA",
        "    " + signature,
        signature[:-1] + "!",
        "ÄÖÜ",
        signature[:8] + "\n\n\n\n" + signature[8:],
    ]:
        assert signer.verify(wrong, "alice", "a thought") is None, wrong


def test_a_signature_is_for_one_text_only():
    signer = ThinkingSigner(SECRET)
    assert signer.verify(signer.sign("a thought", "alice"), "alice", "another") is None


def test_namespace_and_text_cannot_be_shifted_into_each_other():
    signer = ThinkingSigner(SECRET)
    assert signer.verify(signer.sign("bc", "a"), "ab", "c") is None


def test_an_encrypted_text_is_hidden_and_differs_each_time():
    signer = ThinkingSigner(SECRET)
    text = "the password is swordfish" * 4
    one, two = (base64.urlsafe_b64decode(made(signer, "encrypt", text) + "===") for _ in range(2))
    assert one[33:] != two[33:] and one[:17] == two[:17]
    assert b"swordfish" not in one
    hidden = one[33:-32]
    assert hidden[:32] != hidden[32:64]  # the keystream goes on, it does not repeat
    assert len({hidden[i] ^ text.encode()[i] for i in range(len(text))}) > 32


def test_nothing_can_be_put_between_the_turn_and_the_signature():
    signer = ThinkingSigner(SECRET)
    signed = base64.urlsafe_b64decode(signer.sign("t", "alice") + "===")
    longer = signed[:17] + b"more" + signed[17:]
    assert signer.verify(base64.urlsafe_b64encode(longer).decode(), "alice", "t") is None


def test_one_form_cannot_be_passed_for_the_other():
    signer = ThinkingSigner(SECRET)
    signed = base64.urlsafe_b64decode(signer.sign("t", "alice") + "===")
    assert signer.verify(base64.urlsafe_b64encode(b"\x02" + signed[1:]).decode(), "alice", "t") is None


def test_each_purpose_has_a_key_of_its_own():
    signer = ThinkingSigner(SECRET)
    assert len({signer._sign, signer._encrypt, signer._authenticate, SECRET}) == 4


@pytest.mark.parametrize("num", [0, 1, 15])
def test_a_secret_that_is_too_short_is_refused(num):
    with pytest.raises(ValueError, match=f"secret: {num} bytes; expected at least 16"):
        ThinkingSigner(SECRET[:num])
