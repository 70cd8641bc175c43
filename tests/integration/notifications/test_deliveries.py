"""Messages to the outside: told once, signed, tried again, and held up by nobody."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from config.settings import Settings
from orchestrator import runs
from orchestrator.access import signing
from orchestrator.db.database import Database
from orchestrator.models import Delivery, DeliveryAttempt, DeliveryState, Webhook
from orchestrator.notifications import deliveries, webhooks
from orchestrator.notifications.deliveries import Backoff
from orchestrator.notifications.webhooks import TargetPolicy
from tests.support.factories import a_run, a_spec, a_webhook, eventually, the_deliveries
from tests.support.webhook_receivers import Heard, Receiver, answering, dripping
from workers.scheduler.deliverer import Deliverer

SECRET_KEY = "a-secret-key-of-the-tests"
QUICK = Backoff(pauses=(0.01,) * 8)
ALL = TargetPolicy(allow_private=True, mail=True)

Made = Callable[..., Deliverer]


@pytest.fixture
def a_deliverer(database: Database, settings: Settings) -> Iterator[Made]:
    """Deliverers over the test database, ended when the test is."""
    with ExitStack() as exits:

        def made(**options: Any) -> Deliverer:
            private = options.pop("allow_private", True)
            given = replace(settings, allow_private_targets=private)
            deliverer = Deliverer(database, given, SECRET_KEY, **{"backoff": QUICK} | options)
            exits.callback(deliverer.end)
            return deliverer

        yield made


def _log(database: Database, delivery: Delivery) -> Sequence[DeliveryAttempt]:
    with database.transaction() as session:
        return deliveries.attempts_of_delivery(session, delivery)


def _secret(webhook: Webhook, number: int = 1) -> str:
    return signing.webhook_secret(SECRET_KEY, webhook.id, number)


def _ended(database: Database, deliverer: Deliverer, within: float = 10) -> list[Delivery]:
    """Every delivery, once none waits any more."""

    def look() -> list[Delivery]:
        deliverer.wake()
        return the_deliveries(database)

    return eventually(
        look,
        within=within,
        until=lambda found: all(each.state != DeliveryState.WAITING for each in found),
    )


def _heard(deliverer: Deliverer, receiver: Receiver, count: int = 1) -> list[Heard]:
    """What the receiver heard, once it has heard so much."""

    def look() -> list[Heard]:
        deliverer.wake()
        return receiver.heard

    return eventually(look, until=lambda heard: len(heard) >= count)


def _age(engine: Engine) -> None:
    """Let every lease and pause be over."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET next_at = now() WHERE state = 'waiting'"))


def _give_up(database: Database) -> None:
    """Nothing is left for the deliverer to wait for when the test ends."""
    with database.transaction() as session:
        session.execute(text("DELETE FROM deliveries WHERE state = 'waiting'"))


def test_a_receiver_that_fails_five_times_is_told_once_by_six_signed_tries(
    database: Database, a_deliverer: Made
) -> None:
    with answering(500, 500, 500, 500, 500, 200) as receiver:
        webhook = a_webhook(database, receiver.url)
        run = a_run(database)
        (delivery,) = _ended(database, a_deliverer())

    assert delivery.state == "delivered"
    assert delivery.attempts == len(receiver.heard) == 6
    log = _log(database, delivery)
    assert [each.status for each in log] == [500, 500, 500, 500, 500, 200]
    assert [each.number for each in log] == [1, 2, 3, 4, 5, 6]
    assert log[0].error == "answered 500 Internal Server Error"
    assert log[5].error is None
    assert {(each.id, each.body) for each in receiver.heard} == {
        (str(delivery.id), receiver.heard[0].body)
    }
    assert all(each.is_signed_by(_secret(webhook)) for each in receiver.heard)
    assert not receiver.heard[0].is_signed_by(_secret(webhook, 2))
    told = json.loads(receiver.heard[0].body)
    assert told["type"] == "run.created"
    assert told["data"]["run"]["id"] == str(run.id)


