"""Authentication of a request by the key or token in it."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import g, request

from api.capacity import gate
from api.capacity.shares import Party
from api.toolkit.context import services
from orchestrator.access import authentication
from orchestrator.errors import Unauthenticated

READS = ("GET", "HEAD", "OPTIONS")
MAX_OPEN_BODY = 64 * 1024  # bytes of a body that is read before its sender is known
_MAX_USER = 200  # characters
# Query parameters in which clients of other APIs send a key.
_KEY_PARAMETERS = ("key", "api_key", "apikey", "x-api-key", "token", "access_token")


@dataclass(frozen=True, kw_only=True)
class Accepts:
    """Places in which an API accepts a key. The first valid key counts."""

    bearer: bool = True  # Authorization: Bearer <key or token>
    basic: bool = False  # Authorization: Basic base64(user:key)
    headers: tuple[str, ...] = ()
    user_header: str | None = None  # the user, as in Basic
    cookie: str | None = None
    cookie_changes: bool = False  # whether the cookie authorizes same-origin writes, too (CSRF)
    query: str | None = None
    body: str | None = None  # a member of the JSON body


NATIVE = Accepts(basic=True, headers=("X-API-Key",), cookie="orchestrator_key")


def security_document(accepts: Accepts) -> dict[str, Any]:
    """The security schemes of an API, for its OpenAPI document."""
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
    """Set the caller from a key or token in one of the accepted places.

    Raises Unauthenticated for the first wrong key, or with the places if there is none.
    """
    errors = []
    for secret, user in _credentials(accepts):
        try:
            with services().unscoped_database.transaction() as session:
                g.caller = authentication.authenticate(
                    session, secret, user=user, signed_with=services().secret_key
                )
        except Unauthenticated as error:
            errors.append(error)
        else:
            gate.identify(Party(g.caller.tenant_id, g.caller.key_id))
            return
    raise errors[0] if errors else Unauthenticated(_missing_key(accepts))


def basic_credentials() -> tuple[str, str] | None:
    """User and password of `Authorization: Basic`, None without it or in another form."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    user, colon, password = pair.partition(":")
    return (user, password) if colon else None


def _credentials(accepts: Accepts) -> Iterator[tuple[str, str | None]]:
    """The keys and tokens of the request with their users, in order of precedence."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if accepts.bearer and scheme.lower() == "bearer" and token.strip():
        yield token.strip(), None
    pair = basic_credentials() if accepts.basic else None
    if pair and pair[1]:
        yield pair[1], _user(pair[0])
    user = _user(request.headers.get(accepts.user_header or "", ""))
    secrets = [request.headers.get(name) for name in accepts.headers]
    secrets.append(_cookie(accepts))
    secrets.append(request.args.get(accepts.query) if accepts.query else None)
    yield from ((secret, user) for secret in secrets if secret)
    # Last and only if it is needed: whoever has no key could send much, or slowly.
    if accepts.body and (secret := body_member(accepts.body)):
        yield secret, user


def _cookie(accepts: Accepts) -> str | None:
    if accepts.cookie is None:
        return None
    is_safe = request.method in READS or (accepts.cookie_changes and _is_same_origin())
    return request.cookies.get(accepts.cookie) if is_safe else None


def _is_same_origin() -> bool:
    """Whether the request comes from a page of this origin, by the headers of the browser."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("none", "same-origin")
    # Browsers send Sec-Fetch-Site only over HTTPS and to localhost.
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def body_member(name: str) -> str | None:
    """A text of the JSON body, of any content type, if the body is small."""
    if not 0 < (request.content_length or 0) <= MAX_OPEN_BODY:
        return None
    body = request.get_json(force=True, silent=True)
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else None


def _user(name: str) -> str | None:
    """The name, None for one that cannot be stored."""
    return name if name.isprintable() and 0 < len(name) <= _MAX_USER else None


def _missing_key(accepts: Accepts) -> str:
    """The message for a request without a key."""
    places = [f"`{name}: …`" for name in accepts.headers]
    if accepts.bearer:
        places.insert(0, "`Authorization: Bearer …`")
    if accepts.basic:
        places.append("`Authorization: Basic …` with base64 of user:key")
    places += [f"the query as `{accepts.query}`"] if accepts.query else []
    hint = f"send a key as {' or '.join(places)}"
    if not accepts.query and any(name.lower() in _KEY_PARAMETERS for name in request.args):
        return f"a key is not taken from the address, where logs keep it: {hint}"
    if accepts.cookie and accepts.cookie in request.cookies:
        return f"a cookie only reads, because other sites' pages can make a browser send it: {hint}"
    if accepts.body:
        return f"{hint}, or in a body of at most {MAX_OPEN_BODY:,} bytes as `{accepts.body}`"
    return f"{hint}; the body is not looked at for one"
