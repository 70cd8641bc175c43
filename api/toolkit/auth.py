"""From the key in a request to who asks."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flask import g, request

from api.toolkit.context import caller, services
from orchestrator.access import authentication
from orchestrator.errors import Unauthenticated

READS = ("GET", "HEAD", "OPTIONS")
_LONGEST_USER = 200  # characters
_LIKELY = ("key", "api_key", "apikey", "x-api-key", "token", "access_token")  # of a query


@dataclass(frozen=True, kw_only=True)
class Accepts:
    """Where a surface takes a key from. The first of these that is right counts."""

    bearer: bool = True  # Authorization: Bearer <key or token>
    basic: bool = False  # Authorization: Basic base64(user:key)
    headers: tuple[str, ...] = ()
    user_header: str | None = None  # the key's user, as Basic would name it
    cookie: str | None = None
    cookie_changes: bool = False  # a browser sends it also for what another site's page does
    query: str | None = None
    body: str | None = None  # a member of the JSON body


NATIVE = Accepts(basic=True, headers=("X-API-Key",), cookie="orchestrator_key")


class _Sent(NamedTuple):
    secret: str
    user: str | None = None


def security_document(accepts: Accepts) -> dict[str, Any]:
    """What OpenAPI says about where a key is taken from."""
    token = {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {}}}
    schemes: dict[str, dict[str, Any]] = {"oauth": {"type": "oauth2", "flows": token}}
    if accepts.bearer:
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
    if accepts.basic:
        schemes["basic"] = {"type": "http", "scheme": "basic", "description": "user:key"}
    places = [("header", name) for name in accepts.headers]
    places += [("cookie", accepts.cookie)] if accepts.cookie else []
    places += [("query", accepts.query)] if accepts.query else []
    for place, name in places:
        schemes[f"{place}-{name}"] = {"type": "apiKey", "in": place, "name": name}
    if accepts.cookie and not accepts.cookie_changes:
        schemes[f"cookie-{accepts.cookie}"]["description"] = "only reads"
    return {
        "components": {"securitySchemes": schemes},
        "security": [{name: []} for name in schemes],
    }


def authenticate(accepts: Accepts = NATIVE) -> None:
    """Find out who asks, by a key or token in one of the places that this surface takes.

    Raises Unauthenticated, with what is wrong with the first one, or where one belongs.
    """
    refusals = []
    sent_keys = list(_sent(accepts))  # all read before a connection is taken: a body may be slow
    with services().doors.transaction() as session:
        for sent in sent_keys:
            try:
                g.caller = authentication.authenticate(
                    session, sent.secret, user=sent.user, signed_with=services().secret_key
                )
            except Unauthenticated as refusal:
                refusals.append(refusal)
            else:
                return
    raise refusals[0] if refusals else Unauthenticated(_told(accepts))


def check_scope() -> None:
    """Raises Forbidden when the key's scopes leave out what is asked for.

    The resource of a scope is the name of the blueprint.
    """
    if request.blueprint is not None:
        caller().must_reach(request.blueprint, reads=request.method in READS)


def basic_credentials() -> tuple[str, str] | None:
    """User and password of `Authorization: Basic`, None without it or in another form."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, found, password = (
            base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        )
    except (binascii.Error, ValueError):
        return None
    return (user, password) if found else None


def _sent(accepts: Accepts) -> Iterator[_Sent]:
    """What was sent as a key, in the order in which it counts."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if accepts.bearer and scheme.lower() == "bearer" and token.strip():
        yield _Sent(token.strip())
    pair = basic_credentials() if accepts.basic else None
    if pair and pair[1]:
        yield _Sent(pair[1], _user(pair[0]))
    user = _user(request.headers.get(accepts.user_header or "", ""))
    others = [request.headers.get(name) for name in accepts.headers]
    others.append(_cookie(accepts))
    others.append(request.args.get(accepts.query) if accepts.query else None)
    others.append(_member(accepts.body) if accepts.body else None)
    yield from (_Sent(each, user) for each in others if each)


def _cookie(accepts: Accepts) -> str | None:
    if accepts.cookie is None:
        return None
    may = request.method in READS or (accepts.cookie_changes and _is_of_our_site())
    return request.cookies.get(accepts.cookie) if may else None


def _is_of_our_site() -> bool:
    """Whether it is not another site's page that makes a browser ask, as the browser tells."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("none", "same-origin")
    # A browser does not say so over plain HTTP.
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def _member(name: str) -> str | None:
    body = request.get_json(force=True, silent=True)  # whatever its type is called
    found = body.get(name) if isinstance(body, dict) else None
    return found if isinstance(found, str) else None


def _user(name: str) -> str | None:
    """A name that can be kept, or none."""
    return name if name.isprintable() and 0 < len(name) <= _LONGEST_USER else None


def _told(accepts: Accepts) -> str:
    places = [f"`{name}: …`" for name in accepts.headers]
    if accepts.bearer:
        places.insert(0, "`Authorization: Bearer …`")
    if accepts.basic:
        places.append("`Authorization: Basic …` with base64 of user:key")
    places += [f"the query as `{accepts.query}`"] if accepts.query else []
    told = f"send a key as {' or '.join(places)}"
    if not accepts.query and any(name.lower() in _LIKELY for name in request.args):
        return f"a key is not taken from the address, where logs keep it: {told}"
    if accepts.cookie and accepts.cookie in request.cookies:
        return f"a cookie only reads, because other sites' pages can make a browser send it: {told}"
    return told if accepts.body else f"{told}; the body is not looked at for one"
