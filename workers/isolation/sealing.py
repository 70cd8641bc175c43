"""Seals what only the processes of this worker may read, for a file that others can.

The parent makes the key before it forks, so its children have the same one; it is in no file.
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence

_KEY = os.urandom(32)
_NONCE = 16  # bytes


def seal(values: Sequence[str]) -> str:
    """The sealed values; the same ones look different each time."""
    nonce = os.urandom(_NONCE)
    return base64.b64encode(nonce + _combine(nonce, json.dumps(values).encode())).decode()


def unseal(text: str) -> list[str]:
    """The values that a process of this worker has sealed."""
    data = base64.b64decode(text)
    values: list[str] = json.loads(_combine(data[:_NONCE], data[_NONCE:]))
    return values


def _combine(nonce: bytes, data: bytes) -> bytes:
    """The data XOR a key stream that no other nonce has."""
    stream = hashlib.shake_256(_KEY + nonce).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))
