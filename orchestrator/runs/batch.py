"""Submit many runs in one request, by one INSERT each for runs, steps and events."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from orchestrator import audit, workflows
from orchestrator.db import Row, journal, lookups, statements
from orchestrator.errors import MAX_MISTAKES, Invalid, InvalidParams, Mistake, NotFound
from orchestrator.json_values import dump_json
from orchestrator.models import Run, Version, Workflow
from orchestrator.runs import idempotency, submission
from orchestrator.runs.submission import NewRun
from orchestrator.spec.params import ParamsCheck, compile_params
from orchestrator.states import RunState
from orchestrator.work_limits import take_step, work_limit

MAX_BATCH_RUNS = 10_000
MAX_BATCH_STEPS = 100_000
_MAX_CHECK = 10.0  # seconds of processor time
_RUNS = "SELECT id, number FROM runs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id"


def submit_many(
    session: Session, tenant_id: UUID, news: Sequence[NewRun], *, idempotency_key: str | None = None
) -> tuple[Sequence[Row], bool]:
    """Accept all of the runs or none; gives `id` and `number` of each, in their order.

    The second value is False if the same request with the same key created them before. The
    scheduler admits the runs in this order. Raises Invalid with all mistakes and their pointers,
    and IdempotencyMismatch for a key of another request.
    """
    request = None if idempotency_key is None else [new.fingerprint_fields() for new in news]
    earlier = idempotency.reserve(session, tenant_id, idempotency_key, request, None)
    if earlier is not None:
        return statements.rows(session, _RUNS, ids=earlier), False
    rows = _rows(session, tenant_id, news)
    insert = _insert_statement(tuple(rows[0]))
    created = statements.rows(session, insert, rows=f"[{','.join(map(_dump_row, rows))}]")
    ids = [run.id for run in created]
    statements.execute(session, submission.COPY_PLANS, run_ids=ids)
    journal.write_created(session, ids)
    after = {"runs": len(ids), "first": created[0].number, "last": created[-1].number}
    audit.record(session, tenant_id, "run.submit_batch", ids[0], after=after)
    idempotency.remember(session, tenant_id, idempotency_key, ids)
    return created, True


def _rows(session: Session, tenant_id: UUID, news: Sequence[NewRun]) -> list[dict[str, Any]]:
    """The rows of the runs. Raises Invalid."""
    sources = _Sources(session, tenant_id, news)
    now = lookups.database_now(session)
    rows: list[dict[str, Any]] = []
    mistakes: list[Mistake] = []
    steps = 0
    with work_limit(_MAX_CHECK, "the check of the batch"):
        for index, new in enumerate(news):
            take_step()
            if len(mistakes) > MAX_MISTAKES:
                break
            try:
                workflow, version, count, check = sources.find(new)
                columns = submission.run_columns(new, workflow, version, check)
                rows.append({"tenant_id": tenant_id, **columns, **_beginning(new, version, now)})
                steps += count
            except NotFound as error:
                mistakes.append(Mistake(f"/runs/{index}/workflow", str(error)))
            except InvalidParams as error:
                mistakes += [
                    Mistake(f"/runs/{index}{each.pointer}", each.detail)
                    for each in error.mistakes or (Mistake("/params", str(error)),)
                ]
    if steps > MAX_BATCH_STEPS:
        detail = f"they have {steps:,} steps; send at most {MAX_BATCH_STEPS:,} at once"
        mistakes.append(Mistake("/runs", detail))
    if mistakes:
        raise Invalid("the batch cannot be used, and none of it was", *mistakes)
    return rows


class _Sources:
    """The workflows and versions that the runs name, by one query."""

    def __init__(self, session: Session, tenant_id: UUID, news: Sequence[NewRun]) -> None:
        pairs = {(new.workflow, new.version) for new in news}
        self._known = workflows.for_runs(session, tenant_id, pairs)
        self._checks: dict[tuple[UUID, bool], ParamsCheck] = {}  # by version

    def find(self, new: NewRun) -> tuple[Workflow, Version, int, ParamsCheck]:
        """The workflow, version, number of steps and check of a run. Raises NotFound."""
        source = self._known.get((new.workflow, new.version))
        if source is None:
            raise NotFound(f"there is no workflow {new.workflow!r}")
        if source.version is None:
            raise workflows.no_version(source.workflow, new.version)
        key = (source.version.id, new.complete)
        if key not in self._checks:
            schema = source.version.spec.get("params", {})
            self._checks[key] = compile_params(schema, complete=new.complete)
        return source.workflow, source.version, source.steps or 0, self._checks[key]


def _beginning(new: NewRun, version: Version, now: datetime) -> dict[str, Any]:
    """The other columns of a run with its first event; a sweep grants its concurrency key."""
    begins = new.run_at or now
    sla = submission.spec_duration(version.spec, "sla", new.sla)
    return {
        "state": RunState.PENDING,
        "due": new.start and begins <= now and new.concurrency_key is None,
        "late_at": submission.late_at(begins, sla),
        "timed_out": False,
        "event_seq": 1,
    }


def _dump_row(row: dict[str, Any]) -> str:
    take_step()
    return dump_json(row, default=_for_postgres)


def _for_postgres(value: Any) -> Any:
    """A value that JSON has no type for, as text that Postgres casts."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds()} s"
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


@cache
def _insert_statement(names: Iterable[str]) -> str:
    """The INSERT of rows with these columns, from a JSON array."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = [f"{name} {Run.__table__.c[name].type.compile(dialect)}" for name in names]
    return f"""
        INSERT INTO runs ({", ".join(names)})
        SELECT {", ".join(names)}
        FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new({", ".join(types)})
        ORDER BY id RETURNING id, number
    """
