"""Many runs accepted in one request: whole tables of rows, not one run after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from json import dumps
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from orchestrator import json_values, workflows
from orchestrator.db import Row, journal, statements
from orchestrator.errors import Invalid, InvalidParams, Mistake, NotFound
from orchestrator.models import Run, Version, Workflow
from orchestrator.runs import idempotency, submission
from orchestrator.runs.submission import NewRun
from orchestrator.spec.params import ParamsCheck, compile_params
from orchestrator.states import RunState

MAX_BATCH_RUNS = 10_000  # runs
MAX_BATCH_STEPS = 100_000
_MOST_TOLD = 100  # mistakes
_MADE = "SELECT id, number FROM runs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id"


class _Source(NamedTuple):
    """What runs are made from."""

    workflow: Workflow
    version: Version
    check: ParamsCheck


def submit_many(
    session: Session,
    tenant_id: UUID,
    news: Sequence[NewRun],
    *,
    idempotency_key: str | None = None,
) -> tuple[Sequence[Row], bool]:
    """Accept all of the runs or none; gives `id` and `number` of each, in their order.

    False says that the same key and request had made them before. The scheduler admits them, in
    the order in which they are given. Raises Invalid with the mistakes and where they are, and
    IdempotencyMismatch for a key that came before with another request.
    """
    if idempotency_key is not None:
        asked = json_values.fingerprint([new.asked() for new in news])
        earlier = idempotency.reserve(session, tenant_id, idempotency_key, asked)
        if earlier is not None:
            return statements.rows(session, _MADE, ids=earlier), False
    rows = _rows(session, tenant_id, news)
    made = statements.rows(session, _insert(tuple(rows[0])), rows=dumps(rows, default=_plain))
    ids = [run.id for run in made]
    submission.copy_plan_steps(session, ids)
    journal.write_created(session, ids)
    if idempotency_key is not None:
        idempotency.remember(session, tenant_id, idempotency_key, ids)
    return made, True


def _rows(session: Session, tenant_id: UUID, news: Sequence[NewRun]) -> list[dict[str, Any]]:
    """The runs' rows. Raises Invalid."""
    source = _sources(session, tenant_id)
    now = statements.rows(session, "SELECT now() AS now")[0].now
    rows: list[dict[str, Any]] = []
    mistakes: list[Mistake] = []
    steps = 0
    for at, new in enumerate(news):
        try:
            found = source(new.workflow, new.version, new.complete)
            rows.append({"tenant_id": tenant_id, **_row(new, found, now)})
            steps += len(found.version.plan)
        except NotFound as error:
            mistakes.append(Mistake(f"/runs/{at}/workflow", str(error)))
        except InvalidParams as error:
            mistakes += _placed(at, error)
    if steps > MAX_BATCH_STEPS:
        told = f"they have {steps:,} steps; send at most {MAX_BATCH_STEPS:,} at once"
        mistakes.append(Mistake("/runs", told))
    if mistakes:
        raise Invalid("the batch cannot be used, and none of it was", *mistakes[:_MOST_TOLD])
    return rows


def _sources(session: Session, tenant_id: UUID) -> Callable[[str, int | None, bool], _Source]:
    """What finds the workflow of a run, each version once."""

    @cache
    def found(name: str, number: int | None, complete: bool) -> _Source:
        workflow, version = workflows.for_run(session, tenant_id, name, number)
        check = compile_params(version.spec.get("params", {}), complete=complete)
        return _Source(workflow, version, check)

    return found


def _row(new: NewRun, source: _Source, now: datetime) -> dict[str, Any]:
    """A run that has its first event already; a key's next run is found by a sweep."""
    workflow, version, check = source
    begins = new.run_at or now
    return {
        **submission.run_columns(new, workflow, version, check),
        "state": RunState.PENDING,
        "due": new.start and begins <= now and new.concurrency_key is None,
        "late_at": submission.late_at(begins, submission.sla_of(new, version)),
        "timed_out": False,
        "event_seq": 1,
    }


def _placed(at: int, error: InvalidParams) -> Iterator[Mistake]:
    """The mistakes of one run's parameters, where they are in the batch."""
    for each in error.mistakes or (Mistake("/params", str(error)),):
        yield Mistake(f"/runs/{at}{each.pointer}", each.detail)


def _plain(value: Any) -> Any:
    """What JSON has no word for, as Postgres reads it."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds()} s"
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


@cache
def _insert(names: Iterable[str]) -> str:
    """The statement that writes rows with these columns."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = [f"{name} {Run.__table__.c[name].type.compile(dialect)}" for name in names]
    return f"""
        INSERT INTO runs ({", ".join(names)})
        SELECT {", ".join(names)}
        FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS made({", ".join(types)})
        ORDER BY id RETURNING id, number
    """
