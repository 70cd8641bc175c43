"""Tells Postgres early how large its tables have become.

Plans are kept by every connection, and one that was made while a table was small can read all of it
for each run when it has grown. Postgres itself looks once a minute; a batch takes a few seconds.
"""

from sqlalchemy.orm import Session

from orchestrator.db import statements

# By its size of late; one that nobody has looked at yet counts as a few hundred rows.
_GROWN = """
    SELECT CAST(CAST(relid AS regclass) AS text) AS name
    FROM pg_stat_user_tables JOIN pg_class ON pg_class.oid = relid
    WHERE schemaname = current_schema() AND n_live_tup > 2 * greatest(reltuples, 500)
"""


def analyze(session: Session) -> int:
    """Let Postgres look at the tables that have doubled since it did; gives how many have."""
    grown = [table.name for table in statements.rows(session, _GROWN)]
    if grown:
        names = ", ".join(grown)
        session.connection().exec_driver_sql(f"ANALYZE (SKIP_LOCKED) {names}")
    return len(grown)
