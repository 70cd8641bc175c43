"""The embedded services: where they keep their data, and when they are killed."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
from click.testing import CliRunner
from redis.exceptions import AuthenticationError
from sqlalchemy import URL, make_url
from sqlalchemy.exc import OperationalError

from config.folders import private_folder
from config.settings import PREFIX, Settings
from orchestrator.access import secrets
from orchestrator.cli.main import main
from orchestrator.db.engine import make_engine
from orchestrator.errors import Unavailable
from orchestrator.local import processes, services
from orchestrator.local.stack import Stack
from orchestrator.local.supervisor import Program, start_supervised
from orchestrator.outputs import storage
from tests.support.factories import eventually


def test_a_postgres_that_was_killed_is_named_and_not_stopped_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_DATABASE_URL", raising=False)
    # Not pytest's folder: Postgres may run as another user.
    with TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True) as folder:
        directory = Path(folder) / "pg"
        with services.postgres(directory) as url:
            running_url = services.running_postgres(directory)
            pid = int((directory / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: services.running_postgres(directory) is None)
            result = CliRunner().invoke(main, ["doctor"], env={"ORCHESTRATOR_DATA_DIR": folder})

    assert running_url == url
    assert result.exit_code == 1
    assert f"no Postgres runs in {directory}: `orchestrator up` starts one" in result.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which Postgres may run as another user."""
    with TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "name",
    [
        'it\'s 100% %(here)s "mine" $HOME `id` \\ ;a #b ?c=d&e@f:g, Größe 日本\n',
        "/".join(["long" * 25] * 3),  # a socket's path has at most 107 bytes
    ],
)
def test_the_path_of_the_data_may_have_any_character(folder: Path, name: str) -> None:
    settings = Settings(data_dir=folder / name)
    with services.start_services(settings) as environ:
        url = environ[f"{PREFIX}DATABASE_URL"]
        engine = make_engine(url, pool_size=1)
        with engine.connect() as connection:
            directory = connection.exec_driver_sql("SHOW data_directory").scalar_one()
        engine.dispose()

        assert Path(directory).samefile(settings.data_dir / "pg")
        assert services.running_postgres(settings.data_dir / "pg") == url
        assert services.running_redis(settings.data_dir / "redis") == environ[f"{PREFIX}REDIS_URL"]
    assert services.running_postgres(settings.data_dir / "pg") is None


def _refuses(url: URL) -> bool:
    engine = make_engine(url.render_as_string(hide_password=False), pool_size=1)
    try:
        engine.connect().close()
    except OperationalError as error:
        return "password" in str(error)
    finally:
        engine.dispose()
    return False


def test_nobody_gets_into_postgres_without_its_password(folder: Path) -> None:
    with services.postgres(folder / "pg") as given_url:
        url = make_url(given_url)
        others = [url.set(password=password) for password in ("", "postgres")]
        eventually(lambda: all(map(_refuses, others)))
        assert url.password is not None
        assert len(url.password) >= 32
        rules = (folder / "pg" / "pg_hba.conf").read_text()

    assert {line.split()[-1] for line in rules.splitlines() if re.match(r"local|host", line)} == {
        "scram-sha-256"
    }


@pytest.mark.parametrize("lost", [False, True], ids=["of an earlier release", "password lost"])
def test_the_data_of_before_is_there_and_asks_for_a_password(folder: Path, lost: bool) -> None:
    directory = folder / "pg"
    with services.postgres(directory) as url:
        engine = make_engine(url, pool_size=1)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE kept AS SELECT 7 AS number")
        engine.dispose()
    (directory / "orchestrator.password").unlink()
    if not lost:
        (directory / "pg_hba.conf").write_text("# trust\nlocal all all trust\n")

    with services.postgres(directory) as url:
        engine = make_engine(url, pool_size=1)
        with engine.connect() as connection:
            number = connection.exec_driver_sql("SELECT number FROM kept").scalar_one()
        engine.dispose()
        assert services.running_postgres(directory) == url
        eventually(lambda: _refuses(make_url(url).set(password="")))

    assert number == 7


def test_nobody_gets_into_redis_without_its_password(folder: Path) -> None:
    with services.redis(folder / "redis") as url:
        port = make_url(url).port
        with pytest.raises(AuthenticationError), redis.Redis(port=port or 0) as client:
            client.ping()
        with redis.Redis.from_url(url) as client:
            bound = client.config_get("bind")

    assert bound == {"bind": "127.0.0.1"}


