"""The known word that a mistyped one may have meant."""

import difflib
from collections.abc import Collection

from orchestrator.work_limits import take_step

_MAX_WORD, _MAX_KNOWN = 100, 1000  # each comparison takes up to the square of the word's length


def closest(word: str, known: Collection[str]) -> str | None:
    """The most similar known word; None too for a long word, and among very many known ones."""
    if len(word) > _MAX_WORD or len(known) > _MAX_KNOWN:
        return None
    take_step()
    near = difflib.get_close_matches(word, [each for each in known if len(each) <= _MAX_WORD], n=1)
    return near[0] if near else None
