"""Row-level security: the role that the API acts as, and the policies that bind it.

The migrations make both. The role belongs to the whole server and is in no dump of a database, so
a restore on a new server may leave neither: `mistakes` tells, and `repair` makes what is missing.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import ProgrammingError

from orchestrator.errors import Unavailable
from orchestrator.models import Base, metrics, notifications, outputs, schedules

# Importing a module of tables is what makes them known.
_MODELS = (notifications, outputs, schedules, metrics)
API_ROLE = "orchestrator_api"
_OPEN = ("queues", "workers")  # rows that belong to no tenant
_TENANT = "(SELECT CAST(nullif(current_setting('orchestrator.tenant', true), '') AS uuid))"
_CONDITIONS = {  # of the tables whose rows say otherwise whose they are
    "tenants": f"id = {_TENANT}",
    "versions": "EXISTS (SELECT FROM workflows WHERE workflows.id = workflow_id)",
    "attempts": "EXISTS (SELECT FROM runs WHERE runs.id = run_id)",
}

# Since Postgres 16 a member may not act as the role unless that was granted, too.
_ACTS = """
    pg_has_role(current_user, oid,
        CASE WHEN CAST(current_setting('server_version_num') AS int) < 160000 THEN 'MEMBER'
             ELSE 'SET' END)
"""
_ROLE = f"""
    SELECT {_ACTS} AS acts, rolbypassrls OR rolsuper AS bypasses,
        has_schema_privilege(oid, current_schema(), 'USAGE') AS enters
    FROM pg_roles WHERE rolname = :role
"""
# What the role may do with each table of ours, and whether a policy binds it.
_TABLES = """
    SELECT relname AS name, relrowsecurity AS walled,
        has_table_privilege(:role, pg_class.oid, 'SELECT')
            AND has_table_privilege(:role, pg_class.oid, 'INSERT')
            AND has_table_privilege(:role, pg_class.oid, 'UPDATE')
            AND has_table_privilege(:role, pg_class.oid, 'DELETE') AS granted,
        EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = 'tenant'
            AND CAST(CAST(:role AS regrole) AS oid) = ANY(polroles)) AS bound
    FROM pg_class WHERE relkind = 'r' AND relnamespace = CAST(current_schema() AS regnamespace)
      AND relname = ANY(:tables) ORDER BY relname
"""
_FUNCTION = """
    SELECT has_function_privilege(:role, oid, 'EXECUTE') FROM pg_proc
    WHERE proname = 'may_start' AND pronamespace = CAST(current_schema() AS regnamespace)
"""
_MAKE_ROLE = f"""
    DO $$ BEGIN
      BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{API_ROLE}') THEN
          CREATE ROLE {API_ROLE} NOLOGIN NOBYPASSRLS;
        END IF;
      EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
      END;
      IF NOT (SELECT {_ACTS} FROM pg_roles WHERE rolname = '{API_ROLE}') THEN
        EXECUTE format('GRANT {API_ROLE} TO %I', current_user);
      END IF;
      EXECUTE format('GRANT USAGE ON SCHEMA %I TO {API_ROLE}', current_schema());
    END $$
"""


def missing_security(connection: Connection) -> list[str]:
    """What keeps the API's role from its work, or lets it see more than one tenant's rows."""
    role = connection.execute(text(_ROLE), {"role": API_ROLE}).one_or_none()
    if role is None:
        return [f"the role {API_ROLE} does not exist"]
    found = [] if role.acts else [f"the database's user may not act as the role {API_ROLE}"]
    if role.bypasses:
        found.append(f"the role {API_ROLE} is not bound by row-level security")
    if not role.enters:
        found.append(f"the role {API_ROLE} may not use the schema")
    tables = _tables(connection)
    missing = Base.metadata.tables.keys() - {table.name for table in tables}
    found += [f"the table {name} does not exist" for name in sorted(missing)]
    for table in tables:
        if not table.granted:
            found.append(f"the role {API_ROLE} may not read and write the table {table.name}")
        if table.name not in _OPEN and not (table.walled and table.bound):
            found.append(f"the table {table.name} has no row-level security")
    if not all(connection.scalars(text(_FUNCTION), {"role": API_ROLE})):
        found.append(f"the role {API_ROLE} may not call the function may_start")
    return found


def repair_security(connection: Connection) -> list[str]:
    """Make the role, its rights and the policies where one is missing; gives what was missing.

    Raises Unavailable for what the database's user may not do.
    """
    before = missing_security(connection)
    if not before:
        return []
    try:
        connection.execute(text(_MAKE_ROLE))
        for table in _tables(connection):
            connection.exec_driver_sql(
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.name} TO {API_ROLE}"
            )
            if table.name not in _OPEN and not (table.walled and table.bound):
                _bind(connection, table.name)
        connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION may_start TO {API_ROLE}")
    except ProgrammingError as error:
        told, _, _ = str(error.orig).strip().partition("\n")
        raise Unavailable(f"{before[0]}, and this user may not mend it: {told}") from error
    if after := missing_security(connection):
        raise Unavailable(f"{after[0]}, and `migrate` cannot mend that")
    return before


def _tables(connection: Connection) -> Sequence[Row[Any]]:
    """Those of our tables that are there; others in the schema are not our business."""
    params = {"role": API_ROLE, "tables": list(Base.metadata.tables)}
    return connection.execute(text(_TABLES), params).all()


def _bind(connection: Connection, table: str) -> None:
    """Let the role see nothing of a table but the rows of the tenant that it acts for."""
    condition = _CONDITIONS.get(table, f"tenant_id = {_TENANT}")
    connection.exec_driver_sql(f"DROP POLICY IF EXISTS tenant ON {table}")
    connection.exec_driver_sql(f"CREATE POLICY tenant ON {table} TO {API_ROLE} USING ({condition})")
    connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
