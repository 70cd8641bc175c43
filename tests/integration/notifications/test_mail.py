"""Mail about runs, sent to a real SMTP server on loopback."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from config.settings import Settings
from orchestrator.db.database import Database
from orchestrator.local import processes
from orchestrator.models import DeliveryKind
from orchestrator.notifications import webhooks
from orchestrator.notifications.http import SendResult
from orchestrator.notifications.mail import MailServer, compose_mail, send_mail
from orchestrator.notifications.webhooks import NewWebhook, TargetPolicy
from tests.support.factories import a_run, a_tenant, eventually
from workers.scheduler.deliverer import Deliverer

CERTIFICATE = Path(__file__).parents[2] / "support" / "hooks.example.pem"
TRUST = ssl.create_default_context(cafile=str(CERTIFICATE))


@dataclass
class Postbox:
    """The handler of an SMTP server: keeps what it accepts, and responds with `answer`."""

    answer: str = "250 OK"
    kept: list[Envelope] = field(default_factory=list)
    secured: list[bool] = field(default_factory=list)
    port: int = 0

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self.answer.startswith("2"):
            self.kept.append(envelope)
            self.secured.append(session.ssl is not None)
        return self.answer

    def messages(self) -> list[EmailMessage]:
        """The accepted messages, parsed."""
        return [
            message_from_bytes(each.original_content or b"", policy=policy.default)
            for each in self.kept
        ]


StartServer = Callable[..., Postbox]


@pytest.fixture
def a_server() -> Iterator[StartServer]:
    """Starts SMTP servers, which stop after the test."""
    with ExitStack() as exits:

        def start(answer: str = "250 OK", **options: Any) -> Postbox:
            postbox = Postbox(answer)
            postbox.port = processes.free_port()
            controller = Controller(postbox, hostname="127.0.0.1", port=postbox.port, **options)
            controller.start()
            exits.callback(controller.stop)
            return postbox

        yield start


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def _message(to: str = "a@b.example", **run: Any) -> EmailMessage:
    fields = {
        "id": "R", "number": 12, "workflow": "daily-report", "version": 3, "state": "failed",
        "created_at": "2026-01-01T00:00:00.000000Z", "started_at": None, "finished_at": None,
        "error": {"message": "no rates today"}, "cancel_reason": None,
    }  # fmt: skip
    payload = {"type": "run.failed", "data": {"run": fields | run}}
    return compose_mail(
        payload,
        sender="Runs <runs@acme.example>",
        to=to,
        message_id="D",
        api="https://acme.example/",
    )


def _send(url: str, message: EmailMessage | None = None, **options: Any) -> SendResult:
    server = MailServer.of(url)
    return send_mail(server, message or _message(), **options)


def test_mail_arrives_and_says_what_happened(a_server: StartServer) -> None:
    postbox = a_server()

    assert _send(f"smtp://127.0.0.1:{postbox.port}") == SendResult(status=250)

    (mail,) = postbox.messages()
    assert mail["Subject"] == "[orchestrator] daily-report #12 failed"
    assert (mail["From"], mail["To"]) == ("Runs <runs@acme.example>", "a@b.example")
    assert mail["Message-ID"] == "<D@acme.example>"
    assert mail["Auto-Submitted"] == "auto-generated"
    text = mail.get_content()
    assert "no rates today" in text
    assert "https://acme.example/api/v1/runs/R" in text
    assert postbox.kept[0].rcpt_tos == ["a@b.example"]


def test_a_reason_of_any_text_arrives(a_server: StartServer) -> None:
    postbox = a_server()
    reason = "Größe 日本 🎉\r\n.\r\nBcc: all@b.example\n" + "x" * 5000

    message = _message(error={"message": reason})
    assert _send(f"smtp://127.0.0.1:{postbox.port}", message).error is None

    (mail,) = postbox.messages()
    assert "Größe 日本 🎉" in mail.get_content()
    assert mail["Bcc"] is None
    assert mail.get_content().count("x" * 5000) == 1


@pytest.mark.parametrize("to", ["a@b.example\r\nBcc: all@b.example", "a@b.example\nX: y"])
def test_an_address_cannot_bring_a_header_with_it(to: str) -> None:
    with pytest.raises(ValueError, match=r"[Hh]eader"):
        _message(to)


@pytest.mark.parametrize(
    ("answer", "final"), [("451 later", False), ("554 no", True), ("421 busy", False)]
)
def test_a_permanent_refusal_of_the_text_is_final(
    a_server: StartServer, answer: str, final: bool
) -> None:
    postbox = a_server(answer)

    result = _send(f"smtp://127.0.0.1:{postbox.port}")

    assert result.status == int(answer[:3])
    assert result.error == f"answered {answer}"
    assert result.final == final


def test_a_permanent_refusal_of_the_recipient_is_final(a_server: StartServer) -> None:
    postbox = a_server()

    result = _send(f"smtp://127.0.0.1:{postbox.port}", _message("nobody@b.example"))

    assert result == SendResult(status=550, error="answered 550 no such user", final=True)


def test_a_server_that_is_down_is_not_final() -> None:
    result = _send("smtp://127.0.0.1:1")

    assert "refused" in str(result.error).lower()
    assert not result.final


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_starttls_is_used_when_offered_and_the_certificate_is_checked(
    a_server: StartServer, host: str
) -> None:
    postbox = a_server(tls_context=_server_context())

    result = _send(f"smtp://{host}:{postbox.port}", trust=TRUST)
    unknown = _send(f"smtp://localhost:{postbox.port}")

    assert result.error is None if host == "localhost" else "CERTIFICATE" in str(result.error)
    assert "CERTIFICATE_VERIFY_FAILED" in str(unknown.error)
    assert postbox.secured == ([True] if host == "localhost" else [])


def test_a_password_is_given_and_a_wrong_one_is_refused(a_server: StartServer) -> None:
    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> Any:
        right = isinstance(data, LoginPassword) and data.password == b"p@ss/word"
        return AuthResult(success=right and data.login == b"us er", handled=right)

    postbox = a_server(tls_context=_server_context(), authenticator=check, auth_required=True)
    at = f"localhost:{postbox.port}"

    assert _send(f"smtp://us%20er:p%40ss%2Fword@{at}", trust=TRUST).error is None
    wrong = _send(f"smtp://us%20er:no@{at}", trust=TRUST)
    assert wrong.status == 535
    assert not wrong.final
    assert not any(each in str(wrong.error) for each in ("p@ss", "us er"))


@pytest.mark.parametrize(
    "url", ["http://mail", "mail:25", "smtp://", "smtp://mail:x", "smtp://m:0x"]
)
def test_a_mail_server_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="ORCHESTRATOR_SMTP_URL must look like"):
        MailServer.of(url)


def test_the_url_of_a_mail_server_is_parsed_and_its_repr_has_no_password() -> None:
    server = MailServer.of("smtps://me:hush@mail.example")

    assert server is not None
    assert (server.secure, server.host, server.port) == (True, "mail.example", 465)
    assert "hush" not in repr(server)
    assert MailServer.of("") is None


def test_mail_of_a_webhook_and_of_a_run_is_sent(
    database: Database, settings: Settings, a_server: StartServer
) -> None:
    postbox = a_server()
    url = f"smtp://127.0.0.1:{postbox.port}"
    with database.transaction() as session:
        new = NewWebhook(target="team@b.example", events=["run.created"], kind=DeliveryKind.MAIL)
        webhook = webhooks.create_webhook(
            session, a_tenant(session), new, TargetPolicy(False, True)
        )
    run = a_run(database, notifications={"events": ["run.created"], "mail": ["one@b.example"]})
    with database.transaction() as session:
        webhooks.send_test(session, webhook.tenant_id, webhook.id)
    deliverer = Deliverer(database, replace(settings, smtp_url=url), "key")
    deliverer.wake()
    eventually(lambda: len(postbox.kept) == 3)
    deliverer.end()

    mails = {(each["To"], each["Subject"]) for each in postbox.messages()}
    assert mails == {
        ("team@b.example", f"[orchestrator] work #{run.number} created"),
        ("one@b.example", f"[orchestrator] work #{run.number} created"),
        ("team@b.example", "[orchestrator] test"),
    }
