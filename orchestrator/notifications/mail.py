"""Mail: one plain message about one event, through the deployment's own SMTP server."""

import smtplib
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
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
_NO_SERVER = "no mail server is known; set ORCHESTRATOR_SMTP_URL"


@dataclass(frozen=True)
class MailServer:
    """An SMTP server and who we are to it."""

    secure: bool  # TLS from the first byte; otherwise STARTTLS, if it is offered
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    sender: str

    @classmethod
    def of(cls, url: str, sender: str) -> "MailServer | None":
        """The server that a setting names, None for an empty one. Raises ValueError."""
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
            sender=sender,
        )


def compose_mail(
    payload: Mapping[str, Any], *, sender: str, to: str, message_id: str, api: str
) -> EmailMessage:
    """What a person reads about an event; the same message for every try."""
    run = payload["data"].get("run")
    message = EmailMessage()
    message["From"], message["To"] = sender, to
    message["Subject"] = f"[orchestrator] {_subject(payload['type'], run)}"
    domain = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
    message["Message-ID"] = f"<{message_id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"  # lets out-of-office replies stay away
    message.set_content("\n".join(_body(payload, run, api)), cte="quoted-printable")
    return message


def send_mail(
    server: MailServer | None, message: EmailMessage, *, trust: ssl.SSLContext | None = None
) -> SendResult:
    """Hand a message to the server; an address or a text that it does not take is final."""
    if server is None:
        return SendResult(error=_NO_SERVER, final=True)
    try:
        smtp = _connected(server, trust or ssl.create_default_context())
    except smtplib.SMTPResponseException as error:
        return SendResult(status=error.smtp_code, error=_said(error.smtp_code, error.smtp_error))
    except (OSError, smtplib.SMTPException) as error:
        return SendResult(error=f"{type(error).__name__}: {error}")
    try:
        return _hand_over(smtp, message)
    finally:
        smtp.close()


def _hand_over(smtp: smtplib.SMTP, message: EmailMessage) -> SendResult:
    try:
        smtp.send_message(message)
    except smtplib.SMTPRecipientsRefused as refused:
        ((status, said),) = refused.recipients.values()
        return SendResult(status=status, error=_said(status, said), final=status >= 500)
    except smtplib.SMTPResponseException as error:
        code, text = error.smtp_code, error.smtp_error
        final = isinstance(error, smtplib.SMTPDataError) and code >= 500
        return SendResult(status=code, error=_said(code, text), final=final)
    except (OSError, smtplib.SMTPException) as error:
        return SendResult(error=f"{type(error).__name__}: {error}")
    with suppress(OSError, smtplib.SMTPException):  # it is taken, whatever is said after that
        smtp.quit()
    return SendResult(status=250)


def _connected(server: MailServer, trust: ssl.SSLContext) -> smtplib.SMTP:
    """A connection that has said who we are."""
    at = (server.host, server.port, _own_name())
    if server.secure:
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(*at, timeout=_SECONDS, context=trust)
    else:
        smtp = smtplib.SMTP(*at, timeout=_SECONDS)
    try:
        _introduce(smtp, server, trust)
    except BaseException:
        smtp.close()
        raise
    return smtp


@cache  # a name service that is slow is asked only once
def _own_name() -> str:
    return socket.getfqdn()


def _introduce(smtp: smtplib.SMTP, server: MailServer, trust: ssl.SSLContext) -> None:
    """Encrypt if that is offered, and log in; a password crosses no network without TLS."""
    smtp.ehlo_or_helo_if_needed()
    encrypted = server.secure
    if not encrypted and smtp.has_extn("starttls"):
        smtp.starttls(context=trust)
        encrypted = True
    if server.user:
        if not encrypted and not _is_here(server.host):
            raise smtplib.SMTPNotSupportedError("no TLS is offered, so the password is not sent")
        smtp.login(server.user, server.password)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _said(code: int, text: bytes | str) -> str:
    return f"answered {code} {text.decode('utf-8', 'replace') if isinstance(text, bytes) else text}"


def _subject(type: str, run: Mapping[str, Any] | None) -> str:
    what = type.rpartition(".")[2].replace("_", " ")
    return f"{run['workflow']} #{run['number']} {what}" if run else what


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
