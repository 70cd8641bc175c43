"""`/oauth/token` and `/oauth/authorize`: OAuth 2 (RFC 6749) for short-lived tokens.

Three grants are a hundred lines over PyJWT; a framework for all of them, like Authlib, needs more
code to describe clients and requests to it than it saves.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from flask import Blueprint, Response, jsonify, request
from werkzeug.datastructures import MultiDict

from api.contracts import CONTRACTS
from api.toolkit import auth, problems
from api.toolkit.auth import Accepts
from api.toolkit.context import caller, services
from api.toolkit.problems import Problem
from api.toolkit.wire import lines_of
from orchestrator.access import authentication
from orchestrator.access.grants import Grant, Issuer
from orchestrator.errors import Invalid, Unauthenticated
from orchestrator.json_values import RepeatedMember

_log = logging.getLogger(__name__)

blueprint = Blueprint("oauth", __name__, url_prefix="/oauth")

# The scopes of contracts, and those that each includes.
_WIDER = {name: scopes for contract in CONTRACTS for name, scopes in contract.scopes.items()}
_NOT_FOUND = "there are only GET /oauth/authorize and POST /oauth/token here"
_GRANTS = {  # the parameter that each needs
    "client_credentials": "",
    "authorization_code": "code",
    "refresh_token": "refresh_token",
}
_ADDRESS = re.compile(r"https?://[^/#\s][!-\"$-~]*")
_KEY_ONLY = Accepts()  # as Bearer
_ERRORS = {
    "unauthenticated": "invalid_client",
    "invalid_scope": "invalid_scope",
    "invalid_grant": "invalid_grant",
    "unsupported_grant_type": "unsupported_grant_type",
    "unsupported_response_type": "unsupported_response_type",
    "forbidden": "access_denied",
    "unavailable": "temporarily_unavailable",
    "internal": "server_error",
}


class _UnsupportedGrant(Invalid):
    code = "unsupported_grant_type"


class _UnsupportedResponse(Invalid):
    code = "unsupported_response_type"


@blueprint.get("/authorize")
def authorize() -> Response:
    """Give a client a code, with which it acts in the caller's name, and redirect to it.

    The caller sends a key as Bearer: a page of another site cannot make a browser do so. There are
    no passwords here, and so no page to log in.
    """
    auth.authenticate(_KEY_ONLY)
    params = _checked_once(request.args)
    redirect_uri = params.get("redirect_uri", "")
    if params.get("response_type") != "code":
        raise _UnsupportedResponse("send response_type=code")
    if not _ADDRESS.fullmatch(redirect_uri):
        raise Invalid("send redirect_uri: an absolute http or https address without a #")
    with _issuer() as issuer:
        scope = params.get("scope")
        code = issuer.code(params.get("client_id", ""), caller(), scope, redirect_uri)
    query = urlencode({"code": code, **({"state": params["state"]} if "state" in params else {})})
    joint = "&" if "?" in redirect_uri else "?"
    return _without_cache(
        Response(status=302, headers={"Location": f"{redirect_uri}{joint}{query}"})
    )


@blueprint.post("/token")
def token() -> Response:
    """Issue a token for a client's id and secret, in the body or as Basic, by one of its grants."""
    params = _params()
    grant_type, scope = params.get("grant_type"), params.get("scope")
    if grant_type is None:
        raise Invalid(f"send grant_type, one of {', '.join(_GRANTS)}")
    if grant_type not in _GRANTS:
        raise _UnsupportedGrant(f"there are the grant types {', '.join(_GRANTS)}")
    client_id, client_secret = _client(params)
    member = _GRANTS[grant_type]
    if member and member not in params:
        raise Invalid(f"send {member} for grant_type={grant_type}")
    with _issuer() as issuer:
        client = authentication.oauth_client(issuer.session, client_id, client_secret)
        if grant_type == "authorization_code":
            issued = issuer.by_code(client, params["code"], params.get("redirect_uri", ""))
        elif grant_type == "refresh_token":
            issued = issuer.by_refresh(client, params["refresh_token"], scope)
        else:
            issued = issuer.by_credentials(client, scope)
    return _without_cache(jsonify(_body(issued)))


@contextmanager
def _issuer() -> Iterator[Issuer]:
    with services().unscoped_database.transaction() as session:
        yield Issuer(session, services().secret_key, _WIDER)


def _body(issued: Grant) -> dict[str, Any]:
    body: dict[str, Any] = {
        "access_token": issued.token,
        "token_type": "Bearer",
        "expires_in": authentication.TOKEN_LIFETIME.total_seconds(),
    }
    if issued.refresh_token is not None:
        body["refresh_token"] = issued.refresh_token
    if issued.scopes is not None:
        body["scope"] = " ".join(issued.scopes)
    return body


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
        params = _checked_once(request.form)
    if any(not isinstance(value, str | None) for value in params.values()):
        raise Invalid("every parameter is a text")
    return {name: value for name, value in params.items() if value}


def _checked_once(params: MultiDict[str, str]) -> dict[str, str]:
    if any(len(values) > 1 for values in params.listvalues()):
        raise Invalid("send each parameter once")
    return params.to_dict()


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
