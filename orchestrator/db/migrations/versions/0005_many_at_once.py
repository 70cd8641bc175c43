"""Runs that are made together: their idempotency key, triggers that count them at once; tags."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0005"
down_revision = "0004"

ROLE = "orchestrator_api"
TENANT = "(SELECT CAST(nullif(current_setting('orchestrator.tenant', true), '') AS uuid))"
KIND = "tenant_id, project_id, workflow, schedule_id"
TRIGGERS = f"""
CREATE FUNCTION count_new_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO tally_changes ({KIND}, state, change)
  SELECT {KIND}, '', count(*) FROM made GROUP BY {KIND}
  UNION ALL
  SELECT {KIND}, state, count(*) FROM made WHERE finished_at IS NOT NULL GROUP BY {KIND}, state;
  INSERT INTO backlog_changes (tenant_id, queue, priority, bucket, change)
  SELECT tenant_id, queue, priority, number >> 10, count(*) FROM made
  WHERE state = 'pending' AND due GROUP BY 1, 2, 3, 4;
  INSERT INTO run_tags (tenant_id, tag, run_id)
  SELECT DISTINCT tenant_id, unnest(tags), id FROM made WHERE tags <> '{{}}';
  RETURN NULL;
END $$;
CREATE FUNCTION change_run_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM run_tags WHERE run_id = NEW.id;
  INSERT INTO run_tags (tenant_id, tag, run_id)
  SELECT DISTINCT NEW.tenant_id, unnest(NEW.tags), NEW.id;
  RETURN NULL;
END $$;
DROP TRIGGER tally_insert ON runs;
DROP TRIGGER backlog_insert ON runs;
CREATE TRIGGER count_new AFTER INSERT ON runs REFERENCING NEW TABLE AS made
  FOR EACH STATEMENT EXECUTE FUNCTION count_new_runs();
CREATE TRIGGER change_tags AFTER UPDATE OF tags ON runs FOR EACH ROW
  WHEN (OLD.tags IS DISTINCT FROM NEW.tags) EXECUTE FUNCTION change_run_tags();
INSERT INTO run_tags (tenant_id, tag, run_id)
  SELECT DISTINCT tenant_id, unnest(tags), id FROM runs WHERE tags <> '{{}}';
DROP INDEX ix_runs_tags;
"""


def upgrade() -> None:
    op.add_column("idempotency_keys", sa.Column("run_ids", ARRAY(sa.Uuid()), nullable=True))
    for table in ("tally_changes", "backlog_changes"):
        op.alter_column(table, "change", type_=sa.Integer())
    op.create_table(
        "run_tags",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_tags_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "tag", "run_id", name=op.f("pk_run_tags")),
    )
    op.create_index(op.f("ix_run_tags_run_id"), "run_tags", ["run_id"])
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON run_tags TO {ROLE}")
    op.execute("ALTER TABLE run_tags ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON run_tags TO {ROLE} USING (tenant_id = {TENANT})")
    op.execute(TRIGGERS)
