"""What every contract is: where it lies, who may ask, how a body is read, how it says no."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Response, request
from marshmallow import EXCLUDE, Schema
from webargs.core import missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from api.toolkit import blueprints, request_guards
from api.toolkit.auth import READS, Accepts
from api.toolkit.context import caller
from api.toolkit.problems import Problem
from orchestrator.errors import Invalid
from orchestrator.json_values import find_unstorable

# What clients send JSON as, for want of a better word: nothing, what curl says, what a script
# forgot to take back. Whatever is none of these is something else than JSON.
_JSON_ENOUGH = (
    "",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "text/plain",
)


def needs_scope(resource: str) -> Callable[[], None]:
    """A check that the key's scopes reach a resource, to read or to change it."""
    return lambda: caller().must_reach(resource, reads=request.method in READS)


def is_below(path: str, *roots: str) -> bool:
    """Whether a path is one of these or lies below one."""
    return any(path == root or path.startswith(f"{root}/") for root in roots)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One published API: words and shapes over the same services as every other one."""

    name: str  # of its setting, its document and its blueprint
    title: str
    version: str
    owns: Callable[[str], bool]  # whether it answers at this path, also with 404 and 401
    accepts: Accepts
    render: Callable[[Problem], Response]
    problem: type[Schema]  # what `render` writes, for the document
    blueprint: blueprints.Blueprint
    open: frozenset[str] = frozenset()  # endpoints that need no key
    check: Callable[[], None] = field(default=needs_scope("runs"))  # Raises Forbidden
    # Its own scopes that reach others, and which: who has one may ask for a token with those.
    scopes: Mapping[str, Collection[str]] = field(default_factory=dict)
    rewrite: Callable[[str], str] | None = None  # the path as our routes spell it
    finish: Callable[[Response], Response] = field(default=lambda answer: answer)


class LenientBlueprint(blueprints.Blueprint):
    """Reads a body whatever its type is called, and passes over members that nobody knows."""

    class ARGUMENTS_PARSER(FlaskParser):  # noqa: N801 - flask-smorest's own name
        DEFAULT_UNKNOWN_BY_LOCATION = dict.fromkeys(
            ("json", "query", "headers", "form", "files"), EXCLUDE
        )

        def load_json(self, req: Any, schema: Schema) -> Any:
            body = read_json()
            return missing if body is None else body

    ARGUMENTS_PARSER = ARGUMENTS_PARSER()  # type: ignore[assignment,misc]


def read_json(*, any_type: bool = False) -> Any:
    """The JSON of the body; None for an empty one, whatever its type is said to be.

    Raises 400 for what is not JSON, 415 for what says that it is something else (with `any_type`
    nothing does), 413, and Invalid for what cannot be stored.
    """
    request_guards.check_size()
    raw = request.get_data(cache=True)
    if not raw.strip():
        return None
    if not any_type and not request.is_json and request.mimetype not in _JSON_ENOUGH:
        raise UnsupportedMediaType("send JSON, with the header `Content-Type: application/json`")
    try:
        body = request.get_json(force=True)
    except BadRequest:
        raise request_guards.not_json() from None
    if mistake := find_unstorable(body):
        raise Invalid("the body cannot be stored", mistake)
    return body
