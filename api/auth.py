"""From the key in a request to who asks."""

from flask import g, request

from api.context import parts
from orchestrator import tenants
from orchestrator.errors import Unauthenticated


def authenticate() -> None:
    """Find out who asks, by `Authorization: Bearer` or `X-API-Key`.

    Raises Unauthenticated without a key we know.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    secret = token.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key", "")
    if not secret:
        raise Unauthenticated("send a key as `Authorization: Bearer …` or `X-API-Key: …`")
    with parts().doors.transaction() as session:
        g.caller = tenants.authenticate(session, secret)
