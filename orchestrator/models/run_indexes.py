"""The indexes of runs, for admission, sweeps, concurrency keys and lists.

Under row-level security Postgres uses an index only with leakproof operators: on plain columns,
with no function and no `@>`.
"""

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

RUN_INDEXES = (
    Index(None, "number", unique=True),
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
    Index(
        "ix_runs_ended_badly",
        "tenant_id",
        "workflow",
        "started_at",
        "id",
        postgresql_include=["state", "environment"],
        postgresql_where=text("state IN ('failed', 'timed_out', 'cancelled')"),
    ),
    Index("ix_runs_logical", "tenant_id", LOGICAL_DATE, "number"),
    Index(
        "ix_runs_logical_of_schedule",
        "schedule_id",
        LOGICAL_DATE,
        "number",
        postgresql_where=text("schedule_id IS NOT NULL"),
    ),
    # Few: a count of the others is the tally minus these.
    Index(
        "ix_runs_not_plain",
        "tenant_id",
        "environment",
        "started_at",
        "id",
        postgresql_include=["workflow", "state", "warnings"],
        postgresql_where=text("environment <> 'production' OR warnings > 0"),
    ),
    Index(None, "project_id", "id"),
    # Admission: the next runs of a queue by rank, with any number of waiting runs.
    Index(
        "ix_runs_waiting",
        "queue",
        "tenant_id",
        text("priority DESC"),
        "number",
        postgresql_where=text("state = 'pending' AND due"),
    ),
    Index(
        "ix_runs_not_due",
        "run_at",
        postgresql_where=text(
            "state = 'pending' AND NOT due AND NOT held AND concurrency_key IS NULL"
        ),
    ),
    Index(
        "ix_runs_deadline",
        "deadline_at",
        postgresql_where=text("state = 'running' AND deadline_at IS NOT NULL"),
    ),
    Index("ix_runs_cancelling", "id", postgresql_where=text("state = 'cancelling'")),
    # Enforces the limit of a concurrency key: at most one run holds it.
    Index(
        "ix_runs_holds_key",
        "workflow_id",
        "concurrency_key",
        unique=True,
        postgresql_where=text(
            "concurrency_key IS NOT NULL AND (state = 'pending' AND due"
            " OR state IN ('queued', 'running', 'cancelling'))"
        ),
    ),
    Index(
        "ix_runs_waits_for_key",
        "workflow_id",
        "concurrency_key",
        "number",
        postgresql_where=text(
            "concurrency_key IS NOT NULL AND state = 'pending' AND NOT due AND NOT held"
        ),
    ),
    Index(
        "ix_runs_late_at",
        "late_at",
        postgresql_where=text(
            "late_at IS NOT NULL AND NOT passed_sla"
            " AND state IN ('pending', 'queued', 'running', 'cancelling')"
        ),
    ),
    Index(
        None,
        "schedule_id",
        "id",
        postgresql_where=text("schedule_id IS NOT NULL"),
        postgresql_include=["tenant_id", "state", *_SORT_COLUMNS],
    ),
    Index(
        "ix_runs_open_of_schedule",
        "schedule_id",
        postgresql_where=text(
            "schedule_id IS NOT NULL AND state IN ('pending', 'queued', 'running', 'cancelling')"
        ),
    ),
    Index(None, "backfill_id", "id", postgresql_where=text("backfill_id IS NOT NULL")),
    Index(None, "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    # The last successful runs of a workflow, for estimates.
    Index(
        "ix_runs_succeeded",
        "workflow_id",
        "finished_at",
        postgresql_where=text("state = 'succeeded'"),
    ),
)
