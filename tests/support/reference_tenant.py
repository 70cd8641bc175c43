"""A tenant whose ids, numbers and times are all fixed, for golden files.

One workflow of three steps with a trigger, and five runs of it: the reference run, which failed
in its second step after two attempts, and a succeeded, a pending, a running and a cancelled one.
The reference run has every property that a run can have.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, insert

from orchestrator.access.authentication import hash_secret
from orchestrator.models import (
    Artifact,
    ArtifactKind,
    Attempt,
    AttemptOutcome,
    Event,
    Key,
    LogLine,
    Output,
    Project,
    Role,
    Run,
    Schedule,
    ScheduleType,
    Step,
    Tenant,
    Version,
    Workflow,
)
from orchestrator.spec.graph import plan
from orchestrator.spec.parser import parse_spec

SECRET = "ok_reference_key_0123456789abcdefghij"
TENANT = UUID("11111111-1111-4111-8111-111111111111")
PROJECT = UUID("22222222-2222-4222-8222-222222222222")
KEY = UUID("33333333-3333-4333-8333-333333333333")
WORKFLOW = UUID("44444444-4444-4444-8444-444444444444")
VERSION = UUID("55555555-5555-4555-8555-555555555555")
SCHEDULE = UUID("66666666-6666-4666-8666-666666666666")
ARTIFACT = UUID("77777777-7777-4777-8777-777777777777")
START = datetime(2026, 4, 2, 8, 0, 0, 120034, UTC)

# Created a minute apart; 1249 is the reference run.
NUMBERS = {"succeeded": 1248, "failed": 1249, "pending": 1250, "running": 1251, "cancelled": 1252}
RUNS = {
    name: UUID(
        int=((int(START.timestamp() * 1000) + 60_000 * place) << 80)
        + (7 << 76)
        + (1 << 63)
        + number
    )
    for place, (name, number) in enumerate(NUMBERS.items(), start=-1)
}
RUN = RUNS["failed"]
SPEC: dict[str, Any] = {
    "name": "invoice_export",
    "service": "ETL",
    "description": "Exports the invoices of a day",
    "params": {
        "type": "object",
        "properties": {"day": {"type": "string", "format": "date"}, "limit": {"type": "integer"}},
    },
    "steps": [
        {"key": "load", "name": "Load orders", "uses": "noop", "with": {"day": "{{ params.day }}"}},
        {"key": "push", "name": "Push to ledger", "uses": "noop", "retry": {"attempts": 2}},
        {"key": "notify", "name": "Notify", "uses": "noop"},
    ],
}
STEPS: dict[str, dict[str, str]] = {  # the states of load, push and notify
    "succeeded": {"load": "succeeded", "push": "succeeded", "notify": "succeeded"},
    "failed": {"load": "succeeded", "push": "failed", "notify": "skipped"},
    "pending": {"load": "pending", "push": "pending", "notify": "pending"},
    "running": {"load": "succeeded", "push": "running", "notify": "pending"},
    "cancelled": {"load": "cancelled", "push": "cancelled", "notify": "cancelled"},
}


def at(seconds: float) -> datetime:
    """So many seconds after the creation of the reference run."""
    return START + timedelta(seconds=seconds)


def write(connection: Connection) -> None:
    """Insert the tenant and everything that it owns."""
    _write_definitions(connection)
    for place, (name, number) in enumerate(NUMBERS.items()):
        _write_run(connection, name, number, (place - 1) * 60.0)
    _write_output(connection)
    _write_events(connection)


def remove(connection: Connection) -> None:
    """Delete the tenant's rows in tables that are not emptied between tests."""
    for model in (Key, Project):
        connection.execute(delete(model).where(model.tenant_id == TENANT))
    connection.execute(delete(Tenant).where(Tenant.id == TENANT))


