"""Workers that are told to drain; autovacuum that keeps up with the tables that change most."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# Vacuumed after so many dead rows more than the given part of the table: every row of a run dies
# several times while it is young, and a table of millions must not wait for a fifth of them.
HOT = ("runs", "steps", "attempts", "outputs", "deliveries", "firings")
# Small, and every row of them dies within seconds.
TINY = ("workers", "backlog", "backlog_changes", "tallies", "tally_changes", "schedules")
APPENDED = ("events", "logs")


def upgrade() -> None:
    op.add_column("workers", sa.Column("drain_by", sa.DateTime(timezone=True), nullable=True))
    # Without the many that are held or wait for a concurrency key: who asks wants the others.
    op.create_index(
        "new_ix_runs_not_due",
        "runs",
        ["run_at"],
        postgresql_where=sa.text(
            "state = 'pending' AND NOT due AND NOT held AND concurrency_key IS NULL"
        ),
    )
    for table in HOT:
        _set(table, "vacuum_scale_factor = 0.01", "vacuum_threshold = 1000",
             "analyze_scale_factor = 0.02", "vacuum_cost_delay = 0")  # fmt: skip
    for table in TINY:
        _set(table, "vacuum_scale_factor = 0", "vacuum_threshold = 500",
             "analyze_scale_factor = 0", "analyze_threshold = 5000", "vacuum_cost_delay = 0")  # fmt: skip
    for table in APPENDED:
        _set(table, "vacuum_insert_scale_factor = 0.05", "analyze_scale_factor = 0.02")
    # Last, because nobody reads the runs from here on until the migration has ended.
    op.drop_index("ix_runs_not_due", "runs")
    op.execute("ALTER INDEX new_ix_runs_not_due RENAME TO ix_runs_not_due")


def _set(table: str, *options: str) -> None:
    chosen = ", ".join(f"autovacuum_{option}" for option in options)
    op.execute(f"ALTER TABLE {table} SET ({chosen})")
