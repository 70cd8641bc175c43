"""One seed: clients, two workers, a scheduler, a broker and Postgres, and all that befalls them."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from orchestrator import reruns, runs, submission, sweeps
from orchestrator.errors import Conflict, InvalidTransition, NotFound
from orchestrator.reruns import As, Mode, Rerun
from orchestrator.states import RunState
from tests.factories import a_tenant
from tests.simulation import checks
from tests.simulation.broker import SimulatedBroker
from tests.simulation.postgres import Crashed, Fate, Postgres, SimulatedDatabase, simulated
from tests.simulation.script import Action
from tests.simulation.witness import Witness
from tests.simulation.workers import GRACE, HANDLERS, LEASE, Worker
from tests.simulation.workflows import WORKFLOWS

WINDOW = 2
MOST_RUNS = 4
_PATIENCE = 240.0  # virtual seconds in which everything ends once nothing goes wrong any more
_WAITS = (0.1, 0.5, 1, 1, 2, 3, 4, 16)
_STEPS = ("a", "b", "c")
_LONGEST = {"hangs": 8.0, "is stubborn": 30.0}  # once nothing goes wrong any more


class World:
    """Carries out actions, and writes down what they were."""

    def __init__(self, postgres: Postgres, *, checks_always: bool) -> None:
        self.postgres, self.history = postgres, list[str]()
        self._checks_always = checks_always
        self._broker, self._witness = SimulatedBroker(), Witness(postgres)
        self._workers = [self._worker(f"w{number}") for number in (1, 2)]
        self._born = len(self._workers)
        self._api = SimulatedDatabase(postgres, self._broker.deliver)
        self._scheduler = SimulatedDatabase(postgres, self._broker.deliver)
        self._runs: list[UUID] = []
        self._keyed = False  # whether a run has a concurrency key
        self._cancelled_at: dict[UUID, float] = {}
        with self._api.transaction() as session:
            self._tenant_id = a_tenant(session)

    def act(self, action: Action) -> None:
        """Let one thing happen; what makes no sense now does nothing."""
        try:
            said = getattr(self, f"_{action.name}")(action)
        except OperationalError:
            said = f"{action.name}: postgres is away"
        if said:
            self._say(said)
        if self._checks_always and not self.postgres.away:
            checks.check(self.postgres.connection)

    def end(self) -> None:
        """Nothing goes wrong any more: everything has to end, and what is written has to hold."""
        self._say("nothing goes wrong any more")
        self.postgres.away_until = 0.0
        self._broker.recover()
        began = self.postgres.now
        while left := checks.open_runs(self.postgres.connection):
            late = self.postgres.now - began
            assert late < _PATIENCE, f"not ended after {late:.0f} s: {left}"
            self._see_cancelled(left, began)
            self._round()
        checks.check(self.postgres.connection)
        written = checks.successes(self.postgres.connection)
        assert written == self._witness.believed, "the rows know other successes than the workers"

    def _round(self) -> None:
        """A moment in which everybody does what there is to do."""
        before = len(self.history)
        for _ in range(4):
            for worker in self._workers:
                worker_did = [self._finish(worker, which) for which in range(2)]
                if any(worker_did):
                    self._say_of(worker, "; ".join(each for each in worker_did if each))
        for worker in self._workers:
            self._say_of(worker, worker.beat())
        self._sweep_all(Fate())
        moved = any(" sweeps" in line or "records" in line for line in self.history[before:])
        self.postgres.wait(0.5 if moved or self._cancelled_at else 2)

    def _finish(self, worker: Worker, which: int) -> str | None:
        """Everybody succeeds in the end; who does not obey is left to be killed."""
        for slot in worker.slots:
            longest = _LONGEST.get(slot.handler)
            if longest is not None and self.postgres.now - slot.began > longest:
                slot.handler = "succeeds"
        return worker.work(which, "succeeds", Fate(), True)

    def _see_cancelled(self, left: Sequence[Any], began: float) -> None:
        """A cancelled run ends within its grace and 2 seconds of a system that lives."""
        stopping = {row[0] for row in left if row[2] == "cancelling"}
        for run_id in stopping:
            since = self._cancelled_at.setdefault(run_id, self.postgres.now)
            late = self.postgres.now - since - GRACE.total_seconds()
            assert late <= 2.5, f"a cancelled run has not ended {late:.1f} s after its grace"
        for run_id in self._cancelled_at.keys() - stopping:
            del self._cancelled_at[run_id]

    # What clients do.

    def _submit(self, action: Action) -> str | None:
        if len(self._runs) >= MOST_RUNS:
            return None
        workflow = str(WORKFLOWS[action.a % len(WORKFLOWS)]["name"])
        later = 3.0 if action.b % 5 == 0 else None
        key = "k" if action.c % 3 == 0 else None
        priority = (2, 4, 8)[action.d % 3]
        self._keyed = self._keyed or key is not None
        new = submission.NewRun(
            workflow=workflow,
            params={"go": action.c % 2 == 0},
            priority=priority,
            concurrency_key=key,
            run_at=None if later is None else self.postgres.time(later),
        )

        def submit() -> str:
            full = checks.unclaimed(self.postgres.connection) >= WINDOW
            with self._api.transaction() as session:
                run, _ = submission.submit(session, self._tenant_id, new, window=WINDOW)
            assert not (full and run.state == RunState.QUEUED), "a run passes by a full window"
            return self._accepted(run.id, later)

        said = f"client submits {workflow}, priority {priority}{', key k' if key else ''}"
        return f"{said}: {self._as_client(action, submit)}"

    def _accepted(self, run_id: UUID, later: float | None = None) -> str:
        self._runs.append(run_id)
        if later is not None:
            self._witness.not_before[run_id] = self.postgres.now + later
        return f"run {len(self._runs)}{f' in {later:g} s' if later else ''}"

    def _cancel(self, action: Action) -> str | None:
        grace = timedelta(0) if action.b % 3 == 0 else GRACE

        def cancel(run_id: UUID) -> str:
            with self._api.transaction() as session:
                return runs.cancel(session, self._tenant_id, run_id, grace=grace).state

        return self._of_run(action, f"cancels, grace {grace.total_seconds():g} s", cancel)

    def _reprioritise(self, action: Action) -> str | None:
        def change(run_id: UUID) -> str:
            with self._api.transaction() as session:
                return runs.change(session, self._tenant_id, run_id, priority=action.b % 10).state

        return self._of_run(action, f"gives priority {action.b % 10} to", change)

    def _retry(self, action: Action) -> str | None:
        mode = (Mode.FULL, Mode.FROM_FAILED, Mode.FROM_FAILED, Mode.FROM_STEP)[action.b % 4]
        where = As.NEW if action.c % 3 == 0 and len(self._runs) < MOST_RUNS else As.SAME
        asked = Rerun(mode=mode, where=where, step=_STEPS[action.d % 3])

        def retry(run_id: UUID) -> str:
            with self._api.transaction() as session:
                run = reruns.retry(session, self._tenant_id, run_id, asked, window=WINDOW)
                again = [step.id for step in runs.steps(session, run) if step.state != "succeeded"]
            self._witness.forget([*again, run_id])
            return run.state if where == As.SAME else self._accepted(run.id)

        return self._of_run(action, f"retries {mode} as {where}", retry)

    def _of_run(self, action: Action, verb: str, act: Callable[[UUID], str]) -> str | None:
        if not self._runs:
            return None
        which = action.a % len(self._runs)
        answer = self._as_client(action, lambda: act(self._runs[which]))
        return f"client {verb} run {which + 1}: {answer}"

    def _as_client(self, action: Action, act: Callable[[], str]) -> str:
        """Do it in the API, which may die; a request that was not accepted may be lost."""
        self._api.face(self._fate(action.c // 3))
        try:
            return act()
        except (InvalidTransition, Conflict, NotFound) as error:
            return type(error).__name__
        except Crashed as crash:
            return f"the API dies {'after' if crash.committed else 'before'} its commit"
        finally:
            self._api.face(Fate())

    # What workers do.

    def _work(self, action: Action) -> str | None:
        worker = self._workers[action.a % 2]
        handler, haste = HANDLERS[action.c % len(HANDLERS)], action.d % 4 != 0
        fate = self._fate(action.d // 4)
        return self._of(worker, worker.work(action.b, handler, fate, haste))

    def _beat(self, action: Action) -> str | None:
        worker = self._workers[action.a % 2]
        return self._of(worker, worker.beat(hears=action.b % 4 != 0))

    def _lose_child(self, action: Action) -> str | None:
        worker = self._workers[action.a % 2]
        return self._of(worker, worker.lose_child(action.b))

    def _drain(self, action: Action) -> str | None:
        worker = self._workers[action.a % 2]
        return self._of(worker, worker.drain())

    def _lose_worker(self, action: Action) -> str:
        self._born += 1
        worker = self._workers[action.a % 2]
        self._workers[action.a % 2] = self._worker(f"w{self._born}")
        return f"{worker.name} is gone with all it had, w{self._born} starts"

    def _worker(self, name: str) -> Worker:
        return Worker(name, self.postgres, self._broker, self._witness)

    # What schedulers do.

    def _sweep(self, action: Action) -> str | None:
        fate = self._fate(action.a, among=5)
        if action.c % 3 == 0:
            fate = Fate(at=2 + action.b % 3, meanwhile=lambda: self._meanwhile(action))
        return self._sweep_all(fate)

    def _meanwhile(self, action: Action) -> None:
        """What others do between two transactions of a sweep."""
        for act in (self._beat, self._work, self._cancel):
            if action.d % 2 or act is not self._cancel:
                said = act(action)
                if said:
                    self._say(f"meanwhile {said}")

    def _sweep_all(self, fate: Fate, only: str = "") -> str | None:
        """One pass, as workers/scheduler.py does it, or as far as it came."""
        swept: list[str] = []
        database = self._scheduler
        database.face(fate)
        try:
            for name in self._needed():
                if only not in ("", name):
                    continue
                moved = self._swept(name)
                swept += [f"{name} {moved}"] if moved else []
        except Crashed as crash:
            swept.append(f"dies {'after' if crash.committed else 'before'} a commit")
        finally:
            database.face(Fate())
        return f"scheduler sweeps: {', '.join(swept)}" if swept else None

    def _needed(self) -> list[str]:
        needed = sweeps.look(self._scheduler) | ({"pass_on"} if self._keyed else set())
        order = ("fall_due", "pass_on", "rescue", "expire", "wake", "republish", "admit")
        return [name for name in order if name in needed]

    def _swept(self, name: str) -> int:
        match name:
            case "expire":
                return sweeps.expire(self._scheduler, GRACE)
            case "republish":
                return sweeps.republish(self._scheduler, self._broker)  # type: ignore[arg-type]
            case "admit":
                return self._admit()
            case _:
                return int(getattr(sweeps, name)(self._scheduler))

    def _admit(self) -> int:
        """Admit, and see that the window and the priorities were kept."""
        connection = self.postgres.connection
        room = max(WINDOW - checks.unclaimed(connection), 0)
        self.postgres.wait(0.001)  # so that what is admitted now can be told from the rest
        seen = len(self.history)
        admitted = sweeps.admit(self._scheduler, WINDOW)
        if len(self.history) > seen:  # others did something meanwhile
            return admitted
        assert admitted <= room, f"{admitted} are admitted where {room} have room"
        if admitted:
            overtaken = checks.overtaken(connection, self.postgres.time())
            assert not overtaken, f"a lower priority overtakes {overtaken}"
        return admitted

    # What befalls the broker and Postgres.

    def _drop(self, action: Action) -> str | None:
        return self._of_message("loses", self._broker.drop(action.a))

    def _repeat(self, action: Action) -> str | None:
        return self._of_message("repeats", self._broker.repeat(action.a))

    def _delay(self, action: Action) -> str | None:
        return self._of_message("delays", self._broker.delay(action.a))

    def _flush(self, _: Action) -> str:
        return f"broker forgets {self._broker.flush()}"

    def _broker_away(self, _: Action) -> str:
        self._broker.away = not self._broker.away
        return f"broker {'goes away' if self._broker.away else 'is back'}"

    def _postgres_away(self, action: Action) -> str:
        seconds = (1, 3, 20)[action.a % 3]
        self.postgres.away_until = self.postgres.now + seconds
        return f"postgres goes away for {seconds} s"

    def _postgres_crash(self, action: Action) -> str | None:
        if not self.postgres.crash():
            return None
        said = "postgres crashes and forgets the last claims"
        if action.d % 2:
            return said
        self.postgres.wait(4)
        return f"{said}; 4 s later {self._sweep_all(Fate())}"

    def _wait(self, action: Action) -> str:
        seconds = _WAITS[action.a % len(_WAITS)]
        self.postgres.wait(seconds)
        return f"{seconds:g} s pass"

    def _lose_lease(self, action: Action) -> str:
        self.postgres.wait(LEASE.total_seconds() + 1)
        swept = self._sweep(action) if action.d % 2 else self._sweep_all(Fate(), only="rescue")
        return f"nobody moves for {LEASE.total_seconds() + 1:g} s; {swept}"

    def _haunt(self, action: Action) -> str | None:
        """A worker is silent while its message comes again, and finds its step with another one."""
        silent, other = self._workers[action.a % 2], self._workers[(action.a + 1) % 2]
        if not silent.slots:
            return None
        self._broker.deliver_again(silent.slots[0].task)
        self.postgres.wait(LEASE.total_seconds() + 1)
        swept = self._sweep_all(Fate(), only="rescue")
        took = other.work(action.b, HANDLERS[action.c % len(HANDLERS)], Fate(), True)
        return f"{silent.name} is silent for long; {swept}; meanwhile {other.name} {took}"

    def _fate(self, number: int, among: int = 1) -> Fate:
        """Mostly nothing; else death at one of the first transactions."""
        if number % 6 > 1:
            return Fate()
        return Fate(at=1 + number // 6 % among, committed=number % 2 == 0)

    def _of(self, worker: Worker, did: str | None) -> str | None:
        return f"{worker.name} {did}" if did else None

    def _say_of(self, worker: Worker, did: str | None) -> None:
        if did:
            self._say(f"{worker.name} {did}")

    def _of_message(self, verb: str, name: str | None) -> str | None:
        return f"broker {verb} {name}" if name else None

    def _say(self, line: str) -> None:
        self.history.append(f"{self.postgres.now:7.2f}  {line}")


def play(
    engine: Engine, actions: Sequence[Action], *, checks_always: bool = False
) -> tuple[list[str], str | None]:
    """The history of these actions, and what was wrong with it."""
    fragile = any(action.name == "postgres_crash" for action in actions)
    with simulated(engine, fragile=fragile) as postgres:
        world = World(postgres, checks_always=checks_always)
        try:
            for action in actions:
                world.act(action)
            world.end()
        except Exception as error:  # whatever it is, the core must not do that
            return world.history, f"{type(error).__name__}: {getattr(error, 'orig', error)}"
        return world.history, None
