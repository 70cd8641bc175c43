"""What was read run by run is found by an index: who goes before a new run, and failed steps."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# For their order Postgres has to ask the index of those that wait. Without it, it took what waits
# in other queues for so likely to be here that it read all of it until it met the first one.
MAY_START = """
CREATE OR REPLACE FUNCTION may_start(run_id uuid, run_queue text, run_priority int, most int)
RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  IF EXISTS (SELECT FROM tenants, LATERAL (
      SELECT FROM runs WHERE tenant_id = tenants.id AND queue = run_queue AND state = 'pending'
        AND due AND priority >= run_priority AND id <> run_id
      ORDER BY priority DESC, number LIMIT 1) ahead) THEN
    RETURN false;
  END IF;
  RETURN (SELECT count(*) FROM (
    SELECT FROM steps WHERE queue = run_queue AND state = 'queued' AND published_at IS NOT NULL
    LIMIT most) unclaimed) < most;
END $$;
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION may_start SET search_path = %I, pg_temp', current_schema());
END $$;
"""


def upgrade() -> None:
    op.create_index(
        "ix_steps_ended_badly",
        "steps",
        ["tenant_id", "run_id"],
        postgresql_include=["state"],
        postgresql_where=sa.text("state IN ('failed', 'cancelled') AND started_at IS NOT NULL"),
    )
    op.execute(MAY_START)