def test_a_message_says_what_the_run_was_at_the_event(
    database: Database, a_deliverer: Made
) -> None:
    with answering(204) as receiver:
        a_webhook(database, receiver.url, "run.created", "run.cancelled")
        run = a_run(database, tags=["night"], reason="why not", priority=7)
        with database.transaction() as session:
            runs.cancel(session, run.tenant_id, run.id, grace=timedelta(0), reason="enough")
        _ended(database, a_deliverer())

    created, cancelled = sorted(
        (json.loads(each.body) for each in receiver.heard), key=lambda told: told["timestamp"]
    )
    assert created["data"]["run"]["finished_at"] is None
    assert cancelled["type"] == "run.cancelled"
    shown = cancelled["data"]["run"]
    assert shown["state"] == "cancelled"
    assert shown["workflow"] == "work"
    assert (shown["number"], shown["tags"], shown["priority"]) == (run.number, ["night"], 7)
    assert (shown["reason"], shown["cancel_reason"]) == ("why not", "enough")
    assert shown["finished_at"].endswith("Z")
    assert cancelled["data"]["event"].keys() == {"seq", "data"}
    assert receiver.heard[0].headers["content-type"] == "application/json"


def test_only_who_asked_is_told(database: Database, a_deliverer: Made) -> None:
    with answering(200) as receiver:
        a_run(database, a_spec("ours"))
        a_run(database, a_spec("other"))
        a_webhook(database, f"{receiver.url}/all")
        a_webhook(database, f"{receiver.url}/ours", workflow="ours")
        a_webhook(database, f"{receiver.url}/ends", "run.failed", "run.succeeded")
        a_webhook(database, f"{receiver.url}/off", active=False)
        a_run(database, a_spec("ours"))
        a_run(database, a_spec("other"))
        _ended(database, a_deliverer())

    assert sorted(each.path for each in receiver.heard) == ["/hook/all", "/hook/all", "/hook/ours"]


def test_a_run_tells_whom_it_was_given_and_signs_with_the_tenants_secret(
    database: Database, a_deliverer: Made
) -> None:
    with answering(200) as receiver:
        asked = {"events": ["run.created"], "webhooks": [receiver.url], "mail": ["a@b.example"]}
        run = a_run(database, notifications=asked)
        found = _ended(database, a_deliverer())

    assert {(each.kind.value, each.state.value) for each in found} == {
        ("webhook", "delivered"), ("mail", "failed")
    }  # fmt: skip
    (heard,) = receiver.heard
    assert heard.is_signed_by(signing.webhook_secret(SECRET_KEY, run.tenant_id, 1))
    (mail,) = (each for each in found if each.kind == "mail")
    assert "ORCHESTRATOR_SMTP_URL" in str(_log(database, mail)[0].error)


def test_notifications_of_another_form_do_not_stop_the_run(
    database: Database, a_deliverer: Made
) -> None:
    run = a_run(database, notifications={"events": ["run.created"], "webhooks": "x", "mail": {}})

    assert run.number
    assert the_deliveries(database) == []


def test_after_a_rotation_both_secrets_are_good_for_a_day(
    database: Database, a_deliverer: Made, engine: Engine
) -> None:
    with answering(200) as receiver:
        webhook = a_webhook(database, receiver.url)
        with database.transaction() as session:
            webhooks.rotate_webhook_secret(session, webhook.tenant_id, webhook.id)
        deliverer = a_deliverer()
        a_run(database)
        (both,) = _heard(deliverer, receiver)
        with engine.begin() as connection:
            connection.execute(text("UPDATE webhooks SET rotated_at = now() - interval '25 h'"))
        a_run(database)
        _, alone = _heard(deliverer, receiver, 2)

    assert both.is_signed_by(_secret(webhook, 1))
    assert both.is_signed_by(_secret(webhook, 2))
    assert not alone.is_signed_by(_secret(webhook, 1))
    assert alone.is_signed_by(_secret(webhook, 2))


