"""Mail: one plain-text message about one event, sent through the deployment's SMTP server."""

import smtplib
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import parseaddr
from functools import cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.notifications.http import SendResult

_SECONDS = 10.0  # for each command of SMTP
_PORTS = {"smtp": 25, "smtps": 465}
_own_name = cache(socket.getfqdn)  # the name service may be slow


@dataclass(frozen=True)
class MailServer:
    """An SMTP server and its credentials."""

    secure: bool  # TLS from the first byte; otherwise STARTTLS, if it is offered
    host: str
    port: int
    user: str
    password: str = field(repr=False)

    @classmethod
    def of(cls, url: str) -> "MailServer | None":
        """Parse the setting's URL; None for an empty one. Raises ValueError."""
        if not url:
            return None
        wrong = "ORCHESTRATOR_SMTP_URL must look like smtp://user:password@host:587"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError(wrong) from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(wrong)
        return cls(
            secure=parts.scheme == "smtps",
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )


def compose_mail(
    payload: Mapping[str, Any], *, sender: str, to: str, message_id: str, api: str
) -> EmailMessage:
    """The mail about an event; the same for every attempt."""
    run = payload["data"].get("run")
    what = payload["type"].rpartition(".")[2].replace("_", " ")
    subject = f"{run['workflow']} #{run['number']} {what}" if run else what
    message = EmailMessage()
    message["From"], message["To"] = sender, to
    message["Subject"] = f"[orchestrator] {subject}"
    domain = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
    message["Message-ID"] = f"<{message_id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"  # no out-of-office replies (RFC 3834)
    message.set_content("\n".join(_body(payload, run, api)), cte="quoted-printable")
    return message


def send_mail(
    server: MailServer | None, message: EmailMessage, *, trust: ssl.SSLContext | None = None
) -> SendResult:
    """Send a message; a permanent refusal (5xx) of the recipient or the text is final."""
    if server is None:
        return SendResult(error="no mail server is known; set ORCHESTRATOR_SMTP_URL", final=True)
    trust = trust or ssl.create_default_context()
    try:
        with closing(_connect(server, trust)) as smtp:
            _log_in(smtp, server, trust)
            smtp.send_message(message)
            with suppress(OSError, smtplib.SMTPException):  # the message was accepted already
                smtp.quit()
    except smtplib.SMTPRecipientsRefused as refused:
        ((status, reply),) = refused.recipients.values()
        return SendResult(status=status, error=_error_text(status, reply), final=status >= 500)
    except smtplib.SMTPResponseException as error:
        code, text = error.smtp_code, error.smtp_error
        final = isinstance(error, smtplib.SMTPDataError) and code >= 500
        return SendResult(status=code, error=_error_text(code, text), final=final)
    except (OSError, smtplib.SMTPException) as error:
        return SendResult(error=f"{type(error).__name__}: {error}")
    return SendResult(status=250)


def _connect(server: MailServer, trust: ssl.SSLContext) -> smtplib.SMTP:
    at = (server.host, server.port, _own_name())
    if server.secure:
        return smtplib.SMTP_SSL(*at, timeout=_SECONDS, context=trust)
    return smtplib.SMTP(*at, timeout=_SECONDS)


def _log_in(smtp: smtplib.SMTP, server: MailServer, trust: ssl.SSLContext) -> None:
    """Use STARTTLS if it is offered, and log in; a password crosses no network without TLS."""
    smtp.ehlo_or_helo_if_needed()
    encrypted = server.secure
    if not encrypted and smtp.has_extn("starttls"):
        smtp.starttls(context=trust)
        encrypted = True
    if server.user:
        if not encrypted and not _is_loopback(server.host):
            raise smtplib.SMTPNotSupportedError("no TLS is offered, so the password is not sent")
        smtp.login(server.user, server.password)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _error_text(code: int, text: bytes | str) -> str:
    return f"answered {code} {text.decode('utf-8', 'replace') if isinstance(text, bytes) else text}"


def _body(payload: Mapping[str, Any], run: Mapping[str, Any] | None, api: str) -> list[str]:
    if run is None:
        return ["This is a test: mail about runs will reach this address."]
    lines = [
        f"Run {run['number']} of {run['workflow']}, version {run['version']}: {payload['type']}.",
        "",
        f"State:    {run['state']}",
        f"Created:  {run['created_at']}",
        f"Started:  {run['started_at'] or '-'}",
        f"Finished: {run['finished_at'] or '-'}",
    ]
    reason = (run["error"] or {}).get("message") or run["cancel_reason"]
    if reason:
        lines.append(f"Reason:   {reason}")
    return [*lines, "", f"{api.rstrip('/')}/api/v1/runs/{run['id']}", ""]
