"""Who asks: from a key, or a token of an OAuth client, to a tenant, a role and scopes."""

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.orm import Session

from orchestrator.access.signing import issue_token, read_token
from orchestrator.db import statements
from orchestrator.errors import Forbidden, InvalidScope, Unauthenticated
from orchestrator.models import KeyKind, Role

TOKEN_LIFETIME = timedelta(minutes=10)
_RANKS = list(Role)
_LONGEST = 4096  # characters; nothing longer was ever given out
_READ = ":read"

_LOOK = """
    SELECT id, tenant_id, name, role, kind, "user", scopes, hash,
        CASE WHEN revoked_at IS NOT NULL THEN 'was revoked'
            WHEN expires_at <= now() THEN 'has expired'
            WHEN starts_at > now() THEN 'is not valid yet' END AS refusal,
        coalesce(last_used_at < now() - interval '1 minute', true) AS unseen
    FROM keys
"""
_BY_HASH = f"{_LOOK} WHERE hash = :hash"
_BY_CLIENT = f"{_LOOK} WHERE client_id = :client_id"
_BY_ID = f"{_LOOK} WHERE id = :id"
# Nobody waits for it: whoever finds the row locked leaves it to the one who holds it.
_SEEN = """
    UPDATE keys SET last_used_at = now() WHERE id = (
        SELECT id FROM keys
        WHERE id = :id AND coalesce(last_used_at < now() - interval '1 minute', true)
        FOR UPDATE SKIP LOCKED)
"""


@dataclass(frozen=True)
class Principal:
    """Who asks, and for whom."""

    tenant_id: UUID
    name: str  # of the key
    role: Role
    key_id: UUID
    scopes: Sequence[str] | None = None  # None: all that the role may do
    user: str | None = None
    by_token: bool = False  # a short-lived one of an OAuth client

    @property
    def submitter(self) -> str:
        """Who submitted what this caller submits."""
        return self.user or self.name

    def must_be(self, role: Role) -> None:
        """Raises Forbidden when the key's role does not reach this far."""
        if _RANKS.index(self.role) < _RANKS.index(role):
            raise Forbidden(f"this needs the role {role}; the key {self.name!r} is a {self.role}")

    def may(self, role: Role, resource: str) -> bool:
        """Whether the key may change what is there of a resource, as this role may."""
        try:
            self.must_be(role)
            self.must_reach(resource, reads=False)
        except Forbidden:
            return False
        return True

    def must_reach(self, resource: str, *, reads: bool) -> None:
        """Raises Forbidden when the key's scopes leave the resource out."""
        needed = f"{resource}{_READ}" if reads else resource
        if self.scopes is not None and not covers(self.scopes, needed):
            raise Forbidden(f"this needs the scope {needed}, which the key {self.name!r} lacks")


@dataclass(frozen=True)
class AccessToken:
    """A short-lived token, and what it may do."""

    token: str
    scopes: Sequence[str] | None


def authenticate(
    session: Session, secret: str, *, signed_with: str, user: str | None = None
) -> Principal:
    """Say whose key or token this is; `user` is the name it was sent with, if any.

    Raises Unauthenticated. Only who holds a right secret learns what is wrong with it.
    """
    by_token = _is_token(secret)
    if by_token:
        claims = read_token(signed_with, secret)
        found, scopes = _client_of(session, claims), claims.get("scopes")
    else:
        found = _live(_one(session, _BY_HASH, hash=hash_secret(secret)), KeyKind.KEY, "key")
        scopes = found.scopes
    if user and found.user and user != found.user:
        raise Unauthenticated("this key belongs to another user")
    if found.unseen:
        statements.execute(session, _SEEN, id=found.id)
    return Principal(
        tenant_id=found.tenant_id,
        name=found.name,
        role=Role(found.role),
        key_id=found.id,
        scopes=scopes,
        user=found.user or user,
        by_token=by_token,
    )


def issue_access_token(
    session: Session,
    client_id: str,
    client_secret: str,
    scope: str | None,
    *,
    signed_with: str,
    wider: Mapping[str, Collection[str]] | None = None,
) -> AccessToken:
    """A token for an OAuth client, which its client's revocation ends at once.

    Raises Unauthenticated for an unknown client or a wrong secret, InvalidScope for a scope that
    the client does not have. No scope asked for is all that the client has. `wider` has the scopes
    that reach others, and which.
    """
    found = _one(session, _BY_CLIENT, client_id=client_id) if _is_plain(client_id) else None
    if found and not hmac.compare_digest(found.hash, hash_secret(client_secret)):
        found = None
    client = _live(found, KeyKind.OAUTH_CLIENT, "client")
    scopes = client.scopes if scope is None else list(dict.fromkeys(scope.split(" ")))
    if scope is not None:
        _check_asked(scopes, client.scopes, wider or {})
    claims = {"sub": str(client.id), "scopes": scopes}
    return AccessToken(issue_token(signed_with, claims, TOKEN_LIFETIME), scopes)


def is_live(session: Session, caller: Principal) -> bool:
    """Whether the caller's key, or the client of its token, is good still."""
    found = _one(session, _BY_ID, id=caller.key_id)
    return found is not None and not found.refusal


def is_scope(text: str) -> bool:
    """Whether it can be the name of a scope."""
    return re.fullmatch(r"[A-Za-z0-9_.:/-]{1,100}", text) is not None


def covers(scopes: Sequence[str], wanted: str) -> bool:
    """Whether these scopes reach this one: `runs` is also `runs:read`."""
    return wanted in scopes or wanted.removesuffix(_READ) in scopes


def hash_secret(secret: str) -> str:
    """What is kept of a secret."""
    # A plain hash is enough: 256 random bits leave nothing to guess, so nothing to slow down.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _one(session: Session, sql: str, **values: Any) -> Row[Any] | None:
    return statements.row(session, sql, **values)


def _live(found: Row[Any] | None, kind: KeyKind, word: str) -> Row[Any]:
    if found is None:
        raise Unauthenticated(f"this {word} is unknown")
    if found.kind != kind:
        raise Unauthenticated("this is the secret of an OAuth client; exchange it for a token")
    if found.refusal:
        raise Unauthenticated(f"this {word} {found.refusal}")
    return found


def _client_of(session: Session, claims: dict[str, Any]) -> Row[Any]:
    try:
        client_id = UUID(claims.get("sub"))
    except (TypeError, ValueError):
        raise Unauthenticated("this token is not a client's") from None
    found = _one(session, _BY_ID, id=client_id)
    return _live(found, KeyKind.OAUTH_CLIENT, "token's client")


def _check_asked(
    asked: Sequence[str], has: Sequence[str] | None, wider: Mapping[str, Collection[str]]
) -> None:
    reached = [*(has or ()), *(inner for scope in has or () for inner in wider.get(scope, ()))]
    for scope in asked:
        if not is_scope(scope):
            raise InvalidScope("a scope is a word; between two there is one blank")
        if has is not None and not covers(reached, scope):
            told = f"it has {' '.join(has) or 'none'}"
            raise InvalidScope(f"the client does not have the scope {scope}; {told}")


def _is_token(secret: str) -> bool:
    """Whether it looks like a JWT, which no key does."""
    return secret.startswith("eyJ") and secret.count(".") == 2


def _is_plain(text: str) -> bool:
    return text.isascii() and "\x00" not in text and len(text) <= _LONGEST
