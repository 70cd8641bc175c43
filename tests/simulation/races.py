"""Two verbs on one run: the first stops after its k-th statement, and the second comes between.

With real commits on two connections. The second runs until it ends or waits for a lock; then both
end. What is left has to be what one of the two orders, one after the other, would have left.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, event, text

from orchestrator import runs
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import attempts, leases
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.errors import OrchestratorError
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from orchestrator.runs import RetryMode, RetryRequest
from tests.support.factories import (
    GRACE,
    LEASE,
    WINDOW,
    a_claim,
    a_run,
    eventually,
    messages_in,
    the_events,
    the_run,
)

_SPEC = {
    "name": "raced",
    "steps": [
        {"key": "a", "uses": "noop", "needs": []},
        {"key": "b", "uses": "noop", "needs": []},
        {"key": "c", "uses": "noop", "needs": ["a", "b"]},
    ],
}
_WAITS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'second' AND wait_event_type = 'Lock'
"""


class NothingInBroker:
    """A broker that has lost everything."""

    def pending(self, queues: Collection[str]) -> Mapping[str, set[str]]:
        """No task waits."""
        return {queue: set() for queue in queues}


@dataclass
class Scene:
    """A run in some state, and what workers know of it."""

    run: Run
    claims: dict[str, Claim]  # by step
    tasks: dict[str, str]


Verb = Callable[[Database, Scene], object]


def record(step: str, outcome: Any) -> Verb:
    """The worker of a step tells how it ended."""

    def verb(database: Database, scene: Scene) -> object:
        with database.transaction() as session:
            return attempts.record_outcome(session, scene.claims[step], outcome).queue

    return verb


def _cancel(database: Database, scene: Scene) -> object:
    with database.transaction() as session:
        return runs.cancel(session, scene.run.tenant_id, scene.run.id, grace=GRACE).state


def _retry(database: Database, scene: Scene) -> object:
    with database.transaction() as session:
        request = RetryRequest(mode=RetryMode.FULL)
        return runs.retry(session, scene.run.tenant_id, scene.run.id, request, window=WINDOW).state


def _reprioritise(database: Database, scene: Scene) -> object:
    with database.transaction() as session:
        runs.change(session, scene.run.tenant_id, scene.run.id, priority=8)
    return None


def _lose(database: Database, scene: Scene) -> object:
    with database.transaction() as session:
        return (
            attempts.end_lost_attempt(session, scene.tasks["a"], "its process ended", worker="w1")
            is not None
        )


def _renew(database: Database, scene: Scene) -> object:
    with database.transaction() as session:
        leases.renew_leases(session, "w1", [scene.tasks["a"]], lease=LEASE)
    return None


def _claim(database: Database, scene: Scene) -> object:
    return a_claim(database, scene.tasks["a"]) is not None


_SWEEPS: dict[str, Callable[[Database], int]] = {
    "admit": lambda database: sweeps.admit_waiting(database, WINDOW),
    "wake": sweeps.wake_waiting_steps,
    "rescue": sweeps.rescue_expired,
    "republish": lambda database: sweeps.republish_lost(database, NothingInBroker()),  # type: ignore[arg-type]
    "expire": lambda database: sweeps.expire_timed_out(database, GRACE),
}


def _sweep(name: str) -> Verb:
    return lambda database, _: _SWEEPS[name](database) and None


VERBS: dict[str, Verb] = {
    "succeed a": record("a", Succeeded({"n": 1})),
    "succeed b": record("b", Succeeded()),
    "fail a": record("a", Failed("it went wrong")),
    "fail b": record("b", Failed("it went wrong")),
    "lose a": _lose,
    "renew": _renew,
    "claim a": _claim,
    "cancel": _cancel,
    "retry": _retry,
    "reprioritise": _reprioritise,
    **{name: _sweep(name) for name in _SWEEPS},
}


