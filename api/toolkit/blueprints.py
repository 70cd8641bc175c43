"""flask-smorest's blueprint with schemas made once, and with keyset pages."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flask_smorest
from flask import url_for
from marshmallow import RAISE, Schema
from marshmallow.utils import get_value

from api.toolkit import paging
from api.toolkit.fields import PageQuery
from api.toolkit.json_bodies import JsonParser

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Created = tuple[Any, int, dict[str, str]]
REPLAYED = {"Idempotent-Replayed": "true"}  # the header of an answer to a repeated request


def created(
    view: Any, endpoint: str, *, status: int = 201, replayed: bool = False, **path: Any
) -> Created:
    """The answer with what a request made, and its address: that of an endpoint."""
    return view, status, {"Location": url_for(endpoint, **path), **(REPLAYED if replayed else {})}


class Blueprint(flask_smorest.Blueprint):
    """Instantiates request schemas at import: flask-smorest does it on every request, slowly."""

    ARGUMENTS_PARSER = JsonParser()

    def arguments(self, schema: Schema | type[Schema], **options: Any) -> Decorator:
        """As in flask-smorest."""
        instance = schema() if isinstance(schema, type) else schema
        decorator: Decorator = super().arguments(instance, **options)
        return decorator

    def paginated(
        self,
        schema: type[Schema],
        key: str,
        kind: type,
        *,
        bound: Literal["after", "before"] = "after",
        query: type[PageQuery] = PageQuery,
    ) -> Decorator:
        """Answer the rows of a view as one page in the order of their attribute `key`.

        In its query the view gets `limit`, one row more than the page has, and from the second
        page on, as `bound`, the key of the last row before, which is of type `kind`.
        """

        def decorator(view: Callable[..., Sequence[Any]]) -> Callable[..., Any]:
            @functools.wraps(view)
            def page(params: dict[str, Any], **path: Any) -> dict[str, Any]:
                position = paging.decode(params.pop("cursor", None), kind)
                limit = params.pop("limit")
                start = {} if position is None else {bound: position[0]}
                rows = view({**params, **start, "limit": limit + 1}, **path)
                return paging.page(rows, limit, lambda row: (get_value(row, key),))

            answer = self.response(200, paging.page_of(schema))(page)
            return self.arguments(query, location="query", unknown=RAISE)(answer)

        return decorator
