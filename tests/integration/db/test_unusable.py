"""A database or user that cannot be used is named by `migrate`, with the SQL that mends it."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, make_url, text

from orchestrator.cli.main import main
from orchestrator.db import migrate, schema
from orchestrator.db.engine import make_engine
from orchestrator.db.row_security import API_ROLE
from orchestrator.errors import Unavailable
from orchestrator.local import services
from tests.support.factories import KEY


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a new server, as its superuser: roles belong to all databases of a server."""
    folder = TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True)
    with folder, services.postgres(Path(folder.name) / "pg") as url:
        yield url


@pytest.fixture
def database(server: str) -> Iterator[str]:
    """The URL of a new database `new` and of a user `Ada`, who owns nothing."""
    password = make_url(server).password
    _execute(server, "CREATE DATABASE new", f"CREATE ROLE \"Ada\" LOGIN PASSWORD '{password}'")
    try:
        yield _at(server, username="Ada", database="new")
    finally:
        _execute(_at(server, database="new"), 'DROP OWNED BY "Ada"')
        _execute(server, "DROP DATABASE new", 'DROP ROLE "Ada"', f"DROP ROLE IF EXISTS {API_ROLE}")


SCHEMA = "GRANT CREATE ON SCHEMA public TO PUBLIC"


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        (
            ['ALTER ROLE "Ada" CREATEROLE'],
            'the user "Ada" may not create tables in the schema public;'
            ' its owner mends it with: GRANT CREATE ON SCHEMA public TO "Ada"',
        ),
        (
            [SCHEMA],
            f'the role {API_ROLE} does not exist, and the user "Ada" may not mend it (permission'
            " denied to create role); an administrator mends it with:"
            f' CREATE ROLE {API_ROLE} NOLOGIN; GRANT {API_ROLE} TO "Ada"',
        ),
        (
            [SCHEMA, f"CREATE ROLE {API_ROLE}"],
            f'the database\'s user may not act as the role {API_ROLE}, and the user "Ada" may not'
            f' mend it (permission denied to grant role "{API_ROLE}"); an administrator mends it'
            f' with: GRANT {API_ROLE} TO "Ada"',
        ),
        (
            [SCHEMA, 'ALTER ROLE "Ada" CREATEROLE', 'ALTER ROLE "Ada" SET search_path = nowhere'],
            'there is no schema on the search path of the user "Ada"; an administrator mends it'
            ' with: ALTER ROLE "Ada" SET search_path = public',
        ),
        *[
            (
                [SCHEMA, 'ALTER ROLE "Ada" CREATEROLE', only_read],
                'the user "Ada" may only read; an administrator mends it with: ALTER ROLE "Ada"'
                " IN DATABASE new SET default_transaction_read_only = off",
            )
            for only_read in (
                'ALTER ROLE "Ada" SET default_transaction_read_only = on',
                "ALTER DATABASE new SET default_transaction_read_only = on",
            )
        ],
    ],
)
def test_a_missing_privilege_is_named_with_the_sql_that_grants_it(
    server: str, database: str, before: list[str], sentence: str
) -> None:
    _execute(_at(server, database="new"), *before)

    refused = _migrate(database)
    _execute(_at(server, database="new"), sentence.partition(" with: ")[2])
    migrated = _migrate(database)

    assert (refused.exit_code, refused.stderr) == (1, f"Error: {sentence}\n")
    assert migrated.stdout.startswith("schema empty → "), migrated.stderr


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_another_encoding_is_refused_at_migration_and_at_start(server: str, encoding: str) -> None:
    _execute(server, f"CREATE DATABASE old ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    old = _at(server, database="old")
    engine = make_engine(old, pool_size=1)
    try:
        refused = _migrate(old)
        with pytest.raises(Unavailable) as at_migration:
            migrate.migrate(engine)
        with pytest.raises(Unavailable) as at_start:
            schema.check_schema(engine)
        create = str(at_start.value).partition(" with: ")[2]
        _execute(server, create)
        migrated = _migrate(_at(server, database="orchestrator"))
    finally:
        engine.dispose()
        _execute(server, "DROP DATABASE old", "DROP DATABASE IF EXISTS orchestrator")

    sentence = f"the database old has the encoding {encoding}, which does not have every character"
    assert str(at_start.value) == str(at_migration.value) == refused.stderr[7:-1]
    assert str(at_start.value).startswith(f"{sentence}; create another one with: CREATE DATABASE ")
    assert migrated.stdout.startswith("schema empty → "), migrated.stderr


@pytest.mark.parametrize(
    "setting",
    ["client_encoding = LATIN1", "intervalstyle = iso_8601", "datestyle = German"],
)
def test_what_a_session_can_set_does_not_matter(server: str, database: str, setting: str) -> None:
    _execute(server, 'ALTER ROLE "Ada" SUPERUSER', f'ALTER ROLE "Ada" SET {setting}')
    migrated = _migrate(database)
    engine = make_engine(database, pool_size=1)
    with engine.connect() as connection:
        query = text("SELECT :word, CAST('1 day 2:00' AS interval)")
        word, interval = connection.execute(query, {"word": "→"}).one()
    engine.dispose()

    assert migrated.exit_code == 0, migrated.stderr
    assert (word, interval.total_seconds()) == ("→", 26 * 3600)


def _migrate(url: str) -> Result:
    environ = {"ORCHESTRATOR_DATABASE_URL": url, "ORCHESTRATOR_ADMIN_KEY": KEY}
    return CliRunner().invoke(main, ["migrate"], env=environ)


def _at(url: str, **parts: str) -> str:
    return make_url(url).set(**parts).render_as_string(hide_password=False)  # type: ignore[arg-type]


def _execute(url: str, *statements: str) -> None:
    """Execute each statement as the superuser, in a transaction of its own."""
    writing = {"options": "-c default_transaction_read_only=off"}
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args=writing)
    with engine.connect() as connection:
        for each in statements:
            for statement in each.split("; "):
                connection.execute(text(statement))
    engine.dispose()
