"""The addresses of this API, and its blueprint."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from api.toolkit.surface import LenientBlueprint, is_below

EXECUTIONS, PROCESSES = "/api/process-exec", "/api/process"
TOTAL = "x-total-count"  # header: the number of items on all pages
_SLASHES = re.compile("//+")
_OLD_PREFIX = re.compile(r"^/service(?=/process(?:-exec)?(?:/|$))")

blueprint = LenientBlueprint(
    "opendatadsl", __name__, resource="runs", description="Process executions and processes"
)


def owns(path: str) -> bool:
    """Whether this API answers at a path."""
    return is_below(path, EXECUTIONS, PROCESSES)


def rewrite(path: str) -> str:
    """The path with the current prefix and without repeated or trailing slashes."""
    path = _OLD_PREFIX.sub("/api", path, count=1)
    return _SLASHES.sub("/", path).rstrip("/") if owns(path) else path


def documented(parameters: Mapping[str, str]) -> Callable[[Any], Any]:
    """Document the query parameters of a view that parses them itself."""
    documents = [
        {
            "in": "query",
            "name": name,
            "description": description,
            "schema": {"type": "integer" if name in ("_limit", "_skip") else "string"},
        }
        for name, description in parameters.items()
    ]
    return blueprint.doc(parameters=documents)  # type: ignore[no-any-return]
