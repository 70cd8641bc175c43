"""Workers that act like `workers/tasks.py` and `workers/heartbeat.py`, with the same services."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from orchestrator.broker.messages import parse_task_id, task_id
from orchestrator.engine import attempts, claims, leases, outcomes
from orchestrator.engine.attempts import Slot as CeleryTask
from orchestrator.engine.claims import Claim, Claimant
from orchestrator.engine.leases import StopOrder
from orchestrator.engine.outcomes import Failed, Interrupted, Outcome, Skipped, Succeeded
from orchestrator.errors import LeaseLost
from orchestrator.spec import templates
from tests.simulation.broker import SimulatedBroker, Task
from tests.simulation.postgres import Crashed, Fate, Postgres, SimulatedDatabase
from tests.simulation.witness import Witness

LEASE = timedelta(seconds=15)
GRACE = timedelta(seconds=5)
_END_GRACE, _STOP_GRACE = 5.0, 1.0  # as in workers/heartbeat.py
_SLOTS = 2
_POISON = "kills its child"
_GOES_ON = ("succeeds", "fails", "hangs", _POISON)  # next handlers, of which the slot goes on

# The behaviours of a handler; the script chooses.
HANDLERS = (
    "succeeds", "succeeds", "succeeds", "fails", "fails otherwise", "asks for a retry",
    "fails for good", "hangs", "is stubborn", "kills its child",
)  # fmt: skip


@dataclass
class Slot:
    """One child of a worker, and its task."""

    task: Task
    claim: Claim | None = None
    handler: str = ""
    began: float = 0.0
    stop_sent: bool = False  # whether the order to stop was sent
    outcome: Outcome | None = None
    recording_since: float | None = None


@dataclass
class Worker:
    """A parent process with its children; each call is one action of one of them."""

    name: str
    postgres: Postgres
    broker: SimulatedBroker
    witness: Witness
    slots: list[Slot] = field(default_factory=list)
    _lost: list[Slot] = field(default_factory=list)
    _renewed: set[str] = field(default_factory=set)
    _missing: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._claims = SimulatedDatabase(self.postgres, self.broker.deliver, durable=False)
        self._database = SimulatedDatabase(self.postgres, self.broker.deliver)
        self._claimant = Claimant(
            worker=self.name, thread=1, lease=LEASE, grace=GRACE, queues=["default"]
        )

    def work(self, index: int, handler: str, fate: Fate, twice: bool) -> str | None:
        """One child takes, claims, ends or records a task; with `twice`, two of these at once."""
        if index % _SLOTS >= len(self.slots):
            task = self.broker.take()
            if task is None:
                return None
            self.slots.append(Slot(task))
            line = f"takes {task.message.name}"
            return self._do(self.slots[-1], handler, fate, line) if twice else line
        slot = self.slots[index % _SLOTS]
        if slot.handler == _POISON:
            return self.lose_child(index)
        if slot.claim is not None and slot.outcome is None:
            slot.outcome = self._outcome(slot)
            if slot.outcome is None:
                return None
            line = f"ends {slot.task.message.name}: {type(slot.outcome).__name__}"
            return self._do(slot, handler, fate, line) if twice else line
        return self._do(slot, handler, fate, slot.task.message.name)

    def beat(self, kills_arrive: bool = True) -> str | None:
        """Renew the leases, and carry out the orders; kills only with `kills_arrive`."""
        if not self.slots and not self._lost:
            return None
        try:
            self._record_losses()
            ids = sorted({slot.task.id for slot in self.slots})
            with self._database.transaction() as session:
                orders = leases.renew_leases(session, self.name, ids, lease=LEASE)
        except OperationalError:
            return "beats in vain"
        for slot in self.slots:
            renewed = slot.claim and slot.task.id in orders
            assert not renewed or self.witness.is_holder(slot.claim), (
                f"the lease of {slot.task.message.name} is renewed, which has lost its step"
            )
        kills = [self._carry_out(each, orders, kills_arrive) for each in [*self.slots]]
        return "beats" + "".join(f", {each}" for each in kills if each)

    def lose_child(self, index: int) -> str | None:
        """A child dies, and its parent notices."""
        if not self.slots:
            return None
        slot = self.slots[index % len(self.slots)]
        self._free(slot)
        self._lost.append(slot)
        return f"loses the child with {slot.task.message.name}"

    def drain(self) -> str | None:
        """Hand back all steps, as a worker that ends does."""
        if not self.slots:
            return None
        handed_back = 0
        try:
            for slot in [*self.slots]:
                with self._database.transaction() as session:
                    handed_back += self._lose(session, slot, "its worker ends", handed_back=True)
                self._free(slot)
        except OperationalError:
            return "drains in vain"
        return f"drains and hands {handed_back} back"

    def _do(self, slot: Slot, handler: str, fate: Fate, line: str) -> str:
        step = self._claim if slot.claim is None else self._record
        for database in (self._claims, self._database):
            database.face(fate)
        try:
            return f"{line}: {step(slot, handler)}"
        except Crashed as crash:
            self._free(slot)
            self._lost.append(slot)
            return f"{line}: dies {'after' if crash.committed else 'before'} its commit"
        finally:
            for database in (self._claims, self._database):
                database.face(Fate())

    def _claim(self, slot: Slot, handler: str) -> str:
        parsed = parse_task_id(slot.task.id)
        assert parsed is not None
        try:
            with self._claims.transaction() as session:
                slot.claim = claims.claim_attempt(session, *parsed, self._claimant)
        except OperationalError:
            slot.claim = None
        except Crashed as crash:
            if not crash.committed:
                slot.claim = None
            if slot.claim is not None:
                self.witness.claimed(slot.claim, parsed[1])
            raise
        if slot.claim is None:
            self._free(slot)
            return "stale"
        self.witness.claimed(slot.claim, parsed[1])
        return self._begin(slot, slot.claim, handler)

    def _begin(self, slot: Slot, claim: Claim, handler: str) -> str:
        slot.claim, slot.outcome, slot.recording_since = claim, None, None
        if handler == _POISON:
            self.witness.poisonous.add(claim.step_id)
        poisonous = claim.step_id in self.witness.poisonous
        slot.handler, slot.began = _POISON if poisonous else handler, self.postgres.now
        return f"attempt {claim.attempt}, whose handler {slot.handler}"

    def _outcome(self, slot: Slot) -> Outcome | None:
        """The outcome if the handler ends now, else None."""
        assert slot.claim is not None
        spec = slot.claim.spec
        if "when" in spec and not templates.evaluate(spec["when"], {"params": slot.claim.params}):
            return Skipped()
        if slot.handler == "is stubborn":
            return None
        if slot.stop_sent:
            return Interrupted("told to stop")
        timeout = spec.get("timeout")
        if timeout is not None and self.postgres.now - slot.began >= timeout:
            return outcomes.timed_out_failure(timeout)
        return _OUTCOMES.get(slot.handler)

    def _record(self, slot: Slot, handler: str) -> str:
        assert slot.claim is not None
        assert slot.outcome is not None
        since = slot.recording_since = slot.recording_since or self.postgres.now
        continues = slot.task.chain[0].task_id if slot.task.chain else None
        mark_recorded = self.witness.recording(slot.claim, slot.outcome)
        # A streak of any length: the handler is chosen by the script, and so is whether it goes on.
        place = CeleryTask(slot.task.id, self._claimant) if handler in _GOES_ON else None
        try:
            with self._database.transaction() as session:
                recorded = attempts.record_outcome(
                    session, slot.claim, slot.outcome, continues, slot=place
                )
        except OperationalError:
            if self.postgres.now - since > LEASE.total_seconds():
                self._free(slot)
                return "gives its outcome up"
            return "tries to record"
        except LeaseLost:
            self._free(slot)
            return "refused"
        except Crashed as crash:
            if crash.committed:
                mark_recorded(recorded)
                if recorded.claim:
                    self.witness.claimed(recorded.claim, recorded.claim.generation)
            raise
        mark_recorded(recorded)
        if recorded.claim:
            return f"recorded, goes on in place: {self._continue(slot, recorded.claim, handler)}"
        self._free(slot)
        if recorded.queue:  # as Celery does
            self.broker.publish_next(slot.task)
        return f"recorded, {recorded.state}{', goes on' if recorded.queue else ''}"

    def _continue(self, slot: Slot, claim: Claim, handler: str) -> str:
        self.witness.claimed(claim, claim.generation)
        following = slot.task.chain and slot.task.chain[0].task_id
        if following == task_id(claim.step_id, claim.generation):
            slot.task = Task(slot.task.message, slot.task.chain[1:])
        return self._begin(slot, claim, handler)

    def _free(self, slot: Slot) -> None:
        self.slots.remove(slot)
        self._renewed.discard(slot.task.id)
        self._missing.pop(slot.task.id, None)

    def _record_losses(self) -> None:
        while self._lost:
            slot = self._lost[0]
            with self._database.transaction() as session:
                ended = self._lose(session, slot, "its process ended")
            assert not (ended and slot.claim) or self.witness.is_holder(slot.claim), (
                f"the death of {slot.task.message.name} takes its step from another attempt"
            )
            self._lost.pop(0)

    def _lose(self, session: Session, slot: Slot, reason: str, handed_back: bool = False) -> bool:
        options: dict[str, Any] = {"worker": self.name, "handed_back": handed_back}
        return attempts.end_lost_attempt(session, slot.task.id, reason, **options) is not None

    def _order(self, slot: Slot, orders: dict[str, StopOrder]) -> StopOrder:
        if slot.task.id in orders:
            self._renewed.add(slot.task.id)
            self._missing.pop(slot.task.id, None)
            return orders[slot.task.id]
        now = self.postgres.now
        since = now - self._missing.setdefault(slot.task.id, now)
        grace = _STOP_GRACE if slot.stop_sent else _END_GRACE
        if slot.task.id not in self._renewed:
            grace += LEASE.total_seconds()
        return StopOrder(stop=since > grace, kill_in=grace + _STOP_GRACE - since)

    def _carry_out(
        self, slot: Slot, orders: dict[str, StopOrder], kills_arrive: bool
    ) -> str | None:
        order = self._order(slot, orders)
        if order.stop and slot.claim is not None:
            slot.stop_sent = True
        if order.kill_in is not None and order.kill_in <= 0 and kills_arrive:
            self._free(slot)
            self._lost.append(slot)
            return f"kills {slot.task.message.name}"
        return None


_OUTCOMES = {
    "succeeds": Succeeded({"ok": True}),
    "fails": Failed("it went wrong", ("ValueError", "Exception")),
    "fails otherwise": Failed("it went wrong otherwise", ("KeyError", "Exception")),
    "asks for a retry": Failed("not yet", ("RetryStep",), after=timedelta(seconds=2)),
    "fails for good": Failed("never", ("FailStep",), final=True),
}
