"""The right to one try of one delivery: who has it, and what a late one may still change."""

from datetime import timedelta

from sqlalchemy import Engine, text

from orchestrator import deliveries
from orchestrator.db import Database
from orchestrator.deliveries import Backoff
from orchestrator.delivery_models import Delivery
from tests.factories import a_run, a_webhook, the_deliveries


def _age(engine: Engine) -> None:
    """Let every lease and pause be over."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET next_at = now() WHERE state = 'waiting'"))


def test_who_was_too_late_changes_nothing_but_a_success_counts(
    database: Database, engine: Engine
) -> None:
    a_webhook(database, "http://127.0.0.1:9/hook")
    a_run(database)
    claimed = []
    for _ in range(2):
        with database.transaction() as session:
            claimed.append(deliveries.claim(session, after="", full=[], lease=timedelta(minutes=1)))
        _age(engine)
    first, second = claimed
    assert first is not None
    assert second is not None

    def record(answer: deliveries.Answer, held: deliveries.Claimed) -> Delivery:
        with database.transaction() as session:
            deliveries.record(session, held, answer, 0.1, Backoff())
        return the_deliveries(database)[0]

    assert record(deliveries.Answer(error="no", final=True), first).state == "waiting"
    assert record(deliveries.Answer(status=200), first).state == "delivered"
    assert record(deliveries.Answer(error="no", final=True), second).state == "delivered"


def test_deliveries_have_the_order_of_time(database: Database) -> None:
    a_webhook(database, "http://127.0.0.1:9/hook")
    made = []
    for _ in range(5):
        a_run(database)
        made.append({each.id for each in the_deliveries(database)})

    ids = [each.id for each in the_deliveries(database)]
    assert {each.version for each in ids} == {7}
    assert [set(ids[: count + 1]) for count in range(5)] == made
