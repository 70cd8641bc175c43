"""POST one message to one receiver within a total deadline, to a checked address only."""

import http.client
import ssl
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache

import standardwebhooks

from orchestrator.notifications import targets
from orchestrator.notifications.connections import DeadlineSocket, connect, exchange
from orchestrator.notifications.targets import Resolve, Target, TargetRefused

TOTAL_SECONDS = 10.0  # from the first packet to the head of the response
_EXCERPT = 500  # bytes of an error response that are kept
_EXCERPT_SECONDS = 1.0  # to read them
_MAX_RESPONSE = 64 * 1024  # bytes read of a response
# Reading the system's certificates takes longer than a whole delivery.
_default_trust = cache(ssl.create_default_context)


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """The result of one attempt; no error means that it was accepted."""

    status: int | None = None  # None: no response
    error: str | None = None
    final: bool = False  # a later attempt would fail as well
    retry_after: float = 0  # seconds


def sign_request(secrets: Collection[str], message_id: str, body: bytes) -> dict[str, str]:
    """The headers of https://www.standardwebhooks.com, with one signature for each secret.

    The id is the same for every attempt, the timestamp is not.
    """
    now = datetime.now(UTC)
    signers = map(standardwebhooks.Webhook, secrets)
    signatures = [signer.sign(message_id, now, body.decode()) for signer in signers]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def post_webhook(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    allow_private: bool,
    resolve: Resolve | None = None,
    trust: ssl.SSLContext | None = None,
    within: float = TOTAL_SECONDS,
) -> SendResult:
    """POST a body. Redirects are not followed: their targets were not registered."""
    try:
        target = targets.check_url(url, allow_private=allow_private)
        addresses = targets.resolve_public(target, allow_private=allow_private, resolve=resolve)
    except TargetRefused as error:
        return SendResult(error=f"refused: {error}", final=True)
    except OSError as error:
        return SendResult(error=str(error))
    end = time.monotonic() + within
    try:
        with connect(target, addresses, trust or _default_trust(), end) as connected:
            return _post(target, DeadlineSocket(connected, end, _MAX_RESPONSE), headers, body)
    except TimeoutError:
        return SendResult(error=f"no answer within {within:g} s")
    except (OSError, http.client.HTTPException) as error:
        return SendResult(error=f"{type(error).__name__}: {error}")


def _post(
    target: Target, connected: DeadlineSocket, headers: Mapping[str, str], body: bytes
) -> SendResult:
    response = exchange(connected, target, "POST", headers, body)
    if 200 <= response.status < 300:
        return SendResult(status=response.status)
    connected.shorten(_EXCERPT_SECONDS)
    return SendResult(
        status=response.status,
        error=_error_text(response),
        retry_after=_retry_after(response.getheader("Retry-After", "")),
    )


def _error_text(response: http.client.HTTPResponse) -> str:
    message = _printable(f"answered {response.status} {response.reason}")
    if 300 <= response.status < 400:
        return f"{message}; redirects are not followed: register the address that it leads to"
    excerpt = ""
    with suppress(OSError, http.client.HTTPException):
        excerpt = _printable(response.read1(_EXCERPT).decode("utf-8", "replace"))
    return f"{message}: {excerpt}" if excerpt else message


def _printable(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _retry_after(header: str) -> float:
    """The seconds of a `Retry-After` header, a number or a date; 0 for anything else."""
    try:
        if header.isascii() and header.isdigit():
            return float(header[:9])
        moment = parsedate_to_datetime(header)
        return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
