"""The embedded services when they are killed."""

import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main
from orchestrator.local import services
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
