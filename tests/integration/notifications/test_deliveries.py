"""Deliveries: signed, retried, recorded once, and delayed by no other receiver."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from config.settings import Settings
from orchestrator import runs
from orchestrator.access import signing
from orchestrator.db.database import Database
from orchestrator.models import Delivery, DeliveryAttempt, DeliveryState, Webhook
from orchestrator.notifications import deliveries, http, webhooks
from orchestrator.notifications.deliveries import Backoff, ClaimedDelivery
from orchestrator.notifications.webhooks import TargetPolicy
from tests.support.factories import a_run, a_spec, a_webhook, eventually, the_deliveries
from tests.support.webhook_receivers import ReceivedRequest, Receiver, answering, dripping
from workers.scheduler.deliverer import Deliverer

SECRET_KEY = "a-secret-key-of-the-tests"
QUICK = Backoff(pauses=(0.01,) * 8)
ALL = TargetPolicy(allow_private=True, mail=True)

StartDeliverer = Callable[..., Deliverer]


@pytest.fixture
def a_deliverer(database: Database, settings: Settings) -> Iterator[StartDeliverer]:
    """Starts deliverers on the test database, which end after the test."""
    with ExitStack() as exits:

        def start(**options: Any) -> Deliverer:
            allowing = replace(settings, allow_private_targets=True)
            deliverer = Deliverer(database, allowing, SECRET_KEY, **{"backoff": QUICK} | options)
            exits.callback(deliverer.end)
            return deliverer

        yield start


def _log(database: Database, delivery: Delivery) -> Sequence[DeliveryAttempt]:
    with database.transaction() as session:
        return deliveries.attempts_of_delivery(session, delivery)


def _secret(webhook: Webhook, number: int = 1) -> str:
    return signing.webhook_secret(SECRET_KEY, webhook.id, number)


def _ended(database: Database, deliverer: Deliverer, within: float = 10) -> list[Delivery]:
    """Every delivery, once none is waiting."""

    def poll() -> list[Delivery]:
        deliverer.wake()
        return the_deliveries(database)

    return eventually(
        poll,
        within=within,
        until=lambda ended: all(each.state != DeliveryState.WAITING for each in ended),
    )


def _requests(deliverer: Deliverer, receiver: Receiver, count: int = 1) -> list[ReceivedRequest]:
    """The requests that the receiver got, once there are `count`."""

    def poll() -> list[ReceivedRequest]:
        deliverer.wake()
        return receiver.requests

    return eventually(poll, until=lambda requests: len(requests) >= count)


def _age(engine: Engine) -> None:
    """End every lease and pause."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET next_at = now() WHERE state = 'waiting'"))


def _give_up(database: Database) -> None:
    """Delete the waiting deliveries, so that the deliverer ends at once."""
    with database.transaction() as session:
        session.execute(text("DELETE FROM deliveries WHERE state = 'waiting'"))


def test_a_receiver_that_fails_five_times_is_told_once_by_six_signed_tries(
    database: Database, a_deliverer: StartDeliverer
) -> None:
    with answering(500, 500, 500, 500, 500, 200) as receiver:
        webhook = a_webhook(database, receiver.url)
        run = a_run(database)
        (delivery,) = _ended(database, a_deliverer())

    assert delivery.state == "delivered"
    assert delivery.attempts == len(receiver.requests) == 6
    log = _log(database, delivery)
    assert [each.status for each in log] == [500, 500, 500, 500, 500, 200]
    assert [each.number for each in log] == [1, 2, 3, 4, 5, 6]
    assert log[0].error == "answered 500 Internal Server Error"
    assert log[5].error is None
    assert {(each.id, each.body) for each in receiver.requests} == {
        (str(delivery.id), receiver.requests[0].body)
    }
    assert all(each.is_signed_by(_secret(webhook)) for each in receiver.requests)
    assert not receiver.requests[0].is_signed_by(_secret(webhook, 2))
    payload = json.loads(receiver.requests[0].body)
    assert payload["type"] == "run.created"
    assert payload["data"]["run"]["id"] == str(run.id)


