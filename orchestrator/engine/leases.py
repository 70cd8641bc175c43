"""Leases of claims: renewed by the worker's heartbeat; expired ones are rescued by a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements


@dataclass(frozen=True)
class StopOrder:
    """What a worker must do about one of its attempts."""

    stop: bool  # stop the handler
    kill_in: float | None = None  # seconds until its process must be killed; None: never
    attempt: str | None = None  # which one of which step; None: it has ended


_RENEW = """
    UPDATE attempts SET lease_until = now() + CAST(:lease AS interval),
        usage = coalesce(CAST(:usage AS jsonb) -> (step_id || '.' || attempts.number), usage)
    FROM steps, runs
    WHERE attempts.outcome IS NULL AND attempts.worker = :worker
      AND attempts.task_id = ANY(:task_ids)
      AND steps.id = attempts.step_id AND steps.attempt = attempts.number
      AND steps.state = 'running' AND runs.id = steps.run_id
    RETURNING attempts.task_id, step_id || '.' || attempts.number AS attempt,
        runs.state = 'cancelling' AS stop,
        CAST(extract(epoch FROM least(attempts.kill_at,
            CASE WHEN runs.state = 'cancelling' THEN runs.stop_by END) - now()) AS float) AS kill_in
"""
# The seconds of slack let the worker kill its own child first, which is cleaner.
_EXPIRED = """
    SELECT attempts.task_id, attempts.run_id, CASE
        WHEN attempts.lease_until < now() THEN 'its worker went silent'
        ELSE 'its worker did not stop it in time' END AS reason
    FROM attempts
    JOIN steps ON steps.id = attempts.step_id AND steps.attempt = attempts.number
    JOIN runs ON runs.id = steps.run_id
    WHERE attempts.outcome IS NULL AND (CAST(:task_id AS text) IS NULL
                                      OR attempts.task_id = :task_id)
      AND (:silent AND attempts.lease_until < now() OR attempts.kill_at < now() - interval '2 s'
           OR runs.state = 'cancelling' AND runs.stop_by < now() - interval '1 s')
    ORDER BY row_number() OVER (PARTITION BY runs.tenant_id ORDER BY random()) LIMIT :limit
"""


def renew_leases(
    session: Session,
    worker: str,
    task_ids: Sequence[str],
    *,
    lease: timedelta,
    usage: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, StopOrder]:
    """Renew the leases of these tasks; those missing in the result are not this worker's.

    `usage` has what attempts have used so far, by the attempt that a renewal named.
    """
    params = {"worker": worker, "task_ids": list(task_ids), "lease": lease}
    rows = statements.rows(session, _RENEW, **params, usage=statements.to_json(usage or None))
    return {row.task_id: StopOrder(row.stop, row.kill_in, row.attempt) for row in rows}


def expired_attempts(
    session: Session, *, task_id: str | None = None, limit: int = 1, silent: bool = True
) -> Sequence[Row]:
    """Attempts whose lease expired, or that were not killed by their deadline, with the reason.

    Without `silent` only those past their stop deadline.
    """
    return statements.rows(session, _EXPIRED, task_id=task_id, limit=limit, silent=silent)