def _write_definitions(connection: Connection) -> None:
    owned = {"tenant_id": TENANT, "created_at": at(-3600)}
    connection.execute(
        insert(Tenant).values(id=TENANT, number=9001, name="reference", created_at=at(-7200))
    )
    connection.execute(insert(Project).values(id=PROJECT, number=9001, name="default", **owned))
    connection.execute(
        insert(Key).values(
            id=KEY,
            name="reference",
            user="ana.ruiz",
            prefix=SECRET[:8],
            hash=hash_secret(SECRET),
            role=Role.ADMIN,
            **owned,
        )
    )
    connection.execute(
        insert(Workflow).values(
            id=WORKFLOW,
            number=9001,
            project_id=PROJECT,
            name=SPEC["name"],
            service=SPEC["service"],
            description=SPEC["description"],
            version=3,
            updated_at=at(-1800),
            **owned,
        )
    )
    connection.execute(
        insert(Version).values(
            id=VERSION,
            workflow_id=WORKFLOW,
            number=3,
            spec=SPEC,
            plan=plan(parse_spec(SPEC)),
            fingerprint="reference",
            created_at=at(-1800),
        )
    )
    connection.execute(
        insert(Schedule).values(
            id=SCHEDULE,
            number=71,
            workflow_id=WORKFLOW,
            workflow=SPEC["name"],
            name="invoices by API",
            type=ScheduleType.API,
            updated_at=at(-1200),
            last_enabled_at=at(-1200),
            **owned,
        )
    )


def _write_run(connection: Connection, name: str, number: int, shift: float) -> None:
    started = name in ("succeeded", "failed", "running")
    ended = name not in ("pending", "running")
    failed = name == "failed"
    connection.execute(
        insert(Run).values(
            id=RUNS[name],
            number=number,
            ordinal=number,
            tenant_id=TENANT,
            workflow_id=WORKFLOW,
            version_id=VERSION,
            workflow=SPEC["name"],
            version=3,
            state=name,
            priority=6 if failed else 4,
            queue="default",
            params={"day": "2026-04-01"},
            tags=["nightly"],
            trigger="api" if failed else "manual",
            source_type="schedule" if failed else "key",
            source_id=str(SCHEDULE if failed else KEY),
            reason="month end check",
            submitted_by="ana.ruiz",
            run_as="ledger",
            project_id=PROJECT,
            environment="production",
            name="Q1 claims",
            description="All claims of the first quarter",
            variables={"day": "2026-04-01"} if failed else None,
            event_variables={"source": "billing"} if failed else None,
            schedule_id=SCHEDULE if failed else None,
            logical_date=at(shift) if failed else None,
            error={"step": "push", "kind": "HTTPError", "message": "HTTP 503 from target"}
            if failed
            else None,
            run_at=at(shift + 86400) if name == "pending" else None,
            due=name != "pending",
            warnings=2 if failed else 0,
            timeout=timedelta(minutes=90),
            cancel_requested_at=at(shift + 2) if name == "cancelled" else None,
            cancel_reason="wrong window" if name == "cancelled" else None,
            event_seq=8 if failed else 1,
            created_at=at(shift),
            queued_at=at(shift + 0.5) if started else None,
            started_at=at(shift + 1) if started else None,
            finished_at=at(shift + 40.5) if ended else None,
        )
    )
    for position, (key, state) in enumerate(STEPS[name].items()):
        _write_step(connection, name, number, position, key, state, shift)


