"""All that one secret key vouches for: short-lived tokens, addresses, and secrets made for others.

Secrets of triggers and webhooks are not stored but made from the key whenever they are needed, so
a copy of the database holds none of them. Who changes the key changes all of them.
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


def issue_token(key: str, claims: Mapping[str, Any], lifetime: timedelta) -> str:
    """A signed token (JWT, RFC 7519) that says so for a while."""
    expires = datetime.now(UTC) + lifetime
    return jwt.encode({**claims, "exp": expires}, _made(key, "token"), algorithm=_ALGORITHM)


def read_token(key: str, token: str) -> dict[str, Any]:
    """What a token says. Raises Unauthenticated unless it is ours and not over."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token, _made(key, "token"), algorithms=[_ALGORITHM], options={"require": ["exp"]}
        )
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("this token has expired; ask for a new one") from None
    except (jwt.InvalidTokenError, RecursionError):  # its header is read before it is checked
        raise Unauthenticated("this token is not one of ours") from None
    return claims


def sign_artifact(key: str, tenant_id: UUID, artifact_id: UUID) -> str:
    """The `token` that makes an artifact's address good for a while without a key."""
    return _addresses(key).dumps([str(tenant_id), str(artifact_id)])


def verify_artifact(key: str, artifact_id: UUID, token: str) -> UUID:
    """The tenant that a signed address speaks for.

    Raises Unauthenticated for a token that is over, forged, or of another artifact.
    """
    try:
        tenant_id, signed = _addresses(key).loads(token, int(ADDRESS_LIFETIME.total_seconds()))
    except BadSignature:  # also when it is over
        raise Unauthenticated("this address is not signed by us, or has expired") from None
    if signed != str(artifact_id):
        raise Unauthenticated("this address is signed for another artifact")
    return UUID(tenant_id)


def trigger_token(key: str, schedule_id: UUID, number: int) -> str:
    """The secret in a schedule's URL, 32 hexadecimal digits; `number` counts its rotations."""
    return _made(key, "trigger", str(schedule_id), str(number)).hex()[:32]


def webhook_secret(key: str, webhook_id: UUID, number: int) -> str:
    """The secret that a webhook's receiver checks with, as Standard Webhooks writes one."""
    made = _made(key, "webhook", str(webhook_id), str(number))
    return f"whsec_{base64.b64encode(made).decode()}"


def is_same_secret(given: str, right: str) -> bool:
    """Whether two secrets are the same, without telling by the time it takes."""
    return hmac.compare_digest(given.encode(), right.encode())


def _made(key: str, *purpose: str) -> bytes:
    return hmac.digest(key.encode(), "/".join(purpose).encode(), hashlib.sha256)


def _addresses(key: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(key, salt="artifact")
