"""`secret://NAME` in the URL of a webhook or the mail server: resolved at each try, never shown."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from config.settings import Settings
from orchestrator.db.database import Database
from orchestrator.local import processes
from orchestrator.models import Delivery, DeliveryKind
from orchestrator.notifications import deliveries
from orchestrator.notifications.deliveries import Backoff
from tests.support.factories import a_run, a_webhook, eventually, the_deliveries
from tests.support.webhook_receivers import answering
from workers.scheduler.deliverer import Deliverer

StartDeliverer = Callable[..., Deliverer]
TOKEN = "hush/of-acme"


@pytest.fixture
def a_deliverer(database: Database, settings: Settings, tmp_path: Path) -> Iterator[StartDeliverer]:
    """Starts deliverers whose secrets are in files, and which end after the test."""
    (tmp_path / "default").mkdir()
    with ExitStack() as exits:

        def start(**changes: Any) -> Deliverer:
            options = {"allow_private_targets": True, "secrets_dir": str(tmp_path), **changes}
            quick = Backoff(pauses=(0.01,) * 100)
            deliverer = Deliverer(database, replace(settings, **options), "key", backoff=quick)
            exits.callback(deliverer.end)
            return deliverer

        yield start


def _errors(database: Database, deliverer: Deliverer) -> list[str | None]:
    """The errors of the attempts of the only delivery, once there is one attempt."""

    def poll() -> list[str | None]:
        deliverer.wake()
        (delivery,) = the_deliveries(database)
        with database.transaction() as session:
            return [each.error for each in deliveries.attempts_of_delivery(session, delivery)]

    return eventually(poll)


def _stored(engine: Engine) -> str:
    tables = ("webhooks", "deliveries", "delivery_attempts")
    with engine.connect() as connection:
        return str([connection.execute(text(f"SELECT * FROM {each}")).all() for each in tables])


@pytest.mark.parametrize("whole", [True, False])
def test_a_receiver_gets_what_its_url_stands_for(
    database: Database, engine: Engine, a_deliverer: StartDeliverer, tmp_path: Path, whole: bool
) -> None:
    with answering(200) as receiver:
        target = "secret://HOOK" if whole else f"{receiver.url}/secret://TOKEN/x?y=1"
        (tmp_path / "default" / "TOKEN").write_text(TOKEN)
        (tmp_path / "default" / "HOOK").write_text(f"{receiver.url}/{TOKEN}/x?y=1\n")
        a_webhook(database, target)
        a_run(database)
        _errors(database, a_deliverer())

    assert receiver.requests[0].path == f"/hook/{TOKEN}/x?y=1"
    assert the_deliveries(database)[0].target == target
    assert "hush" not in _stored(engine)


def test_a_secret_that_comes_later_is_found_at_a_later_try(
    database: Database, a_deliverer: StartDeliverer, tmp_path: Path
) -> None:
    deliverer = a_deliverer()
    with answering(200) as receiver:
        a_webhook(database, "secret://HOOK")
        a_run(database)
        error = _errors(database, deliverer)[0]
        (tmp_path / "default" / "HOOK").write_text(receiver.url)

        def delivered() -> Delivery | None:
            deliverer.wake()
            (delivery,) = the_deliveries(database)
            return delivery if delivery.state == "delivered" else None

        eventually(delivered)

    assert error == "secret://HOOK: tenant 'default' has no such secret here"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("http://127.0.0.1:1/hush", "refused: 127.0.0.1 is not an address of the public Internet"),
        ("ftp://hush.example", "refused: a URL must begin with https:// or http://"),
        ("http://user:hush@example.com", "refused: no user name or password may stand"),
        ("http://hush.example/\r\nX-Evil: 1", "refused: write it in ASCII"),
    ],
)
def test_what_a_reference_stands_for_is_checked_as_any_url(
    database: Database,
    engine: Engine,
    a_deliverer: StartDeliverer,
    tmp_path: Path,
    value: str,
    error: str,
) -> None:
    (tmp_path / "default" / "HOOK").write_text(value)
    a_webhook(database, "secret://HOOK")
    a_run(database)

    (first, *_) = _errors(database, a_deliverer(allow_private_targets=False))

    assert str(first).startswith(error)
    assert "hush" not in _stored(engine)


def test_an_error_that_names_the_secret_is_masked(
    database: Database, engine: Engine, a_deliverer: StartDeliverer, tmp_path: Path
) -> None:
    (tmp_path / "default" / "HOST").write_text("hush.invalid")
    a_webhook(database, "http://secret://HOST/x")
    a_run(database)

    (first, *_) = _errors(database, a_deliverer())

    assert str(first).startswith("*** cannot be looked up")
    assert "hush" not in _stored(engine)


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("secret://HOOK", None),
        ("https://example.com/secret://TOKEN", None),
        ("https://secret://HOST/x", None),
        ("secret://", "is followed by a name"),
        ("https://example.com/secret://1", "is followed by a name"),
        ("secret://HOOK/x", "a URL must begin with"),
        ("ftp://secret://HOOK", "a URL must begin with"),
        ("http://127.0.0.1/secret://TOKEN", "not an address of the public Internet"),
        ("x", "a URL must begin with"),
    ],
)
def test_what_is_known_of_a_target_is_checked_at_once(
    client: FlaskClient, database: Database, target: str, detail: str | None
) -> None:
    body = {"target": target, "events": ["run.created"]}
    reply = client.post("/api/v1/webhooks", json=body)
    named = {"events": ["run.created"], "webhooks": [target]}
    client.post("/api/v1/workflows", json={"name": "w", "steps": [{"key": "s", "uses": "noop"}]})
    run = client.post("/api/v1/runs", json={"workflow": "w", "notifications": named})

    if detail is None:
        assert reply.status_code == run.status_code == 201
        assert reply.json is not None
        assert reply.json["target"] == target
    else:
        assert reply.status_code == run.status_code == 422
        assert detail in reply.text
        assert detail in run.text


def test_the_password_of_the_mail_server_is_the_deployments_own(
    database: Database, engine: Engine, a_deliverer: StartDeliverer, tmp_path: Path
) -> None:
    seen: list[bytes] = []

    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> Any:
        assert isinstance(data, LoginPassword)
        seen.append(data.password)
        return AuthResult(success=data.password == b"hush-two", handled=False)

    port = processes.free_port()
    controller = Controller(
        _Accepting(), hostname="127.0.0.1", port=port, authenticator=check, auth_require_tls=False
    )
    (tmp_path / "PASSWORD").write_text("hush@one/word")
    (tmp_path / "default" / "PASSWORD").write_text("hush-of-the-tenant")
    a_webhook(database, "a@b.example", kind=DeliveryKind.MAIL)
    a_run(database)
    controller.start()
    try:
        deliverer = a_deliverer(smtp_url=f"smtp://me:secret://PASSWORD@127.0.0.1:{port}")
        _errors(database, deliverer)
        (tmp_path / "PASSWORD").write_text("hush-two")
        eventually(lambda: deliverer.wake() or b"hush-two" in seen)
    finally:
        controller.stop()

    assert set(seen) == {b"hush@one/word", b"hush-two"}
    assert "hush" not in _stored(engine)


class _Accepting:
    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        return "250 OK"
