"""Signatures that let thinking travel through a client and come back provably unchanged. Enter at `ThinkingSigner`.

A signature binds a thinking text to a namespace (whose it is) and to a turn (the answer it was part of). Both forms are
base64url without padding, start with a byte that says which form it is, and hold the id of the turn (16 bytes):

* signed     1 · turn · HMAC-SHA256. The text travels next to it, readable: Anthropic's `signature`.
* encrypted  2 · turn · nonce (16 bytes) · ciphertext · HMAC-SHA256. The text is inside: `encrypted_content` of a
  reasoning item.

The cipher needs only the standard library: the text is XORed with a keystream of HMAC-SHA256(key, nonce · counter),
and a MAC covers the whole message (encrypt-then-MAC). HMAC-SHA256 is a pseudorandom function, so this is counter mode;
nonces are random and never reused. The keys for signing, encrypting and authenticating are derived from the server's
secret, each under its own name. The length of a text is not hidden. Anyone who has the secret can make signatures;
losing the secret invalidates all earlier ones."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from hashlib import blake2b

SIGNED, ENCRYPTED = 1, 2
TURN_BYTES, NONCE_BYTES, MAC_BYTES, BLOCK_BYTES = 16, 16, 32, 32


class ThinkingSigner:
    """Signs, encrypts and verifies thinking under one secret of at least 16 bytes."""

    def __init__(self, secret: bytes):
        if len(secret) < 16:
            raise ValueError(f"secret: {len(secret)} bytes; expected at least 16")
        self._sign, self._encrypt, self._authenticate = (
            _mac(secret, name) for name in (b"sign", b"encrypt", b"authenticate")
        )

    def sign(self, text: str, namespace: str) -> str:
        """The signed form, for a text that travels next to it."""
        turn = _turn_of(text)
        return _encode(bytes([SIGNED]) + turn + self._signature(turn, text, namespace))

    def encrypt(self, text: str, namespace: str) -> str:
        """The encrypted form, which holds the text. Encrypting a text twice gives two different results."""
        nonce = os.urandom(NONCE_BYTES)
        head = bytes([ENCRYPTED]) + _turn_of(text) + nonce
        message = head + self._crypt(nonce, _bytes(text))
        return _encode(message + self._tag(message, namespace))

    def verify(self, signature: str, namespace: str, text: str = "") -> str | None:
        """The text that the signature proves; None if it is forged, truncated, or of another namespace, secret or text.

        text: the text that came with a signed form. The encrypted form holds its own; `text` is ignored."""
        message = _decode(signature)
        if len(message) < 1 + TURN_BYTES + MAC_BYTES:
            return None
        body, tag = message[:-MAC_BYTES], message[-MAC_BYTES:]
        turn = body[1 : 1 + TURN_BYTES]
        if body[0] == SIGNED:
            is_ours = len(body) == 1 + TURN_BYTES and hmac.compare_digest(tag, self._signature(turn, text, namespace))
            return text if is_ours else None
        if body[0] != ENCRYPTED or not hmac.compare_digest(tag, self._tag(body, namespace)):
            return None
        nonce, hidden = body[1 + TURN_BYTES :][:NONCE_BYTES], body[1 + TURN_BYTES + NONCE_BYTES :]
        return self._crypt(nonce, hidden).decode("utf-8", "replace")

    def _signature(self, turn: bytes, text: str, namespace: str) -> bytes:
        return _mac(self._sign, turn + _mac(self._sign, _bytes(namespace)) + _bytes(text))

    def _tag(self, message: bytes, namespace: str) -> bytes:
        return _mac(self._authenticate, _mac(self._authenticate, _bytes(namespace)) + message)

    def _crypt(self, nonce: bytes, data: bytes) -> bytes:
        """`data` XORed with the keystream of `nonce`; applying it twice gives `data` back."""
        num = -(-len(data) // BLOCK_BYTES)
        stream = b"".join(_mac(self._encrypt, nonce + i.to_bytes(8, "big")) for i in range(num))[: len(data)]
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def _turn_of(text: str) -> bytes:
    """The id of the turn whose thinking is `text`."""
    return blake2b(_bytes(text), digest_size=TURN_BYTES).digest()


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _encode(message: bytes) -> str:
    return base64.urlsafe_b64encode(message).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """The bytes; b"" for anything that `_encode` would not have written exactly like this."""
    try:
        message = base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except (binascii.Error, ValueError):
        return b""
    return message if _encode(message) == text.rstrip("=") else b""
