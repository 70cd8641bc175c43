"""What is signed with, or derived from, the secret key: tokens, addresses, secrets of others.

Secrets of triggers and webhooks are not stored but derived from the key, so a copy of the database
has none of them. A new key changes all of them.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
from itsdangerous import BadSignature, URLSafeTimedSerializer

from orchestrator.errors import Unauthenticated

ADDRESS_LIFETIME = timedelta(hours=1)
_ALGORITHM = "HS256"


def issue_token(
    key: str, claims: Mapping[str, Any], lifetime: timedelta, purpose: str = "token"
) -> str:
    """A signed token (JWT, RFC 7519) with these claims, which is valid for one purpose only."""
    claims = {**claims, "exp": datetime.now(UTC) + lifetime}
    return jwt.encode(claims, _derived(key, purpose), algorithm=_ALGORITHM)


def read_token(key: str, token: str, purpose: str = "token") -> dict[str, Any]:
    """The claims of a token. Raises Unauthenticated for an invalid or expired one."""
    try:
        _check_spelling(token)
        claims: dict[str, Any] = jwt.decode(
            token, _derived(key, purpose), algorithms=[_ALGORITHM], options={"require": ["exp"]}
        )
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("this token has expired; ask for a new one") from None
    except (jwt.InvalidTokenError, ValueError, RecursionError):  # a header may be nested too deeply
        raise Unauthenticated("this token is not one of ours") from None
    return claims


def sign_artifact(key: str, tenant_id: UUID, artifact_id: UUID) -> str:
    """The `token` with which an artifact's address is valid without a key, for ADDRESS_LIFETIME."""
    return _addresses(key).dumps([str(tenant_id), str(artifact_id)])


def verify_artifact(key: str, artifact_id: UUID, token: str) -> UUID:
    """The tenant of a signed address.

    Raises Unauthenticated for a token that has expired, is forged, or of another artifact.
    """
    try:
        _check_spelling(token)
        tenant_id, signed = _addresses(key).loads(token, int(ADDRESS_LIFETIME.total_seconds()))
    except (BadSignature, ValueError):  # or it has expired
        raise Unauthenticated("this address is not signed by us, or has expired") from None
    if signed != str(artifact_id):
        raise Unauthenticated("this address is signed for another artifact")
    return UUID(tenant_id)


def trigger_token(key: str, schedule_id: UUID, number: int) -> str:
    """The secret in a schedule's URL, 32 hexadecimal digits; `number` counts its rotations."""
    return _derived(key, "trigger", str(schedule_id), str(number)).hex()[:32]


def webhook_secret(key: str, webhook_id: UUID, number: int) -> str:
    """The secret of a webhook's receiver, in the form of Standard Webhooks."""
    secret = _derived(key, "webhook", str(webhook_id), str(number))
    return f"whsec_{base64.b64encode(secret).decode()}"


def alias(key: str, kind: str, name: str) -> str:
    """A stable name in place of one that has a host or a process id in it: `worker-1a2b3c4d`."""
    return f"{kind}-{_derived(key, 'alias', kind, name).hex()[:8]}"


def is_same_secret(secret: str, expected: str) -> bool:
    """Whether two secrets are equal, in constant time."""
    return hmac.compare_digest(secret.encode(), expected.encode())


def _derived(key: str, *purpose: str) -> bytes:
    return hmac.digest(key.encode(), "/".join(purpose).encode(), hashlib.sha256)


def _check_spelling(token: str) -> None:
    """Raises ValueError unless its signature is written as we write it.

    What is before the signature is signed as text. Of the signature decoders skip other characters,
    take both alphabets, and ignore the last bits: many texts are the same one.
    """
    signature = token.rpartition(".")[2]
    decoded = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    if base64.urlsafe_b64encode(decoded).decode().rstrip("=") != signature:
        raise ValueError(signature)


def _addresses(key: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(key, salt="artifact")
