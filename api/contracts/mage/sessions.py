"""`/api/sessions` and `/api/statuses`, with which published clients begin."""

import functools
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import request
from sqlalchemy.orm import Session

from api.contracts.mage import requests, responses
from api.contracts.mage.mapping import SessionView
from api.contracts.mage.surface import blueprint
from api.toolkit.auth import MAX_OPEN_BODY
from api.toolkit.context import services
from orchestrator.access import authentication, grants, keys
from orchestrator.errors import NotFound, Unauthenticated
from orchestrator.monitoring.workers import count_schedulers

_LIFETIME = timedelta(days=30)  # of the session of a key that does not expire before


def _small_body(view: Callable[..., Any]) -> Callable[..., Any]:
    """The view with a bound for its body, which anybody may send."""

    @functools.wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Any:
        request.max_content_length = MAX_OPEN_BODY
        return view(*args, **kwargs)

    return limited


@blueprint.route("/api/sessions", methods=["POST"])
@_small_body
@blueprint.doc(security=[])
@blueprint.arguments(requests.SessionBody)
@blueprint.response(200, responses.OneSession)
def make_session(body: dict[str, Any]) -> dict[str, Any]:
    """Sign in

    `password` is a key, with the key's user or any name in `email` or `username`, or else the
    secret of the OAuth client in `username`. The `token` authenticates further requests: a key
    itself, and a client's for ten minutes.
    """
    change = body["session"]
    name, password = change.get("email") or change.get("username"), change.get("password")
    if not name or not password:
        raise NotFound("Email/username and password are required.")
    with services().unscoped_database.transaction() as session:
        try:
            view = _sign_in(session, name, password)
        except Unauthenticated:
            raise NotFound("Email/username and/or password invalid.") from None
    return {"session": view, "metadata": None}


@blueprint.route("/api/statuses")
@blueprint.doc(security=[])
@blueprint.response(200, responses.Statuses)
def list_statuses() -> dict[str, Any]:
    """Get the status of the server, without a key"""
    with services().unscoped_database.transaction() as session:
        runs = count_schedulers(session) > 0
    status = {"scheduler_status": "running" if runs else "stopped"}
    return {"statuses": [status], "metadata": {"count": 1, "next": False}}


def _sign_in(session: Session, name: str, password: str) -> SessionView:
    """The session of a key, or of an OAuth client. Raises Unauthenticated."""
    signed_with, now = services().secret_key, datetime.now(UTC)
    with suppress(Unauthenticated):
        caller = authentication.authenticate(session, password, signed_with=signed_with, user=name)
        expires_at = keys.get_key(session, caller.tenant_id, caller.key_id).expires_at
        return SessionView(caller, password, min(expires_at or now + _LIFETIME, now + _LIFETIME))
    client = authentication.oauth_client(session, name, password)
    issued = grants.Issuer(session, signed_with, wider={}).by_credentials(client, None)
    caller = authentication.authenticate(session, issued.token, signed_with=signed_with)
    return SessionView(caller, issued.token, now + authentication.TOKEN_LIFETIME)
