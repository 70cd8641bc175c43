"""The embedded services: where they keep their data, and when they are killed."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from config.settings import PREFIX, Settings
from orchestrator.cli.main import main
from orchestrator.db.engine import make_engine
from orchestrator.errors import Unavailable
from orchestrator.local import processes, services
from orchestrator.local.stack import Stack
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
