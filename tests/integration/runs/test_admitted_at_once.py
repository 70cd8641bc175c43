"""A run that is inserted as admitted is as if it had been inserted, admitted and published."""

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from tests.support.factories import WINDOW, a_run, a_spec, the_deliveries, the_events

_WIDE = [{"key": f"w{number}", "uses": "noop", "needs": []} for number in range(20)]
SPECS = {
    "chain": a_spec(steps=6),
    "wide": {
        "name": "work",
        "steps": [*_WIDE, {"key": "j", "uses": "noop", "needs": ["w0", "w3"]}],
    },
    "disabled": {
        "name": "work",
        "queue": "other",
        "steps": [
            {"key": "a", "uses": "noop", "enabled": False},
            {"key": "b", "uses": "noop", "needs": ["a"], "priority": 9, "queue": "third"},
            {"key": "c", "uses": "noop", "needs": ["b"], "enabled": False},
            {"key": "d", "uses": "noop", "needs": ["b", "c"]},
        ],
    },
}
_TABLES = (
    ("runs", "id", "id"),
    ("steps", "run_id", "position"),
    ("events", "run_id", "type, step"),
)
_OWN = {"id", "number", "ordinal", "run_id", "tx", "seq"}  # steps are queued in any order


def _plain(value: Any) -> Any:
    return "a time" if isinstance(value, datetime) else value


def _rows(database: Database, run: Run) -> list[dict[str, Any]]:
    """The rows of a run in all tables, without what differs between two runs."""
    with database.transaction() as session:
        rows = [
            row._asdict()
            for table, by, order in _TABLES
            for row in session.execute(
                text(f"SELECT * FROM {table} WHERE {by} = :id ORDER BY {order}"), {"id": run.id}
            )
        ]
    for row in rows:
        if row.get("task_id"):
            step_id, _, generation = row["task_id"].partition(".")
            assert UUID(step_id) == row["id"]
            row["task_id"] = generation
    return [{name: _plain(row[name]) for name in row.keys() - _OWN} for row in rows]


def _lines(sent: list[Outbound]) -> list[list[tuple[str, str, int]]]:
    """The messages, chain by chain."""
    chains = [[first, *rest] for outbound in sent for first, rest in outbound.messages]
    return [[(each.name, each.queue, each.priority) for each in chain] for chain in chains]


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_its_rows_and_messages_are_those_of_a_run_that_waited(
    database: Database, sent: list[Outbound], spec: dict[str, Any]
) -> None:
    notifications = {"events": ["run.created"], "mail": ["a@example.org"], "webhooks": []}
    later = a_run(database, spec, window=0, notifications=notifications)
    sweeps.admit_waiting(database, 1)  # so that what is beyond the fan-out waits
    rows, messages = _rows(database, later), _lines(sent)
    sent.clear()
    at_once = a_run(database, spec, window=WINDOW, notifications=notifications)

    assert (later.state, at_once.state) == ("pending", "queued")
    assert _rows(database, at_once) == rows
    assert _lines(sent) == messages
    assert the_events(database, at_once) == the_events(database, later)
    assert [each.event for each in the_deliveries(database)] == ["run.created"] * 2