class Races:
    """Sets scenes up, and lets two verbs meet in them."""

    def __init__(self, first: Engine, second: Engine) -> None:
        self._sent: list[Outbound] = []
        self._first, self._second = (Database(each, self._sent.append) for each in (first, second))
        self._here = threading.local()
        event.listen(first, "after_cursor_execute", self._after_statement)

    def serial(self, name: str, *verbs: str) -> object:
        """What is left when one verb ends before the other begins."""
        scene = self._set(name)
        for verb in verbs:
            self._do(verb, self._first, scene)
        return self._left(scene, verbs)

    def statements(self, name: str, verb: str) -> int:
        """How many statements a verb takes."""
        scene = self._set(name)
        with self._watched(stop_after=0) as gate:
            self._do(verb, self._first, scene)
        return gate.count

    def meet(self, name: str, first: str, second: str, after: int) -> object:
        """What is left when the second comes after so many statements of the first."""
        scene = self._set(name)
        gate = Gate(stop_after=after)
        with ThreadPoolExecutor(2) as threads:
            one = threads.submit(self._stopping, gate, first, scene)
            gate.stopped.wait(10)
            two = threads.submit(self._do, second, self._second, scene)
            eventually(lambda: two.done() or self._waits(), within=10, every=0.005)
            gate.go_on.set()
            _ = one.result(20), two.result(20)
        return self._left(scene, (first, second))

    def _set(self, name: str) -> Scene:
        """A new run in the scene's state, and nothing else in the tables."""
        with self._first.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM runs; DELETE FROM idempotency_keys")
        self._sent.clear()
        scene = self._scene(name)
        self._sent.clear()
        return scene

    def _scene(self, name: str) -> Scene:
        window = 0 if name == "pending" else WINDOW
        run = a_run(self._first, _SPEC, window=window)
        tasks = {message.name[6:7]: message.task_id for message in messages_in(self._sent)}
        scene = Scene(run, {}, tasks)
        if name in ("pending", "published"):
            self._age("UPDATE steps SET published_at = now() - interval '1 h' WHERE key = 'a'")
            return scene
        for key in ("a", "b"):
            lease = timedelta(0) if name == "silent" and key == "a" else LEASE
            claim = a_claim(self._first, tasks[key], lease=lease)
            assert claim is not None
            scene.claims[key] = claim
        if name == "waiting":
            after = timedelta(0)
            self._age("UPDATE steps SET max_attempts = 3")
            retry = (
                '{"attempts": 3, "delay": 0, "backoff": 1, "max_delay": 0, "jitter": 0, "on": []}'
            )
            self._age(f"""UPDATE steps SET spec = spec || '{{"retry": {retry}}}'""")
            record("a", Failed("not yet", after=after))(self._first, scene)
        if name == "late":
            self._age("UPDATE runs SET deadline_at = now() - interval '1 s'")
        if name == "ended":
            for key in ("a", "b"):
                record(key, Failed("it went wrong"))(self._first, scene)
        return scene

    def _age(self, sql: str) -> None:
        with self._first.engine.begin() as connection:
            connection.exec_driver_sql(sql)

    def _left(self, scene: Scene, verbs: tuple[str, ...]) -> object:
        """What can be seen afterwards; a sweep that let a locked run be comes again."""
        for verb in verbs:
            if verb in _SWEEPS:
                self._do(verb, self._first, scene)
        run = the_run(self._first, scene.run)
        steps = [
            (step.key, step.state, step.attempt, step.losses, step.priority, step.generation)
            for step in run.steps
        ]
        return run.state, run.timed_out, run.priority, steps, the_events(self._first, run)

    def _do(self, verb: str, database: Database, scene: Scene) -> None:
        with suppress(OrchestratorError):  # refused: as good an answer as any, and the rows show it
            VERBS[verb](database, scene)

    def _stopping(self, gate: "Gate", verb: str, scene: Scene) -> None:
        self._here.gate = gate
        try:
            self._do(verb, self._first, scene)
        finally:
            self._here.gate = None
            gate.stopped.set()

    @contextmanager
    def _watched(self, stop_after: int) -> Iterator["Gate"]:
        self._here.gate = gate = Gate(stop_after)
        try:
            yield gate
        finally:
            self._here.gate = None

    def _after_statement(self, *_: Any) -> None:
        gate = getattr(self._here, "gate", None)
        if gate is not None:
            gate.passed()

    def _waits(self) -> bool:
        with self._first.engine.connect() as connection:
            return bool(connection.scalar(text(_WAITS)))


class Gate:
    """Where the first verb stops until the second has had its turn."""

    def __init__(self, stop_after: int) -> None:
        self.count = 0
        self.stopped, self.go_on = threading.Event(), threading.Event()
        self._stop_after = stop_after

    def passed(self) -> None:
        """A statement has been executed."""
        self.count += 1
        if self.count == self._stop_after:
            self.stopped.set()
            self.go_on.wait(15)
