"""Partial indexes; the indexes of runs, for admission, sweeps, concurrency keys and lists.

Under row-level security Postgres uses an index only with leakproof operators: on plain columns,
with no function and no `@>`.
"""

from typing import Any

from sqlalchemy import Index, text

PLAIN_RUN = "production"  # the environment of most runs
# The instant of a run. Not `coalesce`, which is not leakproof: under row-level security no index
# would be used for it.
LOGICAL_DATE = text("""(
CASE
    WHEN logical_date IS NULL THEN created_at
    ELSE logical_date
END)""")  # as Postgres prints it, for the comparison with the database
_SORT_COLUMNS = ["created_at", "logical_date", "number"]  # which lists filter and sort by
_OF_SCHEDULE = "schedule_id IS NOT NULL"
_IS_LIVE = "state IN ('pending', 'queued', 'running', 'cancelling')"
_HAS_KEY = "concurrency_key IS NOT NULL"
_HOLDS_KEY = "(state = 'pending' AND due OR state IN ('queued', 'running', 'cancelling'))"
_NOT_DUE = "state = 'pending' AND NOT due AND NOT held"


def partial_index(name: str | None, *columns: Any, where: str, **options: Any) -> Index:
    """An index over only the rows that meet a condition."""
    return Index(name, *columns, postgresql_where=text(where), **options)


RUN_INDEXES = (
    # In this order: a plan that is cached while a tenant has no rows reads all of them later, if an
    # index for its number begins with the tenant.
    Index(None, "number", "tenant_id", unique=True),
    Index(None, "tenant_id", "id"),
    Index(None, "tenant_id", "workflow", "id"),
    Index(None, "tenant_id", "state", "id", postgresql_include=_SORT_COLUMNS),
    Index(None, "tenant_id", "priority", "id"),
    # Includes what lists filter by: a page and a count do not read the rows.
    Index(
        None,
        "tenant_id",
        "started_at",
        "id",
        postgresql_include=["workflow", "state", "environment", "warnings"],
    ),
    # A workflow may have few of these among very many that succeeded.
    partial_index(
        "ix_runs_ended_badly",
        "tenant_id",
        "workflow",
        "started_at",
        "id",
        where="state IN ('failed', 'timed_out', 'cancelled')",
        postgresql_include=["state", "environment"],
    ),
    Index("ix_runs_logical", "tenant_id", LOGICAL_DATE, "number"),
    partial_index(
        "ix_runs_logical_of_schedule", "schedule_id", LOGICAL_DATE, "number", where=_OF_SCHEDULE
    ),
    # Few: a count of the others is the tally minus these.
    partial_index(
        "ix_runs_not_plain",
        "tenant_id",
        "environment",
        "started_at",
        "id",
        where="environment <> 'production' OR warnings > 0",
        postgresql_include=["workflow", "state", "warnings"],
    ),
    Index(None, "project_id", "id"),
    # Admission: the next runs of a queue by rank, with any number of waiting runs.
    partial_index(
        "ix_runs_waiting",
        "queue",
        "tenant_id",
        text("priority DESC"),
        "number",
        where="state = 'pending' AND due",
    ),
    # Few: how many of them a tenant has is counted.
    partial_index(
        "ix_runs_not_due_of_tenant",
        "tenant_id",
        "priority",
        where="state = 'pending' AND NOT due",
    ),
    partial_index("ix_runs_not_due", "run_at", where=f"{_NOT_DUE} AND concurrency_key IS NULL"),
    partial_index(
        "ix_runs_deadline", "deadline_at", where="state = 'running' AND deadline_at IS NOT NULL"
    ),
    partial_index("ix_runs_cancelling", "id", where="state = 'cancelling'"),
    # Enforces the limit of a concurrency key: at most one run holds it.
    partial_index(
        "ix_runs_holds_key",
        "workflow_id",
        "concurrency_key",
        where=f"{_HAS_KEY} AND {_HOLDS_KEY}",
        unique=True,
    ),
    partial_index(
        "ix_runs_waits_for_key",
        "workflow_id",
        "concurrency_key",
        "number",
        where=f"{_HAS_KEY} AND {_NOT_DUE}",
    ),
    partial_index(
        "ix_runs_late_at", "late_at", where=f"late_at IS NOT NULL AND NOT passed_sla AND {_IS_LIVE}"
    ),
    partial_index(
        None,
        "schedule_id",
        "id",
        where=_OF_SCHEDULE,
        postgresql_include=["tenant_id", "state", *_SORT_COLUMNS],
    ),
    partial_index(
        "ix_runs_open_of_schedule", "schedule_id", where=f"{_OF_SCHEDULE} AND {_IS_LIVE}"
    ),
    partial_index(None, "backfill_id", "id", where="backfill_id IS NOT NULL"),
    partial_index(None, "finished_at", where="finished_at IS NOT NULL"),
    # The last successful runs of a workflow, for estimates.
    partial_index("ix_runs_succeeded", "workflow_id", "finished_at", where="state = 'succeeded'"),
)
