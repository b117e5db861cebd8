"""SHA-256 whose running state can be stored: what hashlib computes, continued by another process.

The compiled part is imported when it is used. Enter at `Sha256`."""

from __future__ import annotations

import numpy as np

from a3b.errors import UsageError

STATE_BYTES = 104
_AT = 32  # of the number of bytes in a state


class Sha256:
    """The checksum of bytes that come in order."""

    def __init__(self, state: bytes = b""):
        """state: what `state` gave. Raises ValueError for one of another length, UsageError without compiled code."""
        try:
            from a3b.kernels import _native
        except ImportError as error:
            raise UsageError(f"the compiled kernels are missing ({error}); install a3b again") from None
        if len(state) not in (0, STATE_BYTES):
            raise ValueError(f"a state of {len(state)} bytes; expected {STATE_BYTES}")
        if not hasattr(_native, "Sha256"):
            raise UsageError("the compiled kernels are older than this a3b; install it again")
        self._native = _native.Sha256(state)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._native.update(np.frombuffer(data, np.uint8))

    def hexdigest(self) -> str:
        return self._native.digest().hex()

    @property
    def state(self) -> bytes:
        return self._native.state()

    @property
    def num_bytes(self) -> int:
        """Bytes so far."""
        return int.from_bytes(self.state[_AT : _AT + 8], "little")
