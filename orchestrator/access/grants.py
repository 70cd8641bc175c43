"""OAuth's grants of an OAuth client: its own credentials, a code that a user gave it, a refresh.

Codes and refresh tokens are signed and not stored; that a code is used once is. Revoking the client
ends all of them.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy.orm import Session

from orchestrator.access import signing
from orchestrator.access.authentication import (
    TOKEN_LIFETIME,
    Principal,
    covers,
    is_scope,
    oauth_client,
)
from orchestrator.db import Row, statements
from orchestrator.errors import Forbidden, InvalidGrant, InvalidScope, Unauthenticated
from orchestrator.models import Role

CODE_LIFETIME = timedelta(minutes=1)
REFRESH_LIFETIME = timedelta(days=180)
_CODE, _REFRESH = "code", "refresh"  # the purposes of such tokens
# The row of an idempotency key is unique, and is deleted after a while.
_USE_CODE = """
    INSERT INTO idempotency_keys (tenant_id, key, fingerprint) VALUES (:tenant_id, :key, 'code')
    ON CONFLICT DO NOTHING RETURNING key
"""
Wider = Mapping[str, Collection[str]]  # scopes, with those that each includes


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A short-lived token and its scopes; with a refresh token if a user gave the client a code."""

    token: str
    scopes: Sequence[str] | None
    refresh_token: str | None = None


@dataclass(frozen=True)
class Issuer:
    """Issues the tokens of one deployment."""

    session: Session
    key: str  # the secret key
    wider: Wider

    def by_credentials(self, client: Row, scope: str | None) -> Grant:
        """A token for the client itself; without `scope` with all scopes of the client.

        Raises InvalidScope for a scope that the client does not have.
        """
        return Grant(**self._access(client, self._narrowed(scope, client.scopes), None))

    def code(self, client_id: str, user: Principal, scope: str | None, redirect_uri: str) -> str:
        """A code with which the client gets a token in the name of a caller of its tenant.

        Raises Unauthenticated for an unknown client, InvalidScope, and Forbidden for a client that
        has more rights than the caller.
        """
        client = oauth_client(self.session, client_id)
        if client.tenant_id != user.tenant_id:
            raise Unauthenticated("this client is unknown")
        scopes = self._narrowed(scope, client.scopes)
        user.must_be(Role(client.role))
        reach = None if user.scopes is None else _included(user.scopes, self.wider)
        if reach is not None and not _are_covered(scopes, reach):
            raise Forbidden("your key has scopes, and so must the code, each among them")
        claims = {"sub": str(client.id), "scopes": scopes, "user": user.submitter}
        claims |= {"redirect_uri": redirect_uri, "jti": uuid4().hex}
        return signing.issue_token(self.key, claims, CODE_LIFETIME, _CODE)

    def by_code(self, client: Row, code: str, redirect_uri: str) -> Grant:
        """A token for a code. Raises InvalidGrant for one that is not the client's, or was used."""
        claims = self._claims(client, code, _CODE)
        if redirect_uri != claims["redirect_uri"]:
            raise InvalidGrant("redirect_uri is not that for which the code was given")
        use = {"tenant_id": client.tenant_id, "key": f"oauth code {claims['jti']}"}
        if statements.row(self.session, _USE_CODE, **use) is None:
            raise InvalidGrant("this code was used before; ask for a new one")
        return self._with_refresh(client, claims["scopes"], claims["user"])

    def by_refresh(self, client: Row, token: str, scope: str | None) -> Grant:
        """A token for a refresh token, with a new one. Raises InvalidGrant and InvalidScope."""
        claims = self._claims(client, token, _REFRESH)
        return self._with_refresh(client, self._narrowed(scope, claims["scopes"]), claims["user"])

    def _claims(self, client: Row, token: str, purpose: str) -> dict[str, Any]:
        try:
            claims = signing.read_token(self.key, token, purpose)
        except Unauthenticated:
            raise InvalidGrant(f"this {purpose} is not one of ours, or has expired") from None
        if claims["sub"] != str(client.id):
            raise InvalidGrant(f"this {purpose} was given to another client")
        return claims

    def _with_refresh(self, client: Row, scopes: Sequence[str] | None, user: str) -> Grant:
        claims = {"sub": str(client.id), "scopes": scopes, "user": user, "jti": uuid4().hex}
        refresh = signing.issue_token(self.key, claims, REFRESH_LIFETIME, _REFRESH)
        return Grant(**self._access(client, scopes, user), refresh_token=refresh)

    def _access(
        self, client: Row, scopes: Sequence[str] | None, user: str | None
    ) -> dict[str, Any]:
        claims = {"sub": str(client.id), "scopes": scopes, **({"user": user} if user else {})}
        return {"token": signing.issue_token(self.key, claims, TOKEN_LIFETIME), "scopes": scopes}

    def _narrowed(self, scope: str | None, granted: Sequence[str] | None) -> Sequence[str] | None:
        if scope is None:
            return granted
        scopes = list(dict.fromkeys(re.split("[ ,]", scope)))
        _check_scopes(scopes, granted, self.wider)
        return scopes


def _included(scopes: Sequence[str], wider: Wider) -> list[str]:
    return [inner for scope in scopes for inner in (scope, *wider.get(scope, ()))]


def _are_covered(scopes: Sequence[str] | None, by: Sequence[str]) -> bool:
    return scopes is not None and all(covers(by, scope) for scope in scopes)


def _check_scopes(scopes: Sequence[str], granted: Sequence[str] | None, wider: Wider) -> None:
    included = _included(granted or (), wider)
    for scope in scopes:
        if not is_scope(scope):
            raise InvalidScope("a scope is a word; between two there is one blank or comma")
        if granted is not None and not covers(included, scope):
            known = " ".join(granted) or "none"
            raise InvalidScope(f"the client does not have the scope {scope}; it has {known}")
