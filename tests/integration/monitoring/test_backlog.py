"""Counts and positions of waiting runs are exact at every moment, also under concurrent writes."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from orchestrator import runs, workflows
from orchestrator.db.database import Database
from orchestrator.engine import admission
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from orchestrator.monitoring import backlog, status
from tests.support.factories import GRACE, a_run, a_spec, a_tenant, the_run

_COUNTED = """
    SELECT queue, priority, count(*) FROM runs WHERE state = 'pending' AND due
    GROUP BY queue, priority
"""
_QUEUES = ("default", "io")


def _counted(session: Session) -> dict[str, dict[int, int]]:
    """Waiting runs by queue and priority, counted row by row."""
    counts: dict[str, dict[int, int]] = {}
    for queue, priority, count in session.execute(text(_COUNTED)):
        counts.setdefault(queue, {})[priority] = count
    return counts


def _ranked(session: Session, queue: str) -> list[Run]:
    """The waiting runs of a queue in rank order, sorted row by row."""
    waits = "(state = 'queued' OR state = 'pending' AND due) AND queue = :queue"
    statement = text(
        f"SELECT id FROM runs WHERE {waits} ORDER BY priority DESC, state = 'pending', number"
    )
    ids = list(session.scalars(statement, {"queue": queue}))
    return [session.get_one(Run, run_id) for run_id in ids]


def _position(session: Session, run: Run) -> int | None:
    place = backlog.place_of(session, run.tenant_id, run.id)
    return place and place.position


def _check(database: Database) -> None:
    # Two statements can be compared only in the same snapshot.
    with database.transaction() as session:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        assert backlog.count_waiting(session, a_tenant(session)) == _counted(session)
        line = status.first_in_line(session, a_tenant(session), 1000)
        assert len({run.id for run, _ in line}) == len(line)
        for queue in _QUEUES:
            ranked = _ranked(session, queue)
            places = [(run.id, estimate.position) for run, estimate in line if run.queue == queue]
            assert places == [(run.id, place) for place, run in enumerate(ranked, start=1)]
            positions = [_position(session, run) for run in ranked]
            assert positions == list(range(1, len(ranked) + 1))


def _any(database: Database, dice: random.Random, which: str) -> Run | None:
    with database.transaction() as session:
        ids = list(session.scalars(text(f"SELECT id FROM runs WHERE {which} ORDER BY number")))
        return session.get_one(Run, dice.choice(ids)) if ids else None


def _submit(database: Database, dice: random.Random) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    queue = dice.choice(_QUEUES)
    with database.transaction() as session:
        new = runs.NewRun(
            workflow=queue,
            priority=dice.randrange(10),
            run_at=dice.choice([None, None, None, later]),
            start=dice.random() > 0.2,
            concurrency_key=dice.choice([None, None, "one"]),
        )
        runs.submit(session, a_tenant(session), new, window=dice.choice([0, 0, 5]))


def _cancel(database: Database, dice: random.Random) -> None:
    if run := _any(database, dice, "state IN ('pending', 'queued')"):
        with database.transaction() as session:
            runs.cancel(session, run.tenant_id, run.id, grace=GRACE)


def _reprioritise(database: Database, dice: random.Random) -> None:
    if run := _any(database, dice, "state IN ('pending', 'queued')"):
        with database.transaction() as session:
            runs.change(session, run.tenant_id, run.id, priority=dice.randrange(10))


def _admit(database: Database, dice: random.Random) -> None:
    if run := _any(database, dice, "state = 'pending' AND due"):
        with database.transaction() as session:
            admission.admit_runs(session, [run.id])


def _reopen(database: Database, dice: random.Random) -> None:
    if run := _any(database, dice, "state = 'cancelled'"):
        with database.transaction() as session:
            again = runs.RetryRequest(mode=runs.RetryMode.FULL, priority=dice.randrange(10))
            runs.retry(session, run.tenant_id, run.id, again, window=0)


def _release(database: Database, dice: random.Random) -> None:
    if run := _any(database, dice, "state = 'pending' AND held"):
        with database.transaction() as session:
            runs.start_held_run(session, run.tenant_id, run.id, window=0)


def _delete(database: Database, dice: random.Random) -> None:
    if run := _any(database, dice, "true"):
        with database.transaction() as session:
            session.execute(text("DELETE FROM runs WHERE id = :id"), {"id": run.id})


def _move_number(database: Database, dice: random.Random) -> None:
    """Let the next numbers fall into other buckets."""
    step = dice.choice([1, 700, 5_000, 3_000_000])
    with database.transaction() as session:
        name = f"runs_of_{a_tenant(session).hex}"
        session.execute(text(f"CREATE SEQUENCE IF NOT EXISTS {name}"))
        session.execute(text(f"SELECT setval('{name}', nextval('{name}') + {step})"))


def _fold(database: Database, dice: random.Random) -> None:
    with database.transaction() as session:
        backlog.fold_backlog(session, limit=dice.choice([1, 3, 1000]))


_ACTIONS: list[Callable[[Database, random.Random], None]] = [
    *[_submit] * 4, _cancel, _reprioritise, _reprioritise, _admit, _reopen, _release, _delete,
    _move_number, _fold, _fold,
]  # fmt: skip


def _workflows(database: Database) -> None:
    with database.transaction() as session:
        for queue in _QUEUES:
            workflows.register(session, a_tenant(session), a_spec(queue, queue=queue))


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_places_are_exact_after_whatever_happens(database: Database, seed: int) -> None:
    dice = random.Random(seed)
    _workflows(database)

    for _ in range(120):
        dice.choice(_ACTIONS)(database, dice)
        _check(database)


def test_counts_are_exact_while_many_write_and_fold(database: Database) -> None:
    _workflows(database)
    ended = threading.Event()

    def write(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(40):
            _submit(database, dice)
            _fold(database, dice)

    def watch(_: int) -> int:
        looks = 0
        while not ended.is_set():
            _check(database)
            looks += 1
        return looks

    with ThreadPoolExecutor(6) as threads:
        watchers = [threads.submit(watch, number) for number in range(2)]
        for writer in [threads.submit(write, seed) for seed in range(4)]:
            writer.result()
        ended.set()
        assert sum(watcher.result() for watcher in watchers) > 0
    while sweeps.fold_counters(database):
        _check(database)
    _check(database)


def test_folding_leaves_no_changes_and_no_empty_rows(database: Database, engine: Engine) -> None:
    run = a_run(database, window=0)
    a_run(database, window=0)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)

    with database.transaction() as session:
        assert backlog.fold_backlog(session) == 3
    sweeps.fold_counters(database)
    assert sweeps.fold_counters(database) == 0

    with engine.connect() as connection:
        rows = connection.execute(text("SELECT level, runs FROM backlog ORDER BY level")).all()
        assert [tuple(row) for row in rows] == [(1, 1), (2, 1)]
    sweeps.admit_waiting(database, 1)
    sweeps.fold_counters(database)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT FROM backlog")).all() == []


def test_only_one_scheduler_folds_at_a_time(database: Database) -> None:
    a_run(database, window=0)

    with database.transaction() as session:
        assert backlog.fold_backlog(session) == 1
        with database.transaction() as other:
            assert backlog.fold_backlog(other) == 0
        a_run(database, window=0)
        with database.transaction() as other:
            assert backlog.fold_backlog(other) == 0

    with database.transaction() as session:
        assert backlog.fold_backlog(session) == 1
    _check(database)


def test_a_higher_priority_is_ahead_and_an_equal_one_in_turn(database: Database) -> None:
    low, first, second, high = (a_run(database, window=0, priority=p) for p in (1, 4, 4, 9))

    with database.transaction() as session:
        positions = [_position(session, run) for run in (high, first, second, low)]

    assert positions == [1, 2, 3, 4]


def test_what_was_admitted_already_is_ahead(database: Database) -> None:
    admitted = a_run(database, window=1)
    waiting = a_run(database, window=1)
    urgent = a_run(database, window=1, priority=9)

    assert the_run(database, admitted).state == "queued"
    with database.transaction() as session:
        assert backlog.count_admitted(session, a_tenant(session)) == {
            admitted.queue: {admitted.priority: 1}
        }
        assert [run.id for run, _ in status.first_in_line(session, a_tenant(session), 2)] == [
            urgent.id,
            admitted.id,
        ]
        positions = [_position(session, run) for run in (urgent, admitted, waiting)]

    assert positions == [1, 2, 3]


def test_what_waits_for_something_else_has_no_place(database: Database) -> None:
    holder = a_run(database, concurrency_key="k", window=0)
    others = [
        a_run(database, concurrency_key="k", window=0),
        a_run(database, start=False, window=0),
        a_run(database, run_at=datetime.now(UTC) + timedelta(hours=1), window=0),
    ]

    with database.transaction() as session:
        assert _position(session, holder) == 1
        assert [_position(session, run) for run in others] == [None, None, None]
        assert status.wait_estimates(session, others) == {}
