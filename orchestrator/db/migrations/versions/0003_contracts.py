"""Counts of runs of every kind, and the indexes that lists of the published contracts need."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ROLE = "orchestrator_api"
TENANT = "(SELECT CAST(nullif(current_setting('orchestrator.tenant', true), '') AS uuid))"
LOGICAL = sa.text("(CASE WHEN logical_date IS NULL THEN created_at ELSE logical_date END)")
LISTED = ["created_at", "logical_date", "number"]
KIND = "tenant_id, project_id, workflow, schedule_id"

# What there is of every kind, kept by appending: once when a run is made, once when it ends.
TALLIES = f"""
CREATE FUNCTION note_tally() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO tally_changes ({KIND}, state, change)
    VALUES (NEW.tenant_id, NEW.project_id, NEW.workflow, NEW.schedule_id, '', 1);
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO tally_changes ({KIND}, state, change)
    VALUES (OLD.tenant_id, OLD.project_id, OLD.workflow, OLD.schedule_id, '', -1);
  END IF;
  IF TG_OP <> 'INSERT' AND OLD.finished_at IS NOT NULL THEN
    INSERT INTO tally_changes ({KIND}, state, change)
    VALUES (OLD.tenant_id, OLD.project_id, OLD.workflow, OLD.schedule_id, OLD.state, -1);
  END IF;
  IF TG_OP <> 'DELETE' AND NEW.finished_at IS NOT NULL THEN
    INSERT INTO tally_changes ({KIND}, state, change)
    VALUES (NEW.tenant_id, NEW.project_id, NEW.workflow, NEW.schedule_id, NEW.state, 1);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER tally_insert AFTER INSERT ON runs FOR EACH ROW EXECUTE FUNCTION note_tally();
CREATE TRIGGER tally_delete AFTER DELETE ON runs FOR EACH ROW EXECUTE FUNCTION note_tally();
CREATE TRIGGER tally_update AFTER UPDATE OF state ON runs FOR EACH ROW
  WHEN (OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL)
  EXECUTE FUNCTION note_tally();
INSERT INTO tallies ({KIND}, state, runs)
  SELECT {KIND}, '', count(*) FROM runs GROUP BY 1, 2, 3, 4;
INSERT INTO tallies ({KIND}, state, runs)
  SELECT {KIND}, state, count(*) FROM runs WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4, 5;
"""


def upgrade() -> None:
    for table, counted in (
        ("tallies", sa.Column("runs", sa.BigInteger(), nullable=False)),
        ("tally_changes", sa.Column("change", sa.SmallInteger(), nullable=False)),
    ):
        op.create_table(
            table,
            sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
            sa.Column("tenant_id", sa.Uuid(), nullable=False),
            sa.Column("project_id", sa.Uuid(), nullable=True),
            sa.Column("workflow", sa.Text(), nullable=False),
            sa.Column("schedule_id", sa.Uuid(), nullable=True),
            sa.Column("state", sa.Text(), nullable=False),
            counted,
            sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
        )
    op.create_index(
        "uq_tallies_kind",
        "tallies",
        ["tenant_id", "project_id", "workflow", "schedule_id", "state"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(op.f("ix_tally_changes_tenant_id"), "tally_changes", ["tenant_id"])
    op.create_index(
        "new_ix_runs_tenant_id_state_id",
        "runs",
        ["tenant_id", "state", "id"],
        postgresql_include=LISTED,
    )
    op.create_index(
        "new_ix_runs_schedule_id_id",
        "runs",
        ["schedule_id", "id"],
        postgresql_where=sa.text("schedule_id IS NOT NULL"),
        postgresql_include=["tenant_id", "state", *LISTED],
    )
    op.create_index(
        op.f("ix_runs_tenant_id_started_at_id"),
        "runs",
        ["tenant_id", "started_at", "id"],
        postgresql_include=["workflow", "state", "environment", "warnings"],
    )
    op.create_index(
        "ix_runs_ended_badly",
        "runs",
        ["tenant_id", "workflow", "started_at", "id"],
        postgresql_include=["state", "environment"],
        postgresql_where=sa.text("state IN ('failed', 'timed_out', 'cancelled')"),
    )
    op.create_index("ix_runs_logical", "runs", ["tenant_id", LOGICAL, "number"])
    op.create_index(
        "ix_runs_logical_of_schedule",
        "runs",
        ["schedule_id", LOGICAL, "number"],
        postgresql_where=sa.text("schedule_id IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_not_plain",
        "runs",
        ["tenant_id", "environment", "started_at", "id"],
        postgresql_include=["workflow", "state", "warnings"],
        postgresql_where=sa.text("environment <> 'production' OR warnings > 0"),
    )
    op.create_index(op.f("ix_runs_project_id_id"), "runs", ["project_id", "id"])
    op.create_index(op.f("ix_steps_number"), "steps", ["number"], unique=True)
    op.create_index(
        op.f("ix_steps_result_artifact"),
        "steps",
        ["result_artifact"],
        postgresql_where=sa.text("result_artifact IS NOT NULL"),
    )
    op.execute(TALLIES)
    for table in ("tallies", "tally_changes"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {ROLE}")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO {ROLE} USING (tenant_id = {TENANT})")
    op.add_column("schedules", sa.Column("timeout", sa.Interval(), nullable=True))
    # Last: until now whoever reads runs could go on.
    for name in ("ix_runs_tenant_id_state_id", "ix_runs_schedule_id_id"):
        op.drop_index(op.f(name), "runs")
        op.execute(f"ALTER INDEX new_{name} RENAME TO {name}")
