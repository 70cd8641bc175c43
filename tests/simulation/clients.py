"""Requests of clients to an API that may die meanwhile; a failed request may be lost."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from orchestrator import runs
from orchestrator.errors import Conflict, InvalidTransition, NotFound
from orchestrator.runs import RetryMode, RetryRequest, RetryTarget
from orchestrator.states import RunState
from tests.simulation import checks
from tests.simulation.broker import SimulatedBroker
from tests.simulation.postgres import Crashed, Fate, Postgres, SimulatedDatabase, fate
from tests.simulation.script import Action
from tests.simulation.witness import Witness
from tests.simulation.workers import GRACE
from tests.simulation.workflows import WORKFLOWS
from tests.support.factories import a_tenant

WINDOW = 2
MAX_RUNS = 4
_STEPS = ("a", "b", "c")


class Clients:
    """All clients, and their API; each call is one request."""

    def __init__(self, postgres: Postgres, broker: SimulatedBroker, witness: Witness) -> None:
        self.have_keys = False  # whether a run has a concurrency key
        self._postgres, self._witness = postgres, witness
        self._api = SimulatedDatabase(postgres, broker.deliver)
        self._runs: list[UUID] = []
        with self._api.transaction() as session:
            self._tenant_id = a_tenant(session)

    def submit(self, action: Action) -> str | None:
        """Submit a run, sometimes with a start time or a concurrency key."""
        if len(self._runs) >= MAX_RUNS:
            return None
        workflow = str(WORKFLOWS[action.a % len(WORKFLOWS)]["name"])
        later = 3.0 if action.b % 5 == 0 else None
        key = "k" if action.c % 3 == 0 else None
        priority = (2, 4, 8)[action.d % 3]
        self.have_keys = self.have_keys or key is not None
        new = runs.NewRun(
            workflow=workflow,
            params={"go": action.c % 2 == 0},
            priority=priority,
            concurrency_key=key,
            run_at=None if later is None else self._postgres.time(later),
        )

        def submit() -> str:
            full = checks.unclaimed(self._postgres.connection) >= WINDOW
            with self._api.transaction() as session:
                run, _ = runs.submit(session, self._tenant_id, new, window=WINDOW)
            assert not (full and run.state == RunState.QUEUED), "admitted into a full window"
            return self._accepted(run.id, later)

        description = f"client submits {workflow}, priority {priority}{', key k' if key else ''}"
        return f"{description}: {self._send(action, submit)}"

    def cancel(self, action: Action) -> str | None:
        """Cancel a run, sometimes by force."""
        grace = timedelta(0) if action.b % 3 == 0 else GRACE

        def cancel(run_id: UUID) -> str:
            with self._api.transaction() as session:
                return runs.cancel(session, self._tenant_id, run_id, grace=grace).state

        return self._on_run(action, f"cancels, grace {grace.total_seconds():g} s", cancel)

    def reprioritise(self, action: Action) -> str | None:
        """Change the priority of a run."""

        def change(run_id: UUID) -> str:
            with self._api.transaction() as session:
                return runs.change(session, self._tenant_id, run_id, priority=action.b % 10).state

        return self._on_run(action, f"gives priority {action.b % 10} to", change)

    def retry(self, action: Action) -> str | None:
        """Retry a run, in place or as a new one."""
        mode = (RetryMode.FULL, RetryMode.FROM_FAILED, RetryMode.FROM_FAILED, RetryMode.FROM_STEP)[
            action.b % 4
        ]
        where = (
            RetryTarget.NEW
            if action.c % 3 == 0 and len(self._runs) < MAX_RUNS
            else RetryTarget.SAME
        )
        request = RetryRequest(mode=mode, where=where, step=_STEPS[action.d % 3])

        def retry(run_id: UUID) -> str:
            with self._api.transaction() as session:
                run = runs.retry(session, self._tenant_id, run_id, request, window=WINDOW)
                again = [step.id for step in runs.steps(session, run) if step.state != "succeeded"]
            self._witness.reset([*again, run_id])
            return run.state if where == RetryTarget.SAME else self._accepted(run.id)

        return self._on_run(action, f"retries {mode} as {where}", retry)

    def _accepted(self, run_id: UUID, later: float | None = None) -> str:
        self._runs.append(run_id)
        if later is not None:
            self._witness.not_before[run_id] = self._postgres.now + later
        return f"run {len(self._runs)}{f' in {later:g} s' if later else ''}"

    def _on_run(self, action: Action, verb: str, call: Callable[[UUID], str]) -> str | None:
        if not self._runs:
            return None
        index = action.a % len(self._runs)
        response = self._send(action, lambda: call(self._runs[index]))
        return f"client {verb} run {index + 1}: {response}"

    def _send(self, action: Action, call: Callable[[], str]) -> str:
        self._api.face(fate(action.c // 3))
        try:
            return call()
        except (InvalidTransition, Conflict, NotFound) as error:
            return type(error).__name__
        except Crashed as crash:
            return f"the API dies {'after' if crash.committed else 'before'} its commit"
        finally:
            self._api.face(Fate())
