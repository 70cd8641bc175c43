"""The right to one try of one delivery: who has it, and what a late one may still change."""

from datetime import timedelta

from sqlalchemy import Engine, text

from orchestrator.db.database import Database
from orchestrator.models import Delivery
from orchestrator.notifications import deliveries, http
from orchestrator.notifications.deliveries import Backoff
from tests.support.factories import a_run, a_webhook, the_deliveries


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
            claimed.append(
                deliveries.claim_deliveries(session, after="", full=[], lease=timedelta(minutes=1))
            )
        _age(engine)
    first, second = claimed
    assert first is not None
    assert second is not None

    def record(answer: http.SendResult, held: deliveries.ClaimedDelivery) -> Delivery:
        with database.transaction() as session:
            deliveries.record_delivery(session, held, answer, 0.1, Backoff())
        return the_deliveries(database)[0]

    assert record(http.SendResult(error="no", final=True), first).state == "waiting"
    assert record(http.SendResult(status=200), first).state == "delivered"
    assert record(http.SendResult(error="no", final=True), second).state == "delivered"


def test_deliveries_have_the_order_of_time(database: Database) -> None:
    a_webhook(database, "http://127.0.0.1:9/hook")
    made = []
    for _ in range(5):
        a_run(database)
        made.append({each.id for each in the_deliveries(database)})

    ids = [each.id for each in the_deliveries(database)]
    assert {each.version for each in ids} == {7}
    assert [set(ids[: count + 1]) for count in range(5)] == made
