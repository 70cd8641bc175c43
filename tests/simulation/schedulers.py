"""Schedulers that sweep as `workers/scheduler/main.py` does, and what must hold of their passes."""

from orchestrator.maintenance import repair, sweeps
from tests.simulation import checks
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clients import WINDOW, Clients
from tests.simulation.postgres import Crashed, Fate, Postgres, SimulatedDatabase
from tests.simulation.workers import GRACE

_ORDER = ("fall_due", "pass_on", "rescue", "expire", "wake", "republish", "admit", "heal")
SIMPLE = {  # those that need the database only
    "fall_due": sweeps.release_due_runs,
    "pass_on": sweeps.grant_free_keys,
    "rescue": sweeps.rescue_expired,
    "wake": sweeps.wake_waiting_steps,
}
_REST = 30.0  # virtual seconds between two passes of `heal`, as there


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
        self._rounds, self._healed_at = repair.Rounds(), 0.0

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
            needed.add("pass_on")
        if self._postgres.now - self._healed_at >= _REST:
            needed.add("heal")
        return [name for name in _ORDER if name in needed]

    def _swept(self, name: str) -> int:
        match name:
            case "expire":
                return sweeps.expire_timed_out(self._database, GRACE)
            case "republish":
                return sweeps.republish_lost(self._database, self._broker)  # type: ignore[arg-type]
            case "admit":
                return self._admit()
            case "heal":
                return self._heal()
            case _:
                return int(SIMPLE[name](self._database))

    def _admit(self) -> int:
        """Admit, and see that the window and the priorities were kept."""
        connection = self._postgres.connection
        room = max(WINDOW - checks.unclaimed(connection), 0)
        self._postgres.wait(0.001)  # so that what is admitted now can be told from the rest
        seen = len(self._history)
        admitted = sweeps.admit_waiting(self._database, WINDOW)
        if len(self._history) > seen:  # others did something meanwhile
            return admitted
        assert admitted <= room, f"{admitted} are admitted where {room} have room"
        if admitted:
            overtaken = checks.overtaken(connection, self._postgres.time())
            assert not overtaken, f"a lower priority overtakes {overtaken}"
        return admitted

    def _heal(self) -> int:
        """After a pass of the others, whatever happened before, nothing is left to be mended."""
        self._healed_at = self._postgres.now
        healed = repair.repair_recent(self._database, self._rounds)
        assert not healed, f"{healed} runs had to be healed"
        assert not self._rounds.told, f"broken for good: {self._rounds.told}"
        return healed
