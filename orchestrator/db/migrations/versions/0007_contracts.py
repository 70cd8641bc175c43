"""Runs are counted per workflow, workflows have display names, schedules limit their runs."""

import sqlalchemy as sa
from alembic import op

from orchestrator.db import schema

revision = "0007"
down_revision = "0006"

# As the trigger names them. Runs that there are keep their number as their name, so ordinals go on
# after the last of those.
_SEQUENCES = """
    DO $$ DECLARE last record; name text; BEGIN
      FOR last IN SELECT workflow_id, max(number) AS number FROM runs GROUP BY workflow_id LOOP
        name := 'ordinals_of_' || replace(CAST(last.workflow_id AS text), '-', '');
        EXECUTE format('CREATE SEQUENCE %I', name);
        PERFORM setval(name, last.number);
      END LOOP;
    END $$
"""


def upgrade() -> None:
    """Add the columns, the sequence of each workflow that has runs, and replace the functions."""
    op.add_column("runs", sa.Column("ordinal", sa.BigInteger()))
    op.execute(_SEQUENCES)
    op.add_column("workflows", sa.Column("title", sa.Text()))
    op.create_index(
        "ix_workflows_title",
        "workflows",
        ["tenant_id", "title"],
        postgresql_where=sa.text("title IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_not_due_of_tenant",
        "runs",
        ["tenant_id", "priority"],
        postgresql_where=sa.text("state = 'pending' AND NOT due"),
    )
    op.add_column("schedules", sa.Column("max_running", sa.SmallInteger()))
    op.add_column(
        "schedules",
        sa.Column(
            "continue_on_failure", sa.Boolean(), nullable=False, server_default=sa.text("false")
        ),
    )
    schema.replace_functions(op.get_bind())