def test_a_message_says_what_the_run_was_at_the_event(
    database: Database, a_deliverer: StartDeliverer
) -> None:
    with answering(204) as receiver:
        a_webhook(database, receiver.url, "run.created", "run.cancelled")
        run = a_run(database, tags=["night"], reason="why not", priority=7)
        with database.transaction() as session:
            runs.cancel(session, run.tenant_id, run.id, grace=timedelta(0), reason="enough")
        _ended(database, a_deliverer())

    created, cancelled = sorted(
        (json.loads(each.body) for each in receiver.requests),
        key=lambda payload: payload["timestamp"],
    )
    assert created["data"]["run"]["finished_at"] is None
    assert cancelled["type"] == "run.cancelled"
    payload = cancelled["data"]["run"]
    assert payload["state"] == "cancelled"
    assert payload["workflow"] == "work"
    assert (payload["number"], payload["tags"], payload["priority"]) == (run.number, ["night"], 7)
    assert (payload["reason"], payload["cancel_reason"]) == ("why not", "enough")
    assert payload["finished_at"].endswith("Z")
    assert cancelled["data"]["event"].keys() == {"seq", "data"}
    assert receiver.requests[0].headers["content-type"] == "application/json"


def test_only_matching_webhooks_are_called(database: Database, a_deliverer: StartDeliverer) -> None:
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

    assert sorted(each.path for each in receiver.requests) == [
        "/hook/all",
        "/hook/all",
        "/hook/ours",
    ]


def test_a_run_tells_whom_it_was_given_and_signs_with_the_tenants_secret(
    database: Database, a_deliverer: StartDeliverer
) -> None:
    with answering(200) as receiver:
        run = a_run(
            database,
            notifications={
                "events": ["run.created"],
                "webhooks": [receiver.url],
                "mail": ["a@b.example"],
            },
        )
        ended = _ended(database, a_deliverer())

    assert {(each.kind.value, each.state.value) for each in ended} == {
        ("webhook", "delivered"), ("mail", "failed")
    }  # fmt: skip
    (request,) = receiver.requests
    assert request.is_signed_by(signing.webhook_secret(SECRET_KEY, run.tenant_id, 1))
    (mail,) = (each for each in ended if each.kind == "mail")
    assert "ORCHESTRATOR_SMTP_URL" in str(_log(database, mail)[0].error)


def test_notifications_of_another_form_do_not_stop_the_run(
    database: Database, a_deliverer: StartDeliverer
) -> None:
    run = a_run(database, notifications={"events": ["run.created"], "webhooks": "x", "mail": {}})

    assert run.number
    assert the_deliveries(database) == []


def test_after_a_rotation_both_secrets_are_good_for_a_day(
    database: Database, a_deliverer: StartDeliverer, engine: Engine
) -> None:
    with answering(200) as receiver:
        webhook = a_webhook(database, receiver.url)
        with database.transaction() as session:
            webhooks.rotate_webhook_secret(session, webhook.tenant_id, webhook.id)
        deliverer = a_deliverer()
        a_run(database)
        (both,) = _requests(deliverer, receiver)
        with engine.begin() as connection:
            connection.execute(text("UPDATE webhooks SET rotated_at = now() - interval '25 h'"))
        a_run(database)
        _, alone = _requests(deliverer, receiver, 2)

    assert both.is_signed_by(_secret(webhook, 1))
    assert both.is_signed_by(_secret(webhook, 2))
    assert not alone.is_signed_by(_secret(webhook, 1))
    assert alone.is_signed_by(_secret(webhook, 2))


def test_a_try_whose_sender_died_is_made_again_under_the_same_id(
    database: Database, a_deliverer: StartDeliverer, engine: Engine
) -> None:
    with answering(200) as receiver:
        a_webhook(database, receiver.url)
        a_run(database)
        with database.transaction() as session:  # it is claimed, perhaps sent, and never recorded
            lost = deliveries.claim_delivery(session, after="", full=[], lease=timedelta(minutes=1))
        assert lost is not None
        deliverer = a_deliverer()
        deliverer.wake()
        with database.transaction() as session:
            again = deliveries.claim_delivery(
                session, after="", full=[], lease=timedelta(minutes=1)
            )
        assert again is None
        _age(engine)
        (delivery,) = _ended(database, deliverer)

    assert [each.id for each in receiver.requests] == [str(lost.id)]
    assert (delivery.state, delivery.attempts) == ("delivered", 2)
    assert [each.number for each in _log(database, delivery)] == [2]


def test_a_receiver_that_never_answers_holds_up_nobody_else(
    database: Database, a_deliverer: StartDeliverer
) -> None:
    with dripping() as silent, answering(200) as well:
        a_webhook(database, silent.url)
        for _ in range(10):
            a_run(database)
        deliverer = a_deliverer()
        _requests(deliverer, silent, 2)
        a_webhook(database, well.url)
        for _ in range(20):
            a_run(database)
        deliverer.wake()
        eventually(lambda: len(well.requests) == 20)
        on_their_way = len(silent.requests)

    assert on_their_way == 2
    _give_up(database)


