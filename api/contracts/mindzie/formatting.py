"""Format durations, sizes, shares and rates for people."""

import math

_UNKNOWN = "unknown"
_SPANS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_SIZES = ("B", "KB", "MB", "GB", "TB", "PB")


def duration(seconds: float) -> str:
    """`8 minutes 32 seconds`, `1 hour 5 minutes`: the two largest units."""
    left, parts = max(0, int(seconds)), []
    for unit, size in _SPANS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}" if count == 1 else f"{count} {unit}s")
    return " ".join(parts[:2]) or "0 seconds"


def average(seconds: float | None) -> str:
    """`4.2 minutes`: one unit, to a tenth, and no less than that; `unknown` for None."""
    if seconds is None:
        return _UNKNOWN
    unit, size = next((each for each in _SPANS if round(seconds / each[1], 1) >= 1), _SPANS[-1])
    count = f"{max(seconds / size, 0.1 if seconds else 0):.1f}".removesuffix(".0")
    return f"{count} {unit}" if count == "1" else f"{count} {unit}s"


def between(seconds: float | None) -> str:
    """`45-60 minutes`: an estimate around a typical duration; `unknown` for None."""
    if seconds is None:
        return _UNKNOWN
    maximum = seconds * 1.2
    unit, size = next((each for each in _SPANS if maximum >= 2 * each[1]), _SPANS[-1])
    step = 5 if maximum / size > 10 else 1
    bottom = math.floor(seconds * 0.9 / size / step) * step
    top = max(math.ceil(maximum / size / step) * step, bottom + step)
    return f"{bottom}-{top} {unit}s"


def size(count: float) -> str:
    """`2.1 GB`; a KB has 1024 bytes."""
    place = 0
    while count >= 1024 and place < len(_SIZES) - 1:
        count, place = count / 1024, place + 1
    return f"{count:.1f}".removesuffix(".0") + f" {_SIZES[place]}"


def rate(records: int, seconds: float) -> str:
    """`1250 records/second`."""
    return f"{round(records / seconds) if seconds > 0 else 0} records/second"
