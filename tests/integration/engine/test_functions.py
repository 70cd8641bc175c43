"""The functions of the database make the transitions of the tables in `orchestrator.states`."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, Engine, text

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.states import (
    OPEN_STEPS,
    RunState,
    RunTransition,
    SkipCause,
    StepState,
    StepTransition,
    satisfies,
)
from tests.support.factories import a_claim, a_run, a_spec, messages_in, the_run

_FINISH = [each for each in StepTransition if each.sources == {StepState.RUNNING}]
_CLAIM = "SELECT claim_step(:id, 1, 'w', 1, NULL, '1 s', '1 s', '{}')"
_FINISH_STEP = """
    SELECT finish_step(:run_id, :id, 1, 1, :event, :target, 'succeeded', '{"after": 1}', NULL, NULL,
        0, NULL, 'carrier', CAST(:worker AS text), 1, ARRAY['default'], '1 s', '1 s', '{}')
"""


class Scene:
    """A run of two steps, of which the first one runs, in a transaction that is rolled back."""

    def __init__(self, connection: Connection, run_id: object, ids: list[object]) -> None:
        self._connection, self._run_id, self._ids = connection, run_id, ids

    def execute(self, statement: str, step: int = 0, **params: object) -> None:
        """Execute a statement about a step."""
        known = {"run_id": self._run_id, "id": self._ids[step]}
        self._connection.execute(text(statement), known | params)

    def finish(self, transition: StepTransition, worker: str | None = None) -> None:
        """End the attempt of the first step."""
        names = {"event": transition.event, "target": transition.target, "worker": worker}
        self.execute(_FINISH_STEP, **names)

    def state(self, table: str = "steps", step: int = 0) -> str:
        """The state of a step, or of the run."""
        id = self._run_id if table == "runs" else self._ids[step]
        statement = text(f"SELECT state FROM {table} WHERE id = :id")
        return str(self._connection.scalar(statement, {"id": id}))

    def events(self) -> list[str]:
        """The events of the run, and the number of the last one."""
        statement = text("SELECT type FROM events WHERE run_id = :id ORDER BY seq")
        return list(self._connection.scalars(statement, {"id": self._run_id}))


@pytest.fixture
def scene(database: Database, sent: list[Outbound], engine: Engine) -> Iterator[object]:
    run = a_run(database, a_spec(steps=2))
    assert a_claim(database, messages_in(sent)[0].task_id)
    ids = [step.id for step in the_run(database, run).steps]

    @contextmanager
    def begin() -> Iterator[Scene]:
        with engine.connect() as connection, connection.begin() as transaction:
            yield Scene(connection, run.id, ids)
            transaction.rollback()

    return begin


@pytest.mark.parametrize("transition", _FINISH, ids=lambda each: each.name)
@pytest.mark.parametrize("state", StepState)
def test_an_attempt_ends_only_from_running(scene, transition, state) -> None:  # type: ignore[no-untyped-def]
    with scene() as here:
        here.execute("UPDATE steps SET state = :state WHERE id = :id", state=state)
        before = len(here.events())

        here.finish(transition)

        moves = state in transition.sources
        assert here.state() == (transition.target if moves else state)
        assert here.events()[before : before + 1] == ([transition.event] if moves else [])


@pytest.mark.parametrize("worker", ["w", None])
@pytest.mark.parametrize("state", StepState)
def test_only_a_pending_step_becomes_ready_or_is_claimed_in_place(scene, state, worker) -> None:  # type: ignore[no-untyped-def]
    transition = StepTransition.CONTINUE if worker else StepTransition.READY
    with scene() as here:
        here.execute("UPDATE steps SET state = :state WHERE id = :id", 1, state=state)

        here.finish(StepTransition.SUCCEED, worker)

        moves = state in transition.sources
        assert here.state(step=1) == (transition.target if moves else state)
        assert (transition.event in here.events()[-1:]) == moves


@pytest.mark.parametrize("state", StepState)
def test_a_failure_omits_the_steps_that_have_not_begun(scene, state) -> None:  # type: ignore[no-untyped-def]
    with scene() as here:
        here.execute("UPDATE steps SET state = :state WHERE id = :id", 1, state=state)

        here.finish(StepTransition.FAIL)

        moves = state in StepTransition.OMIT.sources
        assert here.state(step=1) == (StepTransition.OMIT.target if moves else state)
        assert (StepTransition.OMIT.event in here.events()) == moves


@pytest.mark.parametrize("run_state", RunState)
@pytest.mark.parametrize("state", StepState)
def test_a_claim_needs_a_queued_step_of_a_run_that_goes_on(scene, state, run_state) -> None:  # type: ignore[no-untyped-def]
    with scene() as here:
        here.execute("DELETE FROM attempts WHERE step_id = :id")
        here.execute("UPDATE steps SET state = :state, attempt = 0 WHERE id = :id", state=state)
        here.execute("UPDATE runs SET state = :state WHERE id = :run_id", state=run_state)
        before = len(here.events())

        here.execute(_CLAIM)

        starts = run_state in RunTransition.START.sources
        moves = state in StepTransition.CLAIM.sources and (
            starts or run_state == RunTransition.START.target
        )
        assert here.state() == (StepTransition.CLAIM.target if moves else state)
        assert here.state("runs") == (RunTransition.START.target if moves else run_state)
        events = [RunTransition.START.event] * (moves and starts)
        assert here.events()[before:] == events + [StepTransition.CLAIM.event] * moves


@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize(
    ("transition", "row"),
    [
        (RunTransition.SUCCEED, "state = 'succeeded'"),
        (RunTransition.FAIL, "state = 'failed'"),
        (RunTransition.STOPPED, "state = 'cancelled'"),
        (RunTransition.TIME_OUT, "state = 'cancelled'"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_a_run_without_open_steps_ends_by_the_table(scene, transition, row, state) -> None:  # type: ignore[no-untyped-def]
    with scene() as here:
        here.execute(f"UPDATE steps SET {row} WHERE run_id = :run_id")
        here.execute(
            "UPDATE runs SET state = :state, timed_out = :late WHERE id = :run_id",
            state=state,
            late=transition == RunTransition.TIME_OUT,
        )
        before = len(here.events())

        here.execute("SELECT close_run(:run_id)")

        if state in transition.sources:
            assert here.state("runs") == transition.target
            assert here.events()[before:] == [transition.event]
        elif state not in (RunState.RUNNING, RunState.CANCELLING):
            assert here.state("runs") == state
            assert here.events()[before:] == []


_ENDS = [
    (state, cause, allowed)
    for state in sorted(set(StepState) - OPEN_STEPS)
    for cause in ((None,) if state != StepState.SKIPPED else tuple(SkipCause))
    for allowed in (True, False)
]


@pytest.mark.parametrize(("state", "cause", "allowed"), _ENDS)
def test_a_run_succeeds_if_every_step_is_satisfied(scene, state, cause, allowed) -> None:  # type: ignore[no-untyped-def]
    with scene() as here:
        here.execute("UPDATE steps SET state = 'succeeded' WHERE run_id = :run_id")
        row = {"state": state, "cause": cause, "allowed": allowed}
        here.execute(
            "UPDATE steps SET state = :state, skip_cause = :cause, allow_failure = :allowed"
            " WHERE id = :id",
            1,
            **row,
        )

        here.execute("SELECT close_run(:run_id)")

        ends = RunTransition.SUCCEED if satisfies(state, cause, allowed) else RunTransition.FAIL
        assert here.state("runs") == ends.target