@pytest.fixture(params=[0o000, 0o022], ids=["umask 0", "umask 022"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask that lets others read what is made."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _readable_by_others(directory: Path) -> list[str]:
    """What others have some right of; they cannot enter Postgres' folder, which must be private."""
    paths = [each for each in directory.rglob("*") if "pg" not in each.parent.parts]
    return [
        str(path.relative_to(directory))
        for path in (directory, *paths)
        if path.lstat().st_mode & 0o077 and not path.is_symlink()
    ]


def test_others_may_read_nothing_of_the_data(folder: Path, umask: int) -> None:
    directory = folder / "new" / "data"
    settings = Settings(data_dir=directory, redis_url="redis://127.0.0.1:6379/0")
    secrets.admin_key(settings)
    secrets.secret_key(settings)
    with processes.lock_directory(directory), services.redis(directory / "redis"):
        program = Program("idle", ["/bin/sh", "-c", "umask; sleep 60"], "worker")
        log = directory / "logs" / "idle.log"
        with start_supervised([program], directory, {}):
            eventually(lambda: log.exists() and log.read_text(), within=20)
        storage.store_of(settings).write("tenant/run/file", [b"secret"], 100)
        seen = _readable_by_others(directory.parent)

    assert seen == []
    assert int(log.read_text(), 8) == umask  # a program keeps the umask of whoever starts it


def test_others_may_read_nothing_of_the_data_that_exists(folder: Path) -> None:
    settings = Settings(data_dir=folder / "data")
    for name in ("redis", "logs", "artifacts/tenant"):
        (folder / "data" / name).mkdir(parents=True)
    for name in ("secret.key", "supervisord.log", "redis/redis.log", "logs/none.log"):
        (folder / "data" / name).write_text("s" * 32)
    for path in (folder / "data").rglob("*"):
        path.chmod(0o777)
    (folder / "data").chmod(0o777)

    secrets.secret_key(settings)
    with processes.lock_directory(settings.data_dir), services.redis(folder / "data" / "redis"):
        with start_supervised([Program("none", ["true"], "api")], settings.data_dir, {}):
            pass
        storage.store_of(settings).write("tenant/run/file", [b"secret"], 100)
        seen = _readable_by_others(folder / "data")

    assert seen == []


def test_root_lets_the_user_of_postgres_pass_through_and_read_nothing(folder: Path) -> None:
    with services.start_services(Settings(data_dir=folder / "data")):
        seen = _readable_by_others(folder / "data")

    assert seen == (["."] if os.geteuid() == 0 else [])
    assert (folder / "data").stat().st_mode & 0o066 == 0


@pytest.mark.parametrize("name", ["admin", "secret"])
def test_a_short_key_in_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / f"{name}.key").write_text("short\n")
    read = {"admin": secrets.admin_key, "secret": secrets.secret_key}[name]

    with pytest.raises(Unavailable, match=rf"{name}.key must have a key of at least \d\d char"):
        read(Settings(data_dir=folder))


def test_a_shared_folder_stays_shared(folder: Path) -> None:
    folder.chmod(0o1777)

    private_folder(folder)

    assert folder.stat().st_mode & 0o7777 == 0o1777


def test_a_link_to_the_data_is_the_data(folder: Path) -> None:
    (folder / "a b").mkdir()
    (folder / "link").symlink_to(folder / "a b")
    for name in ("link", "a b"):
        with services.postgres(folder / name / "pg") as url:
            assert services.running_postgres(folder / "a b" / "pg") == url


def test_the_reason_for_which_postgres_does_not_start_is_named(folder: Path) -> None:
    (folder / "PG_VERSION").write_text("9.6\n")

    with pytest.raises(Unavailable) as raised, services.postgres(folder):
        pass

    reason = f'could not open file "{folder}/global/pg_control" for reading'
    assert f"the embedded Postgres does not start in {folder}: {reason}" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["file", "file/below", "loop", "loop/below", "/proc/none", "/sys/none"]
)
def test_a_folder_that_cannot_keep_data_is_named(folder: Path, name: str) -> None:
    (folder / "file").touch()
    (folder / "loop").symlink_to("loop")
    stack = Stack(Settings(data_dir=folder / name), port=processes.free_port())

    with pytest.raises(Unavailable) as raised, stack:
        pass

    place, _, rest = str(raised.value).partition(" cannot keep the data: ")
    assert place == str(folder / name)
    assert rest.endswith("; choose another folder with --data-dir")


def test_a_second_up_names_the_folder_and_not_the_port(folder: Path) -> None:
    stack = Stack(Settings(data_dir=folder), port=processes.free_port())
    with processes.lock_directory(folder), pytest.raises(Unavailable) as raised, stack:
        pass

    assert str(raised.value) == (
        f"another `orchestrator up` owns {folder}; stop it, or choose another --data-dir"
    )


@pytest.mark.parametrize("program", ["the API", "Flower"])
def test_a_port_that_is_taken_is_named_with_its_program_and_setting(
    folder: Path, program: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy, free = server.getsockname()[1], processes.free_port()
        api, flower = (busy, free) if program == "the API" else (free, busy)
        stack = Stack(Settings(data_dir=folder, flower_port=flower), port=api)
        with pytest.raises(Unavailable) as raised, stack:
            pass

    setting = "--port" if program == "the API" else "ORCHESTRATOR_FLOWER_PORT, or start without"
    assert f"port {busy}, for {program}, cannot be used (taken)" in str(raised.value)
    assert setting in str(raised.value)


def test_api_and_flower_have_two_ports(folder: Path) -> None:
    port = processes.free_port()
    stack = Stack(Settings(data_dir=folder, flower_port=port), port=port)

    with pytest.raises(Unavailable, match=f"port {port} is for the API and for Flower"), stack:
        pass


def test_a_redis_that_does_not_answer_is_named_at_once(folder: Path) -> None:
    url = f"redis://:secret@127.0.0.1:{processes.free_port()}/0"
    stack = Stack(
        Settings(data_dir=folder, redis_url=url), port=processes.free_port(), flower=False
    )

    reason = "the Redis of ORCHESTRATOR_REDIS_URL does not answer"
    with pytest.raises(Unavailable, match=reason), stack:
        pass
