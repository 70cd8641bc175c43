"""The shell commands in the pages of `docs`."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def commands(page: str, heading: str) -> list[list[str]]:
    """The lines of each block of shell under a heading of a page."""
    _, _, section = (DOCS / page).read_text().partition(f"\n## {heading}\n")
    section = section.partition("\n## ")[0]
    return [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)]
