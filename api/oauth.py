"""`/oauth/token`: OAuth 2 client credentials (RFC 6749, 4.4) for short-lived tokens.

One grant is a dozen lines over PyJWT; a framework for all of them, like Authlib, needs more code
to describe clients and requests to it than it saves.
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
from api.toolkit.wire import lines_of
from orchestrator.access import authentication
from orchestrator.errors import Invalid, Unauthenticated
from orchestrator.json_values import RepeatedMember

_log = logging.getLogger(__name__)

blueprint = Blueprint("oauth", __name__, url_prefix="/oauth")

# The scopes of contracts, and those that each includes.
_WIDER = {name: scopes for contract in CONTRACTS for name, scopes in contract.scopes.items()}
_NOT_FOUND = "there is only POST /oauth/token here, with grant_type=client_credentials"
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
    """Issue a token for a client's id and secret, in the body or as Basic."""
    params = _params()
    if params.get("grant_type", "client_credentials") != "client_credentials":
        raise _UnsupportedGrant("the only grant_type here is client_credentials")
    if "grant_type" not in params:
        raise Invalid("send grant_type=client_credentials")
    client_id, client_secret = _client(params)
    with services().unscoped_database.transaction() as session:
        issued = authentication.issue_access_token(
            session,
            client_id,
            client_secret,
            params.get("scope"),
            signed_with=services().secret_key,
            wider=_WIDER,
        )
    body: dict[str, Any] = {
        "access_token": issued.token,
        "token_type": "Bearer",
        "expires_in": authentication.TOKEN_LIFETIME.total_seconds(),
    }
    if issued.scopes is not None:
        body["scope"] = " ".join(issued.scopes)
    return _without_cache(jsonify(body))


def _params() -> Mapping[str, str]:
    """The parameters of the form or JSON body, without empty ones (RFC 6749, 3.2)."""
    request.max_content_length = auth.MAX_OPEN_BODY
    if request.is_json:
        params = request.get_json()
        if not isinstance(params, dict):
            raise Invalid("the body is not a JSON object")
        if isinstance(params, RepeatedMember):
            raise Invalid("send each parameter once")
    else:
        if any(len(values) > 1 for values in request.form.listvalues()):
            raise Invalid("send each parameter once")
        params = request.form.to_dict()
    if any(not isinstance(value, str | None) for value in params.values()):
        raise Invalid("every parameter is a text")
    return {name: value for name, value in params.items() if value}


def _client(params: Mapping[str, str]) -> tuple[str, str]:
    basic = auth.basic_credentials()
    if basic and "client_secret" in params:
        raise Invalid("send the secret as Basic or in the body, not both")
    client_id, client_secret = basic or (params.get("client_id"), params.get("client_secret"))
    if not client_id or not client_secret:
        raise Unauthenticated("send client_id and client_secret in the body, or both as Basic")
    return client_id, client_secret


def owns(path: str) -> bool:
    """Whether a path is one of OAuth's, also for 404."""
    return path.startswith("/oauth/")


def render(problem: Problem) -> Response:
    """An error response of RFC 6749 (5.2)."""
    error = _ERRORS.get(problem.code, "invalid_request")
    detail = "; ".join([problem.detail, *lines_of(problem)])
    detail = _NOT_FOUND if problem.status == 404 else detail
    body = {"error": error, "error_description": detail}
    # The error members of other token endpoints, for their clients.
    body |= {"message": detail, "supportId": str(uuid4())}
    _log.info("token refused", extra={"support_id": body["supportId"], "error": error})
    response = problems.respond(body, 400 if problem.status == 422 else problem.status, problem)
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="orchestrator"'
    return _without_cache(response)


def _without_cache(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["Pragma"] = "no-cache"
    return response


problems.install_problems(blueprint, render)
