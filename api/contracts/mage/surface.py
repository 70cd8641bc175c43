"""The paths of the API, and its blueprint."""

from typing import Any

from flask import request

from api.contracts.mage.responses import Refusal
from api.toolkit.auth import body_member
from api.toolkit.surface import LenientBlueprint, is_below

NAME = "mage"
TRIGGERS = frozenset({f"{NAME}.trigger_by_path", f"{NAME}.trigger_by_bearer"})  # need no key
SESSIONS = f"{NAME}.make_session"
OPEN = frozenset({SESSIONS, f"{NAME}.list_statuses"})  # need none either
_AREAS = (
    "/api/pipeline_schedules", "/api/pipeline_runs", "/api/pipelines", "/api/block_runs",
    "/api/sessions", "/api/statuses",
)  # fmt: skip


class _Blueprint(LenientBlueprint):
    """Documents that a refusal has the code 200, too."""

    @staticmethod
    def _make_doc_response_schema(schema: Any) -> Any:
        return {"anyOf": [schema, Refusal]}


blueprint = _Blueprint(
    NAME, __name__, resource="runs", description="Pipeline runs, triggers and block runs"
)


def owns(path: str) -> bool:
    """Whether the path is one of this API."""
    return is_below(path, *_AREAS)


def speaks() -> bool:
    """Whether the request has a credential where only this API's clients send one."""
    return (
        "api_key" in request.args
        or "OAUTH-TOKEN" in request.headers
        or "oauth_token" in request.cookies
        or body_member("api_key") is not None
    )