def test_many_that_never_answer_hold_up_nobody_of_their_own_tenant(
    database: Database, a_deliverer: StartDeliverer
) -> None:
    with ExitStack() as exits:
        silent = [exits.enter_context(dripping()) for _ in range(6)]
        well = exits.enter_context(answering(200))
        for each in silent:
            a_webhook(database, each.url)
        for _ in range(5):
            a_run(database)
        deliverer = a_deliverer(within=1)
        for each in silent:  # a second attempt means that the first is over
            _requests(deliverer, each, 3)
        a_webhook(database, well.url)
        for _ in range(20):
            a_run(database)
        began = time.monotonic()
        _requests(deliverer, well, 20)
        took = time.monotonic() - began
        _give_up(database)

    assert took < 10


@pytest.mark.parametrize("kind", ["webhook", "mail"])
def test_a_tenant_for_which_nothing_is_sent_goes_first(
    kind: str,
    other_tenant: UUID,
    tenant_id: UUID,
    database: Database,
    engine: Engine,
    a_deliverer: StartDeliverer,
) -> None:
    lane = "'mail ' || {0}" if kind == "mail" else "{0} || ' host-' || number"
    statement = f"""
        INSERT INTO deliveries (id, tenant_id, kind, target, lane, event, payload)
        SELECT gen_random_uuid(), :tenant_id, :kind, 'x', {lane.format("CAST(:name AS text)")},
            'run.created', '{{}}'
        FROM generate_series(1, :count) AS number
    """
    with engine.begin() as connection:
        for owner, count in ((tenant_id, 100), (other_tenant, 1)):
            params = {"tenant_id": owner, "name": str(owner), "count": count, "kind": kind}
            connection.execute(text(statement), params)
    deliverer = a_deliverer()

    claimed = [deliverer._claim() for _ in range(2)]

    assert {each.tenant_id for each in claimed if each} == {tenant_id, other_tenant}
    _give_up(database)


def test_one_that_is_given_up_can_be_sent_once_more(
    database: Database, a_deliverer: StartDeliverer
) -> None:
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
    assert [each.path for each in receiver.requests] == ["/hook/old"] * 3 + ["/hook/new"]
    assert len({each.id for each in receiver.requests}) == 1


def test_a_receiver_that_is_gone_is_told_nothing_more(
    database: Database, a_deliverer: StartDeliverer
) -> None:
    with answering(410) as receiver:
        webhook = a_webhook(database, receiver.url)
        first, second = a_run(database), a_run(database)
        deliverer = a_deliverer()
        _requests(deliverer, receiver)
        ended = _ended(database, deliverer)
        a_run(database)

    with database.transaction() as session:
        assert not webhooks.get_webhook(session, webhook.tenant_id, webhook.id).active
    assert {each.run_id for each in ended} == {first.id, second.id}
    assert {each.state.value for each in ended} == {"failed"}
    assert len(the_deliveries(database)) == 2


def test_a_deleted_webhook_takes_what_is_on_its_way_with_it(
    database: Database, a_deliverer: StartDeliverer
) -> None:
    with dripping([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], every=0.3) as receiver:
        webhook = a_webhook(database, receiver.url)
        a_run(database)
        deliverer = a_deliverer()
        _requests(deliverer, receiver)
        with database.transaction() as session:
            webhooks.delete_webhook(session, webhook.tenant_id, webhook.id)
        deliverer.end()

    assert the_deliveries(database) == []


def test_a_late_attempt_changes_nothing_unless_it_succeeds(
    database: Database, engine: Engine
) -> None:
    a_webhook(database, "http://127.0.0.1:9/hook")
    a_run(database)
    claims = []
    for _ in range(2):
        with database.transaction() as session:
            claims.append(
                deliveries.claim_delivery(session, after="", full=[], lease=timedelta(minutes=1))
            )
        _age(engine)
    first, second = claims
    assert first is not None
    assert second is not None

    def record(result: http.SendResult, claimed: ClaimedDelivery) -> Delivery:
        with database.transaction() as session:
            deliveries.record_delivery(session, claimed, result, 0.1, Backoff())
        return the_deliveries(database)[0]

    assert record(http.SendResult(error="no", final=True), first).state == "waiting"
    assert record(http.SendResult(status=200), first).state == "delivered"
    assert record(http.SendResult(error="no", final=True), second).state == "delivered"


def test_ids_of_deliveries_are_in_the_order_of_time(database: Database) -> None:
    a_webhook(database, "http://127.0.0.1:9/hook")
    ids_so_far = []
    for _ in range(5):
        a_run(database)
        ids_so_far.append({each.id for each in the_deliveries(database)})

    ids = [each.id for each in the_deliveries(database)]
    assert {each.version for each in ids} == {7}
    assert [set(ids[: count + 1]) for count in range(5)] == ids_so_far
