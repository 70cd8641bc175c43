"""Factories with defaults; they go through the real services."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import runs, schedules, workflows
from orchestrator.broker.messages import Message, Outbound, parse_task_id
from orchestrator.db.database import Database
from orchestrator.engine import claims
from orchestrator.engine.claims import Claim, Claimant
from orchestrator.models import Delivery, Run, Schedule, ScheduleType, Tenant, Webhook
from orchestrator.notifications import webhooks

KEY = "ok_test_key_of_the_admin_0123456789"
LEASE = timedelta(seconds=30)
GRACE = timedelta(seconds=5)
PROMPT = 15.0  # seconds; what takes longer, also on a slow machine, waits for something else
WINDOW = 100

Value = TypeVar("Value")


def a_tenant(session: Session) -> UUID:
    """The tenant `default`."""
    return session.scalars(select(Tenant.id).where(Tenant.name == "default")).one()


def a_spec(name: str = "work", steps: int = 1, **options: Any) -> dict[str, Any]:
    """A chain of no-op steps `s1`, `s2` …"""
    chain = [{"key": f"s{number}", "uses": "noop"} for number in range(1, steps + 1)]
    return {"name": name, "steps": chain, **options}


def a_run(database: Database, spec: dict[str, Any] | None = None, **options: Any) -> Run:
    """An accepted run of a workflow that is registered along the way."""
    spec = spec or a_spec()
    window = options.pop("window", WINDOW)
    with database.transaction() as session:
        tenant = a_tenant(session)
        workflows.register(session, tenant, spec)
        new = runs.NewRun(workflow=spec["name"], **options)
        return runs.submit(session, tenant, new, window=window)[0]


def a_schedule(database: Database, spec: dict[str, Any] | None = None, **fields: Any) -> Schedule:
    """A schedule, by default hourly, of a workflow that is registered along the way."""
    spec = spec or a_spec()
    fields = {"type": ScheduleType.INTERVAL, "workflow": spec["name"]} | fields
    if fields["type"] == ScheduleType.INTERVAL:
        fields.setdefault("every", timedelta(hours=1))
    with database.transaction() as session:
        tenant = a_tenant(session)
        workflows.register(session, tenant, spec)
        return schedules.create_schedule(session, tenant, schedules.NewSchedule(**fields))


def a_webhook(database: Database, target: str, *events: str, **fields: Any) -> Webhook:
    """A webhook for `run.created` unless events are named; any target is allowed."""
    with database.transaction() as session:
        new = webhooks.NewWebhook(target=target, events=events or ("run.created",), **fields)
        return webhooks.create_webhook(
            session, a_tenant(session), new, webhooks.TargetPolicy(True, True)
        )


def the_deliveries(database: Database) -> list[Delivery]:
    """Every delivery as it is now, the oldest first."""
    with database.transaction() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


def a_claim(database: Database, task_id: str, **options: Any) -> Claim | None:
    """Claim the attempt of this task as a worker does."""
    claimant = Claimant(**{"worker": "w1", "thread": 1, "lease": LEASE, "grace": GRACE} | options)
    step_id, generation = parse_task_id(task_id) or (None, None)
    assert step_id is not None
    assert generation is not None
    with database.transaction() as session:
        return claims.claim_attempt(session, step_id, generation, claimant)


def the_run(database: Database, run: Run) -> Run:
    """The run as it is now, with its steps."""
    with database.transaction() as session:
        return runs.get_with_steps(session, run.tenant_id, run.id)


def the_events(database: Database, run: Run) -> list[str]:
    """The types of a run's events, in order."""
    with database.transaction() as session:
        return [event.type for event in runs.events_of_run(session, run.id, limit=1000)]


def messages_in(sent: list[Outbound]) -> list[Message]:
    """Every message passed to the broker, including the rest of each chain."""
    outbound = [pair for outgoing in sent for pair in outgoing.messages]
    return [message for head, chain in outbound for message in (head, *chain)]


def eventually(
    look: Callable[[], Value],
    *,
    within: float = 30,
    until: Callable[[Value], bool] = bool,
    every: float = 0.02,
) -> Value:
    """Call `look` until its value satisfies `until`; fails with the last value after `within` s.

    The pause between two calls grows from `every` seconds to ten times as much.
    """
    end, pause = time.monotonic() + within, every
    while not until(value := look()):
        assert time.monotonic() < end, f"still {value!r} after {within} s"
        time.sleep(pause)
        pause = min(1.3 * pause, 10 * every)
    return value
