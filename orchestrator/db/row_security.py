"""Row-level security: the role that the API acts as, and the policies for it.

The migrations create both. The role belongs to the server and is in no dump of a database, so a
restore on a new server may lack both: `missing_security` lists and `repair_security` creates them.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import ProgrammingError

from orchestrator.errors import Unavailable
from orchestrator.models import Base

API_ROLE = "orchestrator_api"
_WITHOUT_TENANT = ("queues", "workers", "worker_starts", "schedulers")
_TENANT = "(SELECT CAST(nullif(current_setting('orchestrator.tenant', true), '') AS uuid))"
_EVERY = ("SELECT", "INSERT", "UPDATE", "DELETE")
_PRIVILEGES = {"audit": ("SELECT", "INSERT"), "audit_heads": ("SELECT",)}  # of other tables: all
_CHECKS = {"audit": "hash IS NULL AND number IS NULL"}  # what new rows must meet, too
_CONDITIONS = {  # of the tables without a column `tenant_id`
    "tenants": f"id = {_TENANT}",
    "versions": "EXISTS (SELECT FROM workflows WHERE workflows.id = workflow_id)",
    "attempts": "EXISTS (SELECT FROM runs WHERE runs.id = run_id)",
}

# Since Postgres 16 a member may SET ROLE only if that was granted, too.
_CAN_ACT = """
    pg_has_role(current_user, oid,
        CASE WHEN CAST(current_setting('server_version_num') AS int) < 160000 THEN 'MEMBER'
             ELSE 'SET' END)
"""
_ROLE = f"""
    SELECT {_CAN_ACT} AS acts, rolbypassrls OR rolsuper AS bypasses,
        has_schema_privilege(oid, current_schema(), 'USAGE') AS enters
    FROM pg_roles WHERE rolname = :role
"""
# The role's privileges on each of our tables, and whether it has a policy for the role.
_TABLES = """
    SELECT relname AS name, relrowsecurity AS is_enabled,
        ARRAY(SELECT name FROM unnest(CAST(:privileges AS text[])) AS name
            WHERE has_table_privilege(:role, pg_class.oid, name)) AS privileges,
        EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = 'tenant'
            AND CAST(CAST(:role AS regrole) AS oid) = ANY(polroles)) AS has_policy
    FROM pg_class WHERE relkind = 'r' AND relnamespace = CAST(current_schema() AS regnamespace)
      AND relname = ANY(:tables) ORDER BY relname
"""
_FUNCTION = """
    SELECT has_function_privilege(:role, oid, 'EXECUTE') FROM pg_proc
    WHERE proname = 'may_start' AND pronamespace = CAST(current_schema() AS regnamespace)
"""
_CREATE_ROLE = f"""
    DO $$ BEGIN
      BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{API_ROLE}') THEN
          CREATE ROLE {API_ROLE} NOLOGIN NOBYPASSRLS;
        END IF;
      EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
      END;
      IF NOT (SELECT {_CAN_ACT} FROM pg_roles WHERE rolname = '{API_ROLE}') THEN
        EXECUTE format('GRANT {API_ROLE} TO %I', current_user);
      END IF;
      EXECUTE format('GRANT USAGE ON SCHEMA %I TO {API_ROLE}', current_schema());
    END $$
"""


def missing_security(connection: Connection) -> list[str]:
    """What the API's role lacks, or by what it would see more than one tenant's rows."""
    role = connection.execute(text(_ROLE), {"role": API_ROLE}).one_or_none()
    if role is None:
        return [f"the role {API_ROLE} does not exist"]
    missing = [] if role.acts else [f"the database's user may not act as the role {API_ROLE}"]
    if role.bypasses:
        missing.append(f"the role {API_ROLE} is not bound by row-level security")
    if not role.enters:
        missing.append(f"the role {API_ROLE} may not use the schema")
    tables = _tables(connection)
    absent = Base.metadata.tables.keys() - {table.name for table in tables}
    missing += [f"the table {name} does not exist" for name in sorted(absent)]
    for table in tables:
        privileges = set(_PRIVILEGES.get(table.name, _EVERY))
        if not privileges.issubset(table.privileges):
            missing.append(f"the role {API_ROLE} may not read and write the table {table.name}")
        elif not privileges.issuperset(table.privileges):
            missing.append(f"the role {API_ROLE} may change what the table {table.name} keeps")
        if table.name not in _WITHOUT_TENANT and not (table.is_enabled and table.has_policy):
            missing.append(f"the table {table.name} has no row-level security")
    if not all(connection.scalars(text(_FUNCTION), {"role": API_ROLE})):
        missing.append(f"the role {API_ROLE} may not call the function may_start")
    return missing


def repair_security(connection: Connection) -> list[str]:
    """Create the role, its privileges and the policies that are missing; returns what was missing.

    Raises Unavailable if the database's user lacks a privilege for it.
    """
    before = missing_security(connection)
    if not before:
        return []
    _create_role(connection, before[0])
    try:
        for table in _tables(connection):
            _grant(connection, table.name)
            if table.name not in _WITHOUT_TENANT and not (table.is_enabled and table.has_policy):
                _create_policy(connection, table.name)
        connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION may_start TO {API_ROLE}")
    except ProgrammingError as error:
        raise Unavailable(
            f"{before[0]}, and this user may not mend it ({_reason(error)}):"
            " migrate as the owner of the tables"
        ) from error
    if after := missing_security(connection):
        raise Unavailable(f"{after[0]}, and `migrate` cannot mend that")
    return before


def _create_role(connection: Connection, missing: str) -> None:
    """Create the role and act as it. Raises Unavailable, with what mends it, without privileges."""
    user = connection.scalar(text("SELECT quote_ident(current_user)"))
    exists = connection.execute(text(_ROLE), {"role": API_ROLE}).one_or_none() is not None
    try:
        connection.execute(text(_CREATE_ROLE))
    except ProgrammingError as error:
        create = "" if exists else f"CREATE ROLE {API_ROLE} NOLOGIN; "
        raise Unavailable(
            f"{missing}, and the user {user} may not mend it ({_reason(error)});"
            f" an administrator mends it with: {create}GRANT {API_ROLE} TO {user}"
        ) from error


def _reason(error: ProgrammingError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _tables(connection: Connection) -> Sequence[Row[Any]]:
    """Those of our tables that exist; other tables of the schema are ignored."""
    tables = list(Base.metadata.tables)
    params = {"role": API_ROLE, "tables": tables, "privileges": list(_EVERY)}
    return connection.execute(text(_TABLES), params).all()


def _grant(connection: Connection, table: str) -> None:
    """Give the role its privileges on a table, and no others."""
    privileges = _PRIVILEGES.get(table, _EVERY)
    if privileges != _EVERY:
        connection.exec_driver_sql(f"REVOKE ALL ON {table} FROM {API_ROLE}")
    connection.exec_driver_sql(f"GRANT {', '.join(privileges)} ON {table} TO {API_ROLE}")


def _create_policy(connection: Connection, table: str) -> None:
    """Restrict the role to the rows of the tenant that it acts for."""
    condition = _CONDITIONS.get(table, f"tenant_id = {_TENANT}")
    connection.exec_driver_sql(f"DROP POLICY IF EXISTS tenant ON {table}")
    policy = f"CREATE POLICY tenant ON {table} TO {API_ROLE} USING ({condition})"
    if table in _CHECKS:
        policy += f" WITH CHECK ({condition} AND {_CHECKS[table]})"
    connection.exec_driver_sql(policy)
    connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