def _write_step(
    connection: Connection,
    name: str,
    number: int,
    position: int,
    key: str,
    state: str,
    shift: float,
) -> None:
    spec = SPEC["steps"][position]
    ran = state in ("succeeded", "failed", "running")
    began = shift + 1 + 12 * position
    ended = state in ("succeeded", "failed")
    tries = 2 if state == "failed" else int(ran)
    broken = {"message": "HTTP 503 from target", "kind": "HTTPError"}
    step_id = _step_id(number, position)
    connection.execute(
        insert(Step).values(
            id=step_id,
            number=number * 10 + position,
            tenant_id=TENANT,
            run_id=RUNS[name],
            position=position,
            key=key,
            name=spec["name"],
            uses="noop",
            needs=[SPEC["steps"][position - 1]["key"]] if position else [],
            dependents=[SPEC["steps"][position + 1]["key"]] if position < 2 else [],
            followers=[],
            state=state,
            skip_cause="upstream" if state == "skipped" else None,
            attempt=tries,
            max_attempts=2 if key == "push" else 1,
            queue="default",
            priority=4,
            spec={"with": spec.get("with", {}), "reads": [], "retry": spec.get("retry")},
            worker="w1@host-a" if ran else None,
            result={"rows": 812} if state == "succeeded" else None,
            warnings=2 if name == "failed" and key == "load" else 0,
            error=broken if state == "failed" else None,
            created_at=at(shift),
            queued_at=at(began - 0.25) if ran else None,
            started_at=at(began) if ran else None,
            finished_at=at(began + 11.5)
            if ended
            else (at(shift + 40.5) if not ran else None)
            if state != "pending"
            else None,
        )
    )
    for attempt in range(1, tries + 1):
        outcome = {"succeeded": AttemptOutcome.SUCCEEDED, "failed": AttemptOutcome.FAILED}.get(
            state
        )
        connection.execute(
            insert(Attempt).values(
                step_id=step_id,
                number=attempt,
                run_id=RUNS[name],
                task_id=f"{step_id}.{attempt}",
                worker="w1@host-a",
                outcome=outcome,
                error=broken if state == "failed" else None,
                lease_until=at(began + 3600),
                usage={"cpu_seconds": 1.5, "peak_memory_bytes": 2_254_857_830, "io_operations": 42},
                started_at=at(began),
                finished_at=at(began + 11.5) if ended else None,
            )
        )


def _write_output(connection: Connection) -> None:
    """Output, log lines and artifact of the reference run's first step."""
    owned = {"tenant_id": TENANT, "run_id": RUN}
    step_id = _step_id(NUMBERS["failed"], 0)
    connection.execute(
        insert(Output).values(
            step_id=step_id,
            attempt=1,
            progress=1.0,
            stage="loading",
            message="812 rows",
            metrics={"recordsProcessed": 812.0, "totalRecords": 812.0},
            warnings=[{"type": "duplicate", "message": "a row came twice", "count": 2}],
            data={"series": {"2026-04-01": ["INVOICES:EUR"]}},
            log_lines=2,
            updated_at=at(12),
            **owned,
        )
    )
    for seconds, level, text in ((1.5, 20, "loading 2026-04-01"), (12.25, 30, "a row came twice")):
        ns = int(at(seconds).timestamp() * 1_000_000) * 1000 + 800
        connection.execute(
            insert(LogLine).values(
                time_ns=ns, step="load", attempt=1, level=level, text=text, **owned
            )
        )
    connection.execute(
        insert(Artifact).values(
            id=ARTIFACT,
            number=501,
            step_id=step_id,
            step="load",
            attempt=1,
            name="orders.csv",
            kind=ArtifactKind.DATA,
            title="Orders of the day",
            primary=True,
            media_type="text/csv",
            size=2_411_724,
            sha256="0" * 64,
            records=812,
            extra={"accuracy": 0.97},
            address="reference/orders",
            created_at=at(12),
            **owned,
        )
    )


def _write_events(connection: Connection) -> None:
    events = [
        ("run.created", None, None, 0.0), ("run.queued", None, None, 0.5),
        ("run.started", None, None, 1.0), ("step.started", "load", 1, 1.0),
        ("step.succeeded", "load", 1, 12.5), ("step.failed", "push", 2, 24.5),
        ("step.skipped", "notify", None, 40.5), ("run.failed", None, None, 40.5),
    ]  # fmt: skip
    for name, number in NUMBERS.items():
        shift = (list(NUMBERS).index(name) - 1) * 60.0
        for seq, (kind, step, attempt, seconds) in enumerate(
            events if name == "failed" else events[:1], start=1
        ):
            connection.execute(
                insert(Event).values(
                    id=number * 100 + seq,
                    tenant_id=TENANT,
                    run_id=RUNS[name],
                    seq=seq,
                    type=kind,
                    step=step,
                    attempt=attempt,
                    data={},
                    tx=number * 100,
                    occurred_at=at(shift + seconds),
                )
            )


def _step_id(number: int, position: int) -> UUID:
    return UUID(f"019d4d10-0000-7000-8000-0000000{number}{position}")
