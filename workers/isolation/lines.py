"""Assembles the lines of the streams of an attempt from pieces of bytes."""

from collections.abc import Iterator, Mapping

from orchestrator.sdk.masking import NO_MASK, Mask

_MAX_LINE = 16_000  # bytes without a newline until they are a line


class LineAssembler:
    """Splits UTF-8 into lines, separately for each level; invalid bytes become U+FFFD."""

    def __init__(self, incomplete: Mapping[int, bytes] | None = None) -> None:
        """Continue with the `incomplete` lines of another one."""
        self.incomplete = dict(incomplete or {})  # by level
        self.mask: Mask = NO_MASK  # of values that may not be cut

    def add(self, level: int, data: bytes) -> list[str]:
        """The lines that are complete with these bytes."""
        *lines, rest = (self.incomplete.pop(level, b"") + data).split(b"\n")
        while len(rest) > _MAX_LINE + self.mask.longest:
            # A value that begins before the cut is complete, and hidden.
            rest = self.mask.data(rest)
            if len(rest) <= _MAX_LINE:
                break
            end = _character_end(rest)
            lines.append(rest[:end])
            rest = rest[end:]
        if rest:
            self.incomplete[level] = rest
        return [_decode(line.removesuffix(b"\r")) for line in lines]

    def end(self) -> Iterator[tuple[int, str]]:
        """The incomplete lines and their levels, when nothing follows."""
        incomplete, self.incomplete = self.incomplete, {}
        for level, line in incomplete.items():
            yield level, _decode(line)


def _character_end(line: bytes) -> int:
    """Where the last character begins that may not fit: bytes 10xxxxxx continue one."""
    end = _MAX_LINE
    while line[end] & 0xC0 == 0x80 and end > _MAX_LINE - 3:
        end -= 1
    return end


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "replace")
