"""The addresses of this API, and its blueprint."""

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

from flask import request
from marshmallow import Schema
from webargs.core import missing

from api.contracts.virtuousai import errors
from api.toolkit.surface import LenientBlueprint, LenientParser, is_below
from orchestrator.errors import Invalid, Mistake

AUTOMATIONS = "/api/v1/automations"
RUNS = "/api/v1/automation-runs"
EVENTS = "/api/v1/events"
TOKENS = "/api/v1/access-tokens"
_ID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}(\1[0-9a-f]{4}){2}\1[0-9a-f]{12}", re.IGNORECASE)

View = Callable[..., Any]


class _Parser(LenientParser):
    """Refuses a body of `null`: only one that is not there is optional."""

    def load_json(self, req: Any, schema: Schema) -> Any:
        body = super().load_json(req, schema)
        if body is missing and request.get_data(cache=True).strip():
            raise Invalid("the body is null", Mistake("/", errors.Message.MISSING))
        return body


class _Blueprint(LenientBlueprint):
    ARGUMENTS_PARSER = _Parser()


blueprint = _Blueprint(
    "virtuousai",
    __name__,
    resource="runs",
    description="Automation runs, automations, events and access tokens",
)


def owns(path: str) -> bool:
    """Whether this API answers at a path."""
    return is_below(path, AUTOMATIONS, RUNS, EVENTS, TOKENS)


def answers(schema: type[Schema], *statuses: int) -> Callable[[View], View]:
    """Answer with 200 and the result of a view, and document its errors as `refuses` does."""
    return lambda view: blueprint.response(200, schema)(refuses(*statuses)(view))


def refuses(*statuses: int) -> Callable[[View], View]:
    """Document the errors of a view: 401, 422 and these."""

    def documented(view: View) -> View:
        for status in (401, 422, *statuses):
            schema = errors.Unprocessable if status == 422 else errors.Refused
            view = blueprint.alt_response(status, schema=schema)(view)
        return view

    return documented


def path_id(text: str, name: str) -> UUID:
    """The UUID in a path. Raises Invalid."""
    if _ID.fullmatch(text) is None:
        raise Invalid("this is no id", Mistake(f"/path/{name}", errors.Message.UUID_PARSING))
    return UUID(text)
