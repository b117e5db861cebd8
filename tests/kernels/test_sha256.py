"""SHA-256 that can be stored and continued, against hashlib."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from a3b.kernels import _native
from a3b.kernels.sha256 import Sha256

NOISE = hashlib.shake_256(b"noise").digest(1000)


def test_every_length_gives_the_checksum_of_hashlib():
    for num in range(len(NOISE)):
        total = Sha256()
        total.update(NOISE[:num])
        assert total.hexdigest() == hashlib.sha256(NOISE[:num]).hexdigest(), num


def test_the_plain_code_gives_the_same_as_the_machine_s_instructions():
    for num in range(300):
        found = _native.sha256_plain(np.frombuffer(NOISE[:num], np.uint8))
        assert found == hashlib.sha256(NOISE[:num]).digest(), num


@pytest.mark.parametrize("step", [1, 7, 63, 64, 65, 130])
def test_bytes_may_come_in_any_pieces_with_the_state_stored_between_them(step):
    state = b""
    for at in range(0, len(NOISE), step):
        total = Sha256(state)
        assert total.num_bytes == at
        total.update(NOISE[at : at + step])
        state = total.state
    assert Sha256(state).hexdigest() == hashlib.sha256(NOISE).hexdigest()


def test_a_digest_in_between_changes_nothing():
    total = Sha256()
    total.update(NOISE[:100])
    total.hexdigest()
    total.update(NOISE[100:])
    assert total.hexdigest() == hashlib.sha256(NOISE).hexdigest()


@pytest.mark.slow
def test_a_length_of_more_than_32_bits_of_bits_is_counted():
    data, total, other = bytes(1 << 24), Sha256(), hashlib.sha256()
    for _ in range(33):
        total.update(data)
        other.update(data)
    assert total.hexdigest() == other.hexdigest()


@pytest.mark.parametrize("num", [1, 103, 105])
def test_a_state_of_another_length_is_refused(num):
    with pytest.raises(ValueError, match="expected 104"):
        Sha256(bytes(num))
