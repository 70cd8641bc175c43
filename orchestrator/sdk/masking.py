"""Replaces secret values in what a step leaves, in the forms in which they are usually written."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from orchestrator.spec.hidden_params import HIDDEN

MIN_SECRET = 4  # characters; shorter values would hide parts of ordinary words
_WIDTHS = (64, 76)  # characters
_PERCENT = re.compile("%[0-9A-F]{2}")


class Mask:
    """Some values, and what replaces them in texts, bytes and JSON. False without any."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values = tuple(dict.fromkeys(each for each in values if len(each) >= MIN_SECRET))
        # The longest first: a form may begin like another one.
        forms = sorted({each for value in self.values for each in _forms(value)}, key=len)[::-1]
        encoded = sorted((each.encode(errors="replace") for each in forms), key=len)[::-1]
        self.longest = len(encoded[0]) if encoded else 0  # bytes
        self._in_text = re.compile("|".join(map(re.escape, forms)))
        self.pattern = re.compile(b"|".join(map(re.escape, encoded)))  # in bytes

    def __bool__(self) -> bool:
        return bool(self.values)

    def text(self, text: str) -> str:
        """The text without the values."""
        return self._in_text.sub(HIDDEN, text) if self.values else text

    def data(self, data: bytes) -> bytes:
        """The bytes without the values."""
        return self.pattern.sub(HIDDEN.encode(), data) if self.values else data

    def document(self, value: Any) -> Any:
        """The JSON value without the values, which may be names of members and numbers, too."""
        if isinstance(value, dict):
            return {self.text(name): self.document(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self.document(each) for each in value]
        if isinstance(value, str):
            return self.text(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return HIDDEN if is_number and self.text(written := str(value)) != written else value


class MaskedStream:
    """Masks bytes that come in pieces: a value may begin in one and end in the next."""

    def __init__(self, mask: Mask) -> None:
        self._mask, self._rest = mask, b""

    def add(self, data: bytes) -> bytes:
        """The masked bytes that no further piece can change."""
        if not self._mask:
            return data
        data, masked, position = self._rest + data, [], 0
        certain = max(0, len(data) - self._mask.longest + 1)
        for match in self._mask.pattern.finditer(data):
            if match.start() >= certain:
                break
            masked += [data[position : match.start()], HIDDEN.encode()]
            position = match.end()
        end = max(position, certain)
        self._rest = data[end:]
        return b"".join([*masked, data[position:end]])

    def end(self) -> bytes:
        """The rest, when nothing follows."""
        rest, self._rest = self._rest, b""
        return self._mask.data(rest)


NO_MASK = Mask()


def masked_chunks(mask: Mask, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a file without the values."""
    stream = MaskedStream(mask)
    yield from map(stream.add, chunks)
    yield stream.end()


def _forms(value: str) -> Iterator[str]:
    """How a value is written: as it is, by its lines, escaped, and encoded."""
    for each in (value, *(line.strip() for line in value.splitlines())):
        if len(each) >= MIN_SECRET:
            yield from (each, html.escape(each), html.escape(each, quote=False))
            yield from _escaped(each)
            yield from _encoded(each.encode(errors="replace"))


def _escaped(value: str) -> Iterator[str]:
    for ascii_only in (True, False):
        yield (escaped := json.dumps(value, ensure_ascii=ascii_only)[1:-1])
        yield escaped.replace("/", r"\/")  # as some write it
        yield json.dumps(escaped, ensure_ascii=ascii_only)[1:-1]  # JSON in JSON
    yield from (repr(value)[1:-1], ascii(value)[1:-1], repr(value.encode(errors="replace"))[2:-1])
    for escaped in (quote(value, errors="replace"), quote(value, "", errors="replace"),
                    quote_plus(value, errors="replace")):  # fmt: skip
        yield escaped
        yield quote(escaped, "")  # in a URL in a URL
        yield _PERCENT.sub(lambda match: match[0].lower(), escaped)


def _encoded(value: bytes) -> Iterator[str]:
    """Base64, also of a longer text that has the value in it (as `user:password`), and hex."""
    yield from (value.hex(), value.hex().upper())
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(value).decode()
        yield from (whole, whole.rstrip("="))
        for width in _WIDTHS:  # of the lines into which tools break it
            lines = (whole[at : at + width] for at in range(0, len(whole), width))
            yield from (line for line in lines if len(line) >= MIN_SECRET)
        for before in range(3):
            inside = encode(b"\x00" * before + value).decode().rstrip("=")
            # Digits at both ends depend on the bytes beside the value.
            inside = inside[(0, 2, 3)[before] : len(inside) - bool((before + len(value)) % 3)]
            if len(inside) >= MIN_SECRET:
                yield inside
