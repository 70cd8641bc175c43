"""flask-smorest's blueprint with rights, with schemas made once, and with keyset pages."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flask_smorest
from flask import request, url_for
from marshmallow import RAISE, Schema
from marshmallow.utils import get_value

from api.toolkit import paging
from api.toolkit.auth import READS
from api.toolkit.context import caller
from api.toolkit.fields import PageQuery
from api.toolkit.json_bodies import JsonParser
from orchestrator.access.permissions import READ_SUFFIX, RIGHTS, Verb

Need = tuple[str, Verb]  # a resource, and what is done with it
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Created = tuple[Any, int, dict[str, str]]
EVENT_STREAM = "text/event-stream"
REPLAYED = {"Idempotent-Replayed": "true"}  # the header of an answer to a repeated request


def created(
    view: Any, endpoint: str, *, status: int = 201, replayed: bool = False, **path: Any
) -> Created:
    """The answer with what a request made, and its address: that of an endpoint."""
    return view, status, {"Location": url_for(endpoint, **path), **(REPLAYED if replayed else {})}


class Blueprint(flask_smorest.Blueprint):
    """Instantiates request schemas at import: flask-smorest does it on every request, slowly.

    A route reads or changes, by its method or else the `verb` that it names, its `resources`,
    separated by spaces: by default that of the blueprint, which is its name unless `resource` is
    given. One like `workflows:read` is only read. The caller needs the rights to all of them.
    """

    ARGUMENTS_PARSER = JsonParser()

    def __init__(self, *args: Any, resource: str | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._resource: str = resource or self.name
        self.needs: dict[tuple[str, str], list[Need]] = {}  # by endpoint and method

    def add_url_rule(
        self, *args: Any, resources: str = "", verb: Verb | None = None, **options: Any
    ) -> None:
        """As in flask-smorest. Raises KeyError for a resource that has no such right."""
        super().add_url_rule(*args, **options)
        for method in {*READS, *options.get("methods", ())}:
            by_method = verb or (Verb.READ if method in READS else Verb.CHANGE)
            self.needs[self._endpoints[-1], method] = [
                _need(each, by_method) for each in (resources or self._resource).split()
            ]

    def _store_endpoint_docs(self, endpoint: str, *args: Any, **options: Any) -> None:
        """Name the operations after the endpoint: `runs_submit`, for generated clients."""
        super()._store_endpoint_docs(endpoint, *args, **options)
        for name, operation in self._docs[endpoint].items():
            if name != "parameters":
                manual = {"operationId": f"{self.name}_{endpoint}"}
                operation["manual_doc"] = manual | operation.get("manual_doc", {})

    def check_rights(self) -> None:
        """Raises Forbidden unless the caller may do what the request does."""
        endpoint = (request.endpoint or "").rpartition(".")[2]
        for need in self.needs[endpoint, request.method]:
            caller().must(*need)

    def arguments(self, schema: Schema | type[Schema], **options: Any) -> Decorator:
        """As in flask-smorest."""
        instance = schema() if isinstance(schema, type) else schema
        decorator: Decorator = super().arguments(instance, **options)
        return decorator

    def streamed(self, *, of_run: bool = True) -> Decorator:
        """Document that a view may stream its events, those of a run until it has ended."""

        def decorator(view: Callable[..., Any]) -> Callable[..., Any]:
            stream: Decorator = self.alt_response(
                200,
                schema={"type": "string"},
                content_type=EVENT_STREAM,
                description="events; those of a stream are unnamed",
                success=True,
            )
            end = "the run has ended and its last event was seen"
            documented: Decorator = self.alt_response(204, description=end)
            return documented(stream(view)) if of_run else stream(view)

        return decorator

    def binary(self) -> Decorator:
        """Document that a view may answer with the bytes of a file, or with a range of them."""
        schema = {"type": "string", "format": "binary"}

        def decorator(view: Callable[..., Any]) -> Callable[..., Any]:
            for status in (200, 206):
                options: dict[str, Any] = {"content_type": "*/*", "success": True}
                view = self.alt_response(status, schema=schema, **options)(view)
            return view

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


def _need(resource: str, verb: Verb) -> Need:
    name = resource.removesuffix(READ_SUFFIX)
    need = name, verb if name == resource else Verb.READ
    RIGHTS[need]  # a route without one fails at import, not open
    return need
