"""ANALYZE tables that have doubled since their last statistics, so that cached plans stay good.

A plan that was cached while a table was small may scan it for each run when it has grown.
Autovacuum comes once a minute; a batch of runs takes a few seconds.
"""

from sqlalchemy.orm import Session

from orchestrator.db import statements

# A table without statistics (reltuples is -1) counts as 500 rows.
_GROWN = """
    SELECT CAST(CAST(relid AS regclass) AS text) AS name
    FROM pg_stat_user_tables JOIN pg_class ON pg_class.oid = relid
    WHERE schemaname = current_schema() AND n_live_tup > 2 * greatest(reltuples, 500)
"""


def analyze(session: Session) -> int:
    """ANALYZE the tables that have doubled; gives how many."""
    grown = [table.name for table in statements.rows(session, _GROWN)]
    if grown:
        names = ", ".join(grown)
        session.connection().exec_driver_sql(f"ANALYZE (SKIP_LOCKED) {names}")
    return len(grown)
