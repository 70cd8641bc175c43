"""Reads the files that a command names."""

from pathlib import Path

import click

MAX_LENGTH = 16 * 1024**2  # bytes of a file


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises ClickException for anything else."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LENGTH + 1)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_LENGTH:
        raise click.ClickException(f"{path} is longer than {MAX_LENGTH:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise click.ClickException(
            f"{path}, line {line}: this is not text in UTF-8; save the file as UTF-8"
        ) from None
