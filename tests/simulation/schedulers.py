"""Schedulers that sweep as `workers/scheduler/main.py` does, and what must hold of their passes."""

from orchestrator.maintenance import checks, sweeps
from orchestrator.maintenance.sweeps import SWEEPS, SweepContext
from orchestrator.schedules import RunOptions
from tests.simulation import checks as row_checks
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clients import WINDOW, Clients
from tests.simulation.postgres import Crashed, Fate, Postgres, SimulatedDatabase
from tests.simulation.workers import GRACE

# All but those that need more than runs: schedules, deliveries, statistics.
_SIMULATED = (
    "release_due_runs", "grant_free_keys", "rescue_expired", "expire_timed_out",
    "wake_waiting_steps", "republish_lost", "admit_waiting", "check_live_runs",
)  # fmt: skip
_REST = 30.0  # virtual seconds between two passes of `check_live_runs`


class Scheduler:
    """One of the schedulers: each call is a pass, or as far as it came."""

    def __init__(
        self,
        name: str,
        postgres: Postgres,
        broker: SimulatedBroker,
        clients: Clients,
        history: list[str],
    ) -> None:
        self.name = name
        self._postgres, self._broker, self._clients = postgres, broker, clients
        self._database = SimulatedDatabase(postgres, broker.deliver)
        self._history = history
        self._check, self._checked_at = checks.LiveCheck(), 0.0
        self._sweeps = {each.name: each for each in SWEEPS}
        self._context = SweepContext(
            database=self._database,
            broker=broker,  # type: ignore[arg-type]
            options=RunOptions(WINDOW, GRACE),
            check=self._check,
            deliver=lambda: 0,
            leases_count=lambda: True,
        )

    def sweep(self, fate: Fate | None = None, only: str = "") -> str | None:
        """Sweep all that needs it; says what moved."""
        swept: list[str] = []
        self._database.face(fate or Fate())
        try:
            for name in self._needed():
                if only not in ("", name):
                    continue
                moved = self._swept(name)
                swept += [f"{name} {moved}"] if moved else []
        except Crashed as crash:
            swept.append(f"dies {'after' if crash.committed else 'before'} a commit")
        finally:
            self._database.face(Fate())
        return f"{self.name} sweeps: {', '.join(swept)}" if swept else None

    def _needed(self) -> list[str]:
        needed = sweeps.due_sweeps(self._database)
        if self._clients.have_keys:
            needed.add("grant_free_keys")
        if self._postgres.now - self._checked_at >= _REST:
            needed.add("check_live_runs")
        return [each.name for each in SWEEPS if each.name in needed and each.name in _SIMULATED]

    def _swept(self, name: str) -> int:
        match name:
            case "admit_waiting":
                return self._admit()
            case "check_live_runs":
                return self._check_live_runs()
            case _:
                return self._sweeps[name].run(self._context)

    def _admit(self) -> int:
        """Admit, and see that the window and the priorities were kept."""
        connection = self._postgres.connection
        room = max(WINDOW - row_checks.unclaimed(connection), 0)
        self._postgres.wait(0.001)  # so that what is admitted now can be told from the rest
        seen = len(self._history)
        admitted = sweeps.admit_waiting(self._database, WINDOW)
        if len(self._history) > seen:  # others did something meanwhile
            return admitted
        assert admitted <= room, f"{admitted} are admitted where {room} have room"
        if admitted:
            overtaken = row_checks.overtaken(connection, self._postgres.time())
            assert not overtaken, f"a lower priority overtakes {overtaken}"
        return admitted

    def _check_live_runs(self) -> int:
        """Whatever happened before, no invariant is violated."""
        self._checked_at = self._postgres.now
        violations = checks.check_live_runs(self._database, self._check)
        assert not violations, f"violated: {self._check.logged}"
        return violations
