"""`/oauth/token`: OAuth 2 client credentials (RFC 6749, 4.4) for short-lived tokens.

One grant needs a dozen lines over PyJWT; a framework for all of them, like Authlib, would want
more code of ours to describe clients and requests to it than it saves.
"""

import logging
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, jsonify, request

from api.contracts import CONTRACTS
from api.toolkit import auth, problems
from api.toolkit.context import services
from api.toolkit.problems import Problem
from orchestrator.access import authentication
from orchestrator.errors import Invalid, Unauthenticated

_log = logging.getLogger(__name__)

blueprint = Blueprint("oauth", __name__, url_prefix="/oauth")

_WIDER = {scope: reached for contract in CONTRACTS for scope, reached in contract.scopes.items()}
_NOTHING_ELSE = "there is only POST /oauth/token here, with grant_type=client_credentials"
_ERRORS = {
    "unauthenticated": "invalid_client",
    "invalid_scope": "invalid_scope",
    "unsupported_grant_type": "unsupported_grant_type",
    "unavailable": "temporarily_unavailable",
    "internal": "server_error",
}


class _UnsupportedGrant(Invalid):
    code = "unsupported_grant_type"


@blueprint.post("/token")
def token() -> Response:
    """Exchange a client's id and secret, in the body or as Basic, for a token."""
    asked = _asked()
    if asked.get("grant_type", "client_credentials") != "client_credentials":
        raise _UnsupportedGrant("the only grant_type here is client_credentials")
    if "grant_type" not in asked:
        raise Invalid("send grant_type=client_credentials")
    client_id, client_secret = _client(asked)
    with services().doors.transaction() as session:
        granted = authentication.issue_access_token(
            session,
            client_id,
            client_secret,
            asked.get("scope"),
            signed_with=services().secret_key,
            wider=_WIDER,
        )
    return _granted(granted)


def _asked() -> Mapping[str, str]:
    """What the form or the JSON body says; a parameter without a value is as good as none."""
    if request.is_json:
        body = request.get_json(silent=True)
        if not isinstance(body, dict):
            raise Invalid("the body is not a JSON object")
        given = {name: value for name, value in body.items() if value is not None}
    else:
        if any(len(values) > 1 for values in request.form.listvalues()):
            raise Invalid("send each parameter once")
        given = request.form.to_dict()
    if any(not isinstance(value, str) for value in given.values()):
        raise Invalid("every parameter is a text")
    return {name: value for name, value in given.items() if value}


def _client(asked: Mapping[str, str]) -> tuple[str, str]:
    basic = auth.basic_credentials()
    if basic and "client_secret" in asked:
        raise Invalid("send the secret as Basic or in the body, not both")
    client_id, client_secret = basic or (asked.get("client_id"), asked.get("client_secret"))
    if not client_id or not client_secret:
        raise Unauthenticated("send client_id and client_secret in the body, or both as Basic")
    return client_id, client_secret


def _granted(granted: authentication.AccessToken) -> Response:
    told: dict[str, Any] = {
        "access_token": granted.token,
        "token_type": "Bearer",
        "expires_in": authentication.TOKEN_LIFETIME.total_seconds(),
    }
    if granted.scopes is not None:
        told["scope"] = " ".join(granted.scopes)
    return _unstored(jsonify(told))


def owns(path: str) -> bool:
    """Whether it answers at this path."""
    return path.startswith("/oauth/")


def render(problem: Problem) -> Response:
    """The error as RFC 6749 (5.2) writes one."""
    error = _ERRORS.get(problem.code, "invalid_request")
    detail = _NOTHING_ELSE if problem.status == 404 else problem.detail
    told = {"error": error, "error_description": detail}
    # Clients of other token endpoints look for these instead.
    told |= {"message": detail, "supportId": str(uuid4())}
    _log.info("refused a token", extra={"support_id": told["supportId"], "error": error})
    reply = jsonify(told)
    reply.status_code = problem.status
    if problem.status == 422:
        reply.status_code = 400
    reply.headers.extend(problem.headers or {})
    if problem.status == 401:
        reply.headers["WWW-Authenticate"] = 'Basic realm="orchestrator"'
    return _unstored(reply)


def _unstored(reply: Response) -> Response:
    reply.headers["Cache-Control"] = "no-store"
    reply.headers["Pragma"] = "no-cache"
    return reply


problems.install_problems(blueprint, render)
