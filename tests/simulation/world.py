"""One seed: clients, two workers, two schedulers, a broker and Postgres, and their faults."""

from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from tests.simulation import checks
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clients import Clients
from tests.simulation.postgres import Fate, Postgres, fate, simulated
from tests.simulation.schedulers import Scheduler
from tests.simulation.script import Action
from tests.simulation.witness import Witness
from tests.simulation.workers import GRACE, HANDLERS, LEASE, Worker

_PATIENCE = 240.0  # virtual seconds in which all runs end once the faults are over
_WAITS = (0.1, 0.5, 1, 1, 2, 3, 4, 16)
_MAX_SECONDS = {"hangs": 8.0, "is stubborn": 30.0}  # once the faults are over


class World:
    """Carries out actions, and records the history."""

    def __init__(self, postgres: Postgres, history: list[str], *, checks_always: bool) -> None:
        self.postgres, self.history = postgres, history
        self._checks_always = checks_always
        self._broker, self._witness = SimulatedBroker(), Witness(postgres)
        self._workers = [self._worker(f"w{number}") for number in (1, 2)]
        self._worker_count = len(self._workers)
        self._clients = Clients(postgres, self._broker, self._witness)
        self._schedulers = [
            Scheduler(name, postgres, self._broker, self._clients, self.history)
            for name in ("s1", "s2")
        ]
        self._cancelled_at: dict[UUID, float] = {}

    def act(self, action: Action) -> None:
        """Carry out an action; an impossible one does nothing."""
        try:
            line = self._act_of(action.name)(action)
        except OperationalError:
            line = f"{action.name}: postgres is away"
        self._log_if(line)
        if self._checks_always and not self.postgres.away:
            checks.check(self.postgres.connection)

    def _act_of(self, name: str) -> Callable[[Action], str | None]:
        act = getattr(self._clients, name, None) or getattr(self, f"_{name}")
        return cast(Callable[[Action], str | None], act)

    def end(self) -> None:
        """End all faults: every run must end, and all checks must hold."""
        self._log("nothing goes wrong any more")
        self.postgres.away_until = 0.0
        self._broker.recover()
        began = self.postgres.now
        while open_runs := checks.open_runs(self.postgres.connection):
            late = self.postgres.now - began
            assert late < _PATIENCE, f"not ended after {late:.0f} s: {open_runs}"
            self._check_cancelled(open_runs)
            self._round()
        checks.check(self.postgres.connection)
        successes = checks.successes(self.postgres.connection)
        assert successes == self._witness.recorded, "rows and workers know other successes"

    def _round(self) -> None:
        """One round in which every process does its work."""
        before = len(self.history)
        for _ in range(4):
            for worker in self._workers:
                actions = [self._finish(worker, index) for index in range(2)]
                if any(actions):
                    self._log_of(worker, "; ".join(each for each in actions if each))
        for worker in self._workers:
            self._log_of(worker, worker.beat())
        self._schedulers.reverse()  # they alternate
        self._log_if(self._schedulers[0].sweep())
        moved = any(" sweeps" in line for line in self.history[before:])
        self.postgres.wait(0.5 if moved or self._cancelled_at else 2)

    def _finish(self, worker: Worker, index: int) -> str | None:
        """Let handlers succeed in the end, the stubborn ones after they could be killed."""
        for slot in worker.slots:
            limit = _MAX_SECONDS.get(slot.handler)
            if limit is not None and self.postgres.now - slot.began > limit:
                slot.handler = "succeeds"
        return worker.work(index, "succeeds", Fate(), True)

    def _check_cancelled(self, open_runs: Sequence[Any]) -> None:
        """A cancelled run ends within its grace and 2.5 seconds."""
        stopping = {row[0] for row in open_runs if row[2] == "cancelling"}
        for run_id in stopping:
            since = self._cancelled_at.setdefault(run_id, self.postgres.now)
            late = self.postgres.now - since - GRACE.total_seconds()
            assert late <= 2.5, f"a cancelled run has not ended {late:.1f} s after its grace"
        for run_id in self._cancelled_at.keys() - stopping:
            del self._cancelled_at[run_id]

    # Actions of workers.

    def _work(self, action: Action) -> str | None:
        worker = self._workers[action.a % 2]
        handler, twice = HANDLERS[action.c % len(HANDLERS)], action.d % 4 != 0
        return self._of(worker, worker.work(action.b, handler, fate(action.d // 4), twice))

    def _beat(self, action: Action) -> str | None:
        worker = self._workers[action.a % 2]
        return self._of(worker, worker.beat(kills_arrive=action.b % 4 != 0))

    def _lose_child(self, action: Action) -> str | None:
        worker = self._workers[action.a % 2]
        return self._of(worker, worker.lose_child(action.b))

    def _drain(self, action: Action) -> str | None:
        worker = self._workers[action.a % 2]
        return self._of(worker, worker.drain())

    def _lose_worker(self, action: Action) -> str:
        self._worker_count += 1
        worker = self._workers[action.a % 2]
        self._workers[action.a % 2] = self._worker(f"w{self._worker_count}")
        return f"{worker.name} is gone with all it had, w{self._worker_count} starts"

    def _worker(self, name: str) -> Worker:
        return Worker(name, self.postgres, self._broker, self._witness)

    # Actions of schedulers.

    def _sweep(self, action: Action) -> str | None:
        scheduler, other = self._schedulers[:: 1 if action.d // 2 % 2 else -1]
        if action.c % 3:
            return scheduler.sweep(fate(action.a, among=5))
        meanwhile = Fate(at=2 + action.b % 3, meanwhile=lambda: self._meanwhile(action, other))
        return scheduler.sweep(meanwhile)

    def _meanwhile(self, action: Action, other: Scheduler) -> None:
        """Actions of others between two transactions of a sweep."""
        acts = [self._beat, self._work]
        if action.d % 2:
            acts += [self._clients.cancel, lambda _: other.sweep()]
        for act in acts:
            line = act(action)
            self._log_if(line and f"meanwhile {line}")

    # Faults of the broker and Postgres.

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
        line = "postgres crashes and forgets the last claims"
        if action.d % 2:
            return line
        self.postgres.wait(4)
        return f"{line}; 4 s later {self._schedulers[0].sweep()}"

    def _wait(self, action: Action) -> str:
        seconds = _WAITS[action.a % len(_WAITS)]
        self.postgres.wait(seconds)
        return f"{seconds:g} s pass"

    def _lose_lease(self, action: Action) -> str:
        self.postgres.wait(LEASE.total_seconds() + 1)
        sweep_text = self._sweep(action) if action.d % 2 else self._rescue()
        return f"nobody moves for {LEASE.total_seconds() + 1:g} s; {sweep_text}"

    def _haunt(self, action: Action) -> str | None:
        """A worker is silent while its message is redelivered and another worker takes its step."""
        silent, other = self._workers[action.a % 2], self._workers[(action.a + 1) % 2]
        if not silent.slots:
            return None
        self._broker.deliver_again(silent.slots[0].task)
        self.postgres.wait(LEASE.total_seconds() + 1)
        sweep_text = self._rescue()
        work_text = other.work(action.b, HANDLERS[action.c % len(HANDLERS)], Fate(), True)
        return f"{silent.name} is silent for long; {sweep_text}; meanwhile {other.name} {work_text}"

    def _rescue(self) -> str | None:
        return self._schedulers[1].sweep(only="rescue_expired")

    def _of(self, worker: Worker, action_text: str | None) -> str | None:
        return f"{worker.name} {action_text}" if action_text else None

    def _log_of(self, worker: Worker, action_text: str | None) -> None:
        self._log_if(self._of(worker, action_text))

    def _log_if(self, line: str | None) -> None:
        if line:
            self._log(line)

    def _of_message(self, verb: str, name: str | None) -> str | None:
        return f"broker {verb} {name}" if name else None

    def _log(self, line: str) -> None:
        self.history.append(f"{self.postgres.now:7.2f}  {line}")


def play(
    engine: Engine, actions: Sequence[Action], *, checks_always: bool = False
) -> tuple[list[str], str | None]:
    """The history of these actions, and its fault."""
    fragile = any(action.name == "postgres_crash" for action in actions)
    with simulated(engine, fragile=fragile) as postgres:
        history = list[str]()
        try:
            world = World(postgres, history, checks_always=checks_always)
            for action in actions:
                world.act(action)
            world.end()
        except Exception as error:  # any error is a fault of the core
            return history, f"{type(error).__name__}: {getattr(error, 'orig', error)}"
        return history, None
