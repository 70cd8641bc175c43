"""Numbers count the rows of one tenant."""

from alembic import op

from orchestrator.db import schema

revision = "0004"
down_revision = "0003"

_FOUND_BY_NUMBER = ("runs", "steps", "artifacts", "schedules", "backfills")
# As the trigger names them; numbers go on after those there are.
_SEQUENCES = """
    DO $$ DECLARE last record; name text; BEGIN
      FOR last IN SELECT tenant_id, max(number) AS number FROM {table} GROUP BY tenant_id LOOP
        name := '{table}_of_' || replace(CAST(last.tenant_id AS text), '-', '');
        EXECUTE format('CREATE SEQUENCE %I', name);
        PERFORM setval(name, last.number);
      END LOOP;
    END $$
"""


def upgrade() -> None:
    """Replace the sequence of all tenants by one of each, and the index by one for both."""
    for table in (*_FOUND_BY_NUMBER, "workflows", "projects", "webhooks"):
        op.execute(f"ALTER TABLE {table} ALTER COLUMN number DROP IDENTITY")
        op.execute(_SEQUENCES.format(table=table))
    schema.replace_functions(op.get_bind())
    for table in _FOUND_BY_NUMBER:
        op.drop_index(f"ix_{table}_number", table)
        columns = ["number", "tenant_id"]
        op.create_index(f"ix_{table}_number_tenant_id", table, columns, unique=True)
