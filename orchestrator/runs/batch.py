"""Submit many runs in one request, by one INSERT each for runs, steps and events."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import audit, workflows
from orchestrator.db import Row, outbox, statements
from orchestrator.errors import MAX_MISTAKES, Invalid, InvalidParams, Mistake, NotFound
from orchestrator.runs import idempotency, submission
from orchestrator.runs.submission import NewRun
from orchestrator.work_limits import take_step, work_limit

MAX_BATCH_RUNS = 10_000
MAX_BATCH_STEPS = 100_000
_MAX_CHECK = 10.0  # seconds of processor time
_INSERT = "SELECT id, number FROM insert_runs(CAST(:new_runs AS jsonb))"
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
    new_runs = submission.dump_rows(_rows(session, tenant_id, news))
    created = statements.rows(session, _INSERT, new_runs=new_runs)
    ids = [run.id for run in created]
    outbox.enqueue(session, ids, {"run.created"})
    after = {"runs": len(ids), "first": created[0].number, "last": created[-1].number}
    audit.record(session, tenant_id, "run.submit_batch", ids[0], after=after)
    idempotency.remember(session, tenant_id, idempotency_key, ids)
    return created, True


def _rows(session: Session, tenant_id: UUID, news: Sequence[NewRun]) -> list[dict[str, Any]]:
    """The rows of the runs. Raises Invalid."""
    sources = workflows.read_sources(
        session, tenant_id, {(new.workflow, new.version) for new in news}
    )
    rows: list[dict[str, Any]] = []
    mistakes: list[Mistake] = []
    steps = 0
    with work_limit(_MAX_CHECK, "the check of the batch"):
        for index, new in enumerate(news):
            take_step()
            if len(mistakes) > MAX_MISTAKES:
                break
            try:
                source = workflows.find_source(sources, (new.workflow, new.version))
                columns = submission.plain_columns(tenant_id, new, source)
                # A sweep grants concurrency keys.
                rows.append({**columns, "due": new.start and new.concurrency_key is None})
                steps += source.steps
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
