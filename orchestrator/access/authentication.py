"""Authentication: from a key or an OAuth client's token to a tenant, a role and scopes."""

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.access.permissions import DEFAULT_TENANT, READ_SUFFIX, RIGHTS, Verb
from orchestrator.access.signing import read_token
from orchestrator.db import Row, statements
from orchestrator.errors import Forbidden, Unauthenticated
from orchestrator.models import KeyKind, Role

TOKEN_LIFETIME = timedelta(minutes=10)
_RANKS = list(Role)
_MAX_CLIENT_ID = 4096  # characters

_SELECT = f"""
    SELECT id, tenant_id, name, role, kind, "user", scopes, hash,
        CASE WHEN revoked_at IS NOT NULL THEN 'was revoked'
            WHEN expires_at <= now() THEN 'has expired'
            WHEN starts_at > now() THEN 'is not valid yet' END AS refusal,
        coalesce(last_used_at < now() - interval '1 minute', true) AS is_use_due,
        tenant_id = (SELECT id FROM tenants WHERE name = '{DEFAULT_TENANT}') AS is_operators
    FROM keys
"""
_BY_HASH = f"{_SELECT} WHERE hash = :hash"
_BY_CLIENT = f"{_SELECT} WHERE client_id = :client_id"
_BY_ID = f"{_SELECT} WHERE id = :id"
# SKIP LOCKED: no request waits for another one that does the same.
_SET_LAST_USED = """
    UPDATE keys SET last_used_at = now() WHERE id = (
        SELECT id FROM keys
        WHERE id = :id AND coalesce(last_used_at < now() - interval '1 minute', true)
        FOR UPDATE SKIP LOCKED)
"""


@dataclass(frozen=True)
class Principal:
    """An authenticated caller."""

    tenant_id: UUID
    name: str  # of the key
    role: Role
    key_id: UUID
    scopes: Sequence[str] | None = None  # None: all that the role may do
    user: str | None = None
    by_token: bool = False  # a short-lived one of an OAuth client
    is_operators: bool = False  # of the tenant of who operates the deployment
    # Scopes of a contract, each with those of the native API that it includes.
    equivalents: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def submitter(self) -> str:
        """The name under which the caller submits."""
        return self.user or self.name

    def must(self, resource: str, verb: Verb) -> None:
        """Raises Forbidden unless the role and the scopes of the key suffice."""
        role, scope = RIGHTS[resource, verb]
        self._must_reach(scope)
        self.must_be(role)
        if verb == Verb.IDENTIFY and not self.is_operators:
            raise Forbidden(f"this needs a key of the tenant {DEFAULT_TENANT!r}")

    def may(self, resource: str, verb: Verb) -> bool:
        """Whether the role and the scopes of the key suffice."""
        with suppress(Forbidden):
            self.must(resource, verb)
            return True
        return False

    def must_be(self, role: Role) -> None:
        """Raises Forbidden for a lower role."""
        if _RANKS.index(self.role) < _RANKS.index(role):
            raise Forbidden(f"this needs the role {role}; the key {self.name!r} is a {self.role}")

    def _must_reach(self, scope: str) -> None:
        """Raises Forbidden if the key has scopes that do not include this one."""
        if self.scopes is None:
            return
        native = [each for own in self.scopes for each in (own, *self.equivalents.get(own, ()))]
        if not covers(native, scope):
            others = [own for own, each in self.equivalents.items() if covers(each, scope)]
            needed = " or ".join([scope, *others])
            raise Forbidden(f"this needs the scope {needed}, which the key {self.name!r} lacks")


def authenticate(
    session: Session, secret: str, *, signed_with: str, user: str | None = None
) -> Principal:
    """The owner of a key or token; `user` is the user name that came with it, if any.

    Raises Unauthenticated; the reason is given for an existing secret only.
    """
    by_token = _is_token(secret)
    if by_token:
        claims = read_token(signed_with, secret)
        row, scopes = _token_client(session, claims), claims.get("scopes")
        owner = claims.get("user") or row.user  # who gave the client a code, if anyone
    else:
        key = statements.row(session, _BY_HASH, hash=hash_secret(secret))
        row = _valid(key, KeyKind.KEY, "key")
        scopes, owner = row.scopes, row.user
    if user and owner and user != owner:
        raise Unauthenticated("this key belongs to another user")
    if row.is_use_due:
        statements.execute(session, _SET_LAST_USED, id=row.id)
    return Principal(
        tenant_id=row.tenant_id,
        name=row.name,
        role=Role(row.role),
        key_id=row.id,
        scopes=scopes,
        user=owner or user,
        by_token=by_token,
        is_operators=row.is_operators,
    )


def oauth_client(session: Session, client_id: str, client_secret: str | None = None) -> Row:
    """The row of an OAuth client, whose secret is checked if there is one.

    Raises Unauthenticated for an unknown client or a wrong secret.
    """
    row = statements.row(session, _BY_CLIENT, client_id=client_id) if _is_plain(client_id) else None
    if row and client_secret is not None:
        row = row if hmac.compare_digest(row.hash, hash_secret(client_secret)) else None
    return _valid(row, KeyKind.OAUTH_CLIENT, "client")


def is_live(session: Session, caller: Principal) -> bool:
    """Whether the caller's key, or the client of its token, is still valid."""
    row = statements.row(session, _BY_ID, id=caller.key_id)
    return row is not None and not row.refusal


def is_scope(text: str) -> bool:
    """Whether it is a well-formed scope."""
    return re.fullmatch(r"[A-Za-z0-9_.:/-]{1,100}", text) is not None


def covers(scopes: Collection[str], scope: str) -> bool:
    """Whether these scopes include this one: `runs` includes `runs:read`."""
    return scope in scopes or scope.removesuffix(READ_SUFFIX) in scopes


def hash_secret(secret: str) -> str:
    """The stored form of a secret."""
    # A fast hash is enough: 256 random bits cannot be guessed.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _valid(row: Row | None, kind: KeyKind, noun: str) -> Row:
    if row is None:
        raise Unauthenticated(f"this {noun} is unknown")
    if row.kind != kind:
        raise Unauthenticated("this is the secret of an OAuth client; exchange it for a token")
    if row.refusal:
        raise Unauthenticated(f"this {noun} {row.refusal}")
    return row


def _token_client(session: Session, claims: dict[str, Any]) -> Row:
    try:
        client_id = UUID(claims.get("sub"))
    except (TypeError, ValueError):
        raise Unauthenticated("this token is not a client's") from None
    client = statements.row(session, _BY_ID, id=client_id)
    return _valid(client, KeyKind.OAUTH_CLIENT, "token's client")


def _is_token(secret: str) -> bool:
    """Whether it has the form of a JWT, unlike any key."""
    return secret.startswith("eyJ") and secret.count(".") == 2


def _is_plain(text: str) -> bool:
    return text.isascii() and "\x00" not in text and len(text) <= _MAX_CLIENT_ID
