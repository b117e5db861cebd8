"""Signatures that let thinking travel through a client and come back provably unchanged. Enter at `Seals`.

A seal binds a thinking text to a namespace (whose it is) and to a turn (which answer it was part of). Both forms are
base64url without padding, begin with a byte that says which they are, and hold the turn's id (16 bytes):

* signed  1 · turn · HMAC-SHA256. The text travels beside it, readable: Anthropic's `signature`.
* sealed  2 · turn · nonce (16 bytes) · text · HMAC-SHA256. The text is inside, encrypted: `encrypted_content` of a
  reasoning item.

The cipher needs only the standard library: a keystream of HMAC-SHA256(key, nonce · counter), added to the text by XOR,
and a MAC over all that was sent (encrypt, then authenticate). HMAC-SHA256 is a pseudorandom function, which makes this
counter mode; a nonce is random and never reused. Keys for signing, encrypting and authenticating are derived from the
server's secret, each by its own name. The length of a text is not hidden. Whoever has the secret can make seals;
whoever loses it makes all old ones invalid."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from dataclasses import dataclass
from hashlib import blake2b

SIGNED, SEALED = 1, 2
TURN_BYTES, NONCE_BYTES, MAC_BYTES, BLOCK_BYTES = 16, 16, 32, 32


@dataclass(frozen=True)
class Opened:
    """What a valid seal vouches for."""

    text: str
    turn: str  # id of the turn, hexadecimal


def turn_of(text: str) -> str:
    """The id of a turn whose thinking is `text`: 32 hexadecimal digits."""
    return blake2b(_bytes(text), digest_size=TURN_BYTES).hexdigest()


class Seals:
    """Makes and reads seals under one secret."""

    def __init__(self, secret: bytes):
        if len(secret) < 16:
            raise ValueError(f"secret: {len(secret)} bytes; expected at least 16")
        self._sign, self._encrypt, self._authenticate = (
            _mac(secret, name) for name in (b"sign", b"encrypt", b"authenticate")
        )

    def sign(self, text: str, namespace: str, turn: str | None = None) -> str:
        """The signed form; `turn` is the id of `turn_of`'s form, by default made of the text."""
        name = bytes.fromhex(turn or turn_of(text))
        return _encode(bytes([SIGNED]) + name + self._signature(name, text, namespace))

    def seal(self, text: str, namespace: str, turn: str | None = None) -> str:
        """The sealed form, which holds the text; two seals of one text differ."""
        nonce = os.urandom(NONCE_BYTES)
        head = bytes([SEALED]) + bytes.fromhex(turn or turn_of(text)) + nonce
        message = head + self._crypt(nonce, _bytes(text))
        return _encode(message + self._tag(message, namespace))

    def open(self, seal: str, namespace: str, text: str = "") -> Opened | None:
        """What the seal vouches for, or None: forged, cut off, of another namespace or secret, or of another text.

        text: what came beside a signed form. A sealed form brings its own, and `text` is not looked at."""
        message = _decode(seal)
        if len(message) < 1 + TURN_BYTES + MAC_BYTES:
            return None
        body, tag = message[:-MAC_BYTES], message[-MAC_BYTES:]
        turn = body[1 : 1 + TURN_BYTES]
        if body[0] == SIGNED:
            is_ours = len(body) == 1 + TURN_BYTES and hmac.compare_digest(tag, self._signature(turn, text, namespace))
            return Opened(text, turn.hex()) if is_ours else None
        if body[0] != SEALED or not hmac.compare_digest(tag, self._tag(body, namespace)):
            return None
        nonce, hidden = body[1 + TURN_BYTES :][:NONCE_BYTES], body[1 + TURN_BYTES + NONCE_BYTES :]
        return Opened(self._crypt(nonce, hidden).decode("utf-8", "replace"), turn.hex())

    def _signature(self, turn: bytes, text: str, namespace: str) -> bytes:
        return _mac(self._sign, turn + _mac(self._sign, _bytes(namespace)) + _bytes(text))

    def _tag(self, message: bytes, namespace: str) -> bytes:
        return _mac(self._authenticate, _mac(self._authenticate, _bytes(namespace)) + message)

    def _crypt(self, nonce: bytes, data: bytes) -> bytes:
        """`data` and the keystream of `nonce`, XORed; the same again gives `data` back."""
        num = -(-len(data) // BLOCK_BYTES)
        stream = b"".join(_mac(self._encrypt, nonce + i.to_bytes(8, "big")) for i in range(num))[: len(data)]
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _encode(message: bytes) -> str:
    return base64.urlsafe_b64encode(message).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """The bytes, b"" for what is not exactly what `_encode` writes."""
    try:
        message = base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except (binascii.Error, ValueError):
        return b""
    return message if _encode(message) == text.rstrip("=") else b""
