"""Durations as text: `6`, `6s`, `500ms`, `2m`, `1h30m`."""

import re
from datetime import timedelta

import durationpy

_MAX_DURATION = timedelta(days=3650)
_MAX_LENGTH = 400  # characters; a float has up to 310


def parse_duration(text: str | int | float) -> timedelta:
    """Read a duration; a bare number is seconds. Raises ValueError for anything else."""
    written = format(text, "f") if isinstance(text, float) else str(text).strip()
    if len(written) > _MAX_LENGTH:
        raise ValueError(f"{len(written):,} characters are too long for a duration")
    if re.fullmatch(r"\d+(\.\d+)?", written):
        written += "s"
    if isinstance(text, bool) or not re.fullmatch(r"(\d+(\.\d+)?(ms|us|h|m|s))+", written):
        raise ValueError(f"{text!r} is not a duration; write 6, 6s, 500ms, 2m or 1h30m")
    try:
        duration: timedelta = durationpy.from_str(written)
    except (OverflowError, durationpy.DurationError):
        duration = timedelta.max
    if duration > _MAX_DURATION:
        raise ValueError(f"{text!r} is longer than ten years")
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration as `parse_duration` reads it, to the microsecond."""
    if duration < timedelta(seconds=1):
        microseconds = duration.microseconds
        milliseconds = f"{microseconds // 1000}ms" if microseconds else "0"
        return f"{microseconds}us" if microseconds % 1000 else milliseconds
    minutes, rest = divmod(duration, timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest.seconds}.{rest.microseconds:06d}".rstrip("0").rstrip(".")
    parts = {"h": str(hours), "m": str(minutes), "s": seconds}
    return "".join(f"{number}{unit}" for unit, number in parts.items() if number != "0")
