"""Lists as CSV, for a request that prefers `text/csv` to JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, request

_TYPES = ["application/json", "text/csv"]


def is_wanted() -> bool:
    """Whether the client accepts CSV, and JSON less."""
    return request.accept_mimetypes.best_match(_TYPES) == _TYPES[1]


def as_csv(items: Sequence[Any], names: Sequence[str]) -> Response:
    """A line of the names, and one for each item; lists and objects in a field are JSON."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for item in items:
        values = item if isinstance(item, Mapping) else {names[0]: item}
        writer.writerow([_text(values.get(name)) for name in names])
    return Response(text.getvalue(), content_type="text/csv; charset=utf-8")


def _text(value: Any) -> Any:
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value