def test_a_try_whose_sender_died_is_made_again_under_the_same_id(
    database: Database, a_deliverer: Made, engine: Engine
) -> None:
    with answering(200) as receiver:
        a_webhook(database, receiver.url)
        a_run(database)
        with database.transaction() as session:  # it is claimed, perhaps sent, and never recorded
            lost = deliveries.claim_deliveries(
                session, after="", full=[], lease=timedelta(minutes=1)
            )
        assert lost is not None
        deliverer = a_deliverer()
        deliverer.wake()
        with database.transaction() as session:
            assert (
                deliveries.claim_deliveries(session, after="", full=[], lease=timedelta(minutes=1))
                is None
            )
        _age(engine)
        (delivery,) = _ended(database, deliverer)

    assert [each.id for each in receiver.heard] == [str(lost.id)]
    assert (delivery.state, delivery.attempts) == ("delivered", 2)
    assert [each.number for each in _log(database, delivery)] == [2]


def test_a_receiver_that_never_answers_holds_up_nobody_else(
    database: Database, a_deliverer: Made
) -> None:
    with dripping() as silent, answering(200) as well:
        a_webhook(database, silent.url)
        for _ in range(10):
            a_run(database)
        deliverer = a_deliverer()
        _heard(deliverer, silent, 2)
        a_webhook(database, well.url)
        for _ in range(20):
            a_run(database)
        deliverer.wake()
        eventually(lambda: len(well.heard) == 20, within=2)
        on_their_way = len(silent.heard)

    assert on_their_way == 2
    _give_up(database)


def test_many_that_never_answer_hold_up_nobody_of_their_own_tenant(
    database: Database, a_deliverer: Made
) -> None:
    with ExitStack() as exits:
        silent = [exits.enter_context(dripping()) for _ in range(6)]
        well = exits.enter_context(answering(200))
        for each in silent:
            a_webhook(database, each.url)
        for _ in range(5):
            a_run(database)
        deliverer = a_deliverer(within=1)
        for each in silent:  # a second try means that the first is over
            _heard(deliverer, each, 3)
        a_webhook(database, well.url)
        for _ in range(20):
            a_run(database)
        began = time.monotonic()
        _heard(deliverer, well, 20)
        took = time.monotonic() - began
        _give_up(database)

    assert took < 2


def test_one_that_is_given_up_can_be_sent_once_more(database: Database, a_deliverer: Made) -> None:
    with answering(500, 500, 500, 200) as receiver:
        webhook = a_webhook(database, f"{receiver.url}/old")
        a_run(database)
        deliverer = a_deliverer(backoff=Backoff(pauses=(0.01, 0.01)))
        (failed,) = _ended(database, deliverer)
        with database.transaction() as session:
            changes = {"target": f"{receiver.url}/new"}
            webhooks.change_webhook(session, webhook.tenant_id, webhook.id, changes, ALL)
            replayed = deliveries.replay_delivery(session, webhook.tenant_id, failed.id)
        (delivered,) = _ended(database, deliverer)

    assert (failed.state, failed.attempts, failed.next_at) == ("failed", 3, None)
    assert (replayed.state, replayed.target) == ("waiting", f"{receiver.url}/new")
    assert (delivered.state, delivered.attempts) == ("delivered", 4)
    assert [each.path for each in receiver.heard] == ["/hook/old"] * 3 + ["/hook/new"]
    assert len({each.id for each in receiver.heard}) == 1


def test_a_receiver_that_is_gone_is_told_nothing_more(
    database: Database, a_deliverer: Made
) -> None:
    with answering(410) as receiver:
        webhook = a_webhook(database, receiver.url)
        first, second = a_run(database), a_run(database)
        deliverer = a_deliverer()
        _heard(deliverer, receiver)
        found = _ended(database, deliverer)
        a_run(database)

    with database.transaction() as session:
        assert not webhooks.get_webhook(session, webhook.tenant_id, webhook.id).active
    assert {each.run_id for each in found} == {first.id, second.id}
    assert {each.state.value for each in found} == {"failed"}
    assert len(the_deliveries(database)) == 2


def test_a_deleted_webhook_takes_what_is_on_its_way_with_it(
    database: Database, a_deliverer: Made
) -> None:
    with dripping([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], every=0.3) as receiver:
        webhook = a_webhook(database, receiver.url)
        a_run(database)
        deliverer = a_deliverer()
        _heard(deliverer, receiver)
        with database.transaction() as session:
            webhooks.delete_webhook(session, webhook.tenant_id, webhook.id)
        deliverer.end()

    assert the_deliveries(database) == []
