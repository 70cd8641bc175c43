"""The Celery app, beside the settings of a project's Celery app in the same environment."""

import sys
from types import ModuleType

import pytest
from celery.backends.base import DisabledBackend

from orchestrator.broker.client import make_app


@pytest.mark.parametrize("publisher", [True, False])
def test_the_environment_of_another_celery_app_changes_nothing(
    publisher: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModuleType("project_config")
    vars(config).update(task_always_eager=True, task_time_limit=3, imports=["nobody_wrote_this"])
    monkeypatch.setitem(sys.modules, "project_config", config)
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "project_config")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "cache+memory://")
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "memory://project")

    app = make_app("redis://ours:6379/0", publisher=publisher)

    assert (app.conf.task_always_eager, app.conf.task_time_limit, app.conf.imports) == (
        False, None, ()
    )  # fmt: skip
    assert isinstance(app.backend, DisabledBackend)
    for connect in (app.connection, app.connection_for_read, app.connection_for_write):
        assert connect().hostname == "ours"
    assert app.connection_for_read("redis://named/0").hostname == "named"
