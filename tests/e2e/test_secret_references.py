"""`secret://NAME` in a run: resolved in the worker, for its own tenant, and nowhere to be seen."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from config.settings import PREFIX
from orchestrator.client import Client
from orchestrator.db.migrate import Run
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, submit, the_worker

SECRET = "hush-pä$$word/of acme"
VARIABLE = "hush-of-a-variable"
FILES = {
    "default/TOKEN": SECRET, "default/SHORT": "abc", "acme/THEIRS": "hush-theirs", "OWN": "hush-own"
}  # fmt: skip
SCHEDULER = ["-m", "workers.scheduler.main"]
SPILL = "tests.support.handlers.spill"


@pytest.fixture
def worker(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The queue of a worker that has secrets; `request.param` is its kind of pool."""
    pool = getattr(request, "param", "prefork")
    with _worker(stack, tmp_path, f"secret-{pool}", "--pool", pool) as name:
        yield name


@contextmanager
def _worker(stack: Stack, folder: Path, name: str, *words: str) -> Iterator[str]:
    for path, value in FILES.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(f"{value}\n")
    settings = {"secrets_dir": str(folder), "secret__variable": VARIABLE, "allow_shell": "1"}
    with a_worker(stack, name, *words, **settings):
        eventually(lambda: the_worker(stack, name), within=30)
        yield name


def _stored(engine: Engine) -> str:
    """All that is in the database, and in each form that JSON has."""
    with engine.connect() as connection:
        tables = [table.name for table in Run.metadata.sorted_tables]
        rows = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in tables]
    return json.dumps(rows, default=str, ensure_ascii=False)


@pytest.mark.parametrize("worker", ["prefork", "threads"], indirect=True)
@pytest.mark.parametrize("how", ["return", "raise", "retry"])
def test_a_secret_is_used_and_nowhere_stored(
    stack: Stack, client: Client, engine: Engine, worker: str, how: str
) -> None:
    args = {"secret": "{{ params.nested.list[0] }}", "how": how}
    spec = {"name": f"spilling-{how}", "queue": worker, "steps": [
        {"key": "s", "uses": SPILL, "with": args, "retry": {"attempts": 2, "delay": "0s"}},
    ]}  # fmt: skip
    params = {"nested": {"list": ["secret://TOKEN", "x secret://VARIABLE"]}}

    run = ended(client, submit(client, spec, params=params)["id"], within=60)

    (step,) = run["steps"]
    assert run["params"] == params
    assert step["attempt"] == (1 if how == "return" else 2)
    if how == "return":
        assert step["result"] == {
            "length": len(SECRET), "***": ["***", "in ***"],
            "params": {"nested": {"list": ["***", "x ***"]}},
        }  # fmt: skip
    else:
        assert "***" in step["error"]["message"]
    log = [line["text"] for line in client.log(run["id"])["items"]]
    assert {"logged ***", "logged by the module: ['***']", "printed ***"} <= set(log)
    if worker.endswith("prefork"):  # in threads these go to the worker's own log
        assert {"from C: ***", "by a program: ***"} <= set(log)
    everything = _stored(engine)
    assert "spilling" in everything
    assert [
        each for each in (SECRET, SECRET[:9], VARIABLE, "hush-pä", "of acme") if each in everything
    ] == []


def test_the_last_words_of_a_dead_process_are_masked(
    client: Client, engine: Engine, worker: str
) -> None:
    args = {"secret": "secret://TOKEN", "how": "die"}
    spec = {"name": "dying", "queue": worker, "steps": [{"key": "s", "uses": SPILL, "with": args}]}

    run = ended(client, submit(client, spec)["id"], within=120)

    assert run["state"] == "failed"
    log = [line["text"] for line in client.log(run["id"])["items"]]
    assert "the last words: ***" in log
    everything = _stored(engine)
    assert [each for each in (SECRET, "hush-pä", "of acme") if each in everything] == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("secret://NOTHING", "secret://NOTHING: tenant 'default' has no such secret here"),
        ("secret://THEIRS", "secret://THEIRS: tenant 'default' has no such secret here"),
        ("secret://OWN", "secret://OWN: tenant 'default' has no such secret here"),
        ("secret://SHORT", "secret://SHORT: a secret has at least 4 characters"),
        ("secret://../acme/THEIRS", "secret:// is followed by a name"),
        ("secret://KEY", "secret://KEY: tenant 'default' has no such secret here"),
        ("secret://{{ params.name }}", "secret:// is followed by a name"),
    ],
)  # fmt: skip
def test_a_secret_that_is_not_there_fails_the_step_for_good(
    client: Client, worker: str, reference: str, message: str
) -> None:
    step = {"key": "s", "uses": "noop", "with": {"deep": [{"x": reference}]}}
    spec = {"name": "missing", "queue": worker, "steps": [
        {**step, "retry": {"attempts": 5, "delay": "0s"}}
    ]}  # fmt: skip

    run = ended(client, submit(client, spec, params={"name": "TOKEN"})["id"], within=60)

    (step,) = run["steps"]
    assert (step["state"], step["attempt"], step["error"]["kind"]) == ("failed", 1, "SecretMissing")
    assert step["error"]["message"].startswith(message)
    assert "hush" not in str(run)


def test_what_a_step_before_returned_is_no_reference(client: Client, worker: str) -> None:
    spec = {"name": "foreign", "queue": worker, "steps": [
        {"key": "fetch", "uses": "shell", "with": {"command": ["echo", "secret:/", "/TOKEN"]}},
        {"key": "use", "uses": SPILL, "needs": ["fetch"], "with": {
            "how": "return",
            "secret": "{{ steps.fetch.result.stdout | replace(' ', '') | trim }}",
        }},
    ]}  # fmt: skip

    run = ended(client, submit(client, spec)["id"], within=60)

    assert run["steps"][1]["result"]["length"] == len("secret://TOKEN")
    assert "hush" not in str(run)


def test_a_command_gets_a_secret_and_its_output_has_none(
    client: Client, engine: Engine, worker: str
) -> None:
    command = 'printf "%s" "$TOKEN" | base64; echo "$TOKEN"; head -c 40000 /dev/zero | tr "\\0" .; '
    command += (
        'printf "%s" "$TOKEN"; head -c 32760 /dev/zero | tr "\\0" .; echo "$TOKEN" >&2; exit 3'
    )
    spec = {"name": "command", "queue": worker, "steps": [
        {"key": "s", "uses": "shell", "with": {"command": command, "env": {"TOKEN": "secret://TOKEN"}}}
    ]}  # fmt: skip

    run = ended(client, submit(client, spec)["id"], within=60)

    assert run["steps"][0]["error"]["message"].endswith("exit code 3: ***")
    log = [line["text"] for line in client.log(run["id"])["items"]]
    assert log[:2] == ["***", "***"]
    everything = _stored(engine)
    assert [each for each in (SECRET, "hush-pä", "of acme") if each in everything] == []


def test_a_hidden_parameter_is_in_no_log_and_no_result(
    client: Client, engine: Engine, worker: str
) -> None:
    spec = {
        "name": "hidden", "queue": worker,
        "params": {"properties": {"token": {"type": "string", "writeOnly": True}}},
        "steps": [{"key": "s", "uses": SPILL, "with": {
            "secret": "{{ params.token }}", "how": "return"
        }}],
    }  # fmt: skip

    run = ended(client, submit(client, spec, params={"token": "planted-value"})["id"], within=60)

    assert run["params"] == {"token": "***"}
    assert run["steps"][0]["result"]["length"] == len("planted-value")
    assert "planted" not in str(run)
    assert "planted" not in str(client.log(run["id"]))
    failing = {**spec, "name": "failing", "steps": [
        {"key": "s", "uses": "noop", "with": {"x": "{{ params[params.token] }}"}}
    ]}  # fmt: skip
    failed = ended(client, submit(client, failing, params={"token": "planted-value"})["id"])
    assert failed["steps"][0]["error"]["kind"] == "TemplateError"
    assert "planted" not in str(failed)
    again = client.retry(run["id"], mode="full")
    run = ended(client, again["id"], within=60)
    assert run["steps"][0]["result"]["length"] == len("planted-value")


def test_a_vault_that_is_away_is_asked_again(
    stack: Stack, client: Client, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = tmp_path / "vault", "vaulted"
    monkeypatch.setenv("TEST_VAULT", str(path))
    retry = {"attempts": 50, "delay": "0.2s", "on": ["SecretUnavailable"]}
    args = {"secret": "secret://TOKEN", "how": "return"}
    spec = {"name": name, "queue": name, "steps": [
        {"key": "s", "uses": SPILL, "with": args, "retry": retry}
    ]}  # fmt: skip

    with a_worker(stack, name, secrets_vault="tests.support.vault:read"):
        run = submit(client, spec)
        waiting = eventually(
            lambda: client.run(run["id"])["steps"][0],
            within=60,
            until=lambda step: step["state"] == "waiting",
        )
        path.write_text("default TOKEN hush-of-the-vault\nacme OTHER hush-of-acme\n")
        run = ended(client, run["id"], within=60)
        other = submit(client, {"name": "other", "queue": name, "steps": [
            {"key": "s", "uses": "noop", "with": {"x": "secret://OTHER"}, "retry": {"attempts": 9}}
        ]})  # fmt: skip
        other = ended(client, other["id"], within=60)

    assert waiting["error"] == {
        "message": "secret://TOKEN: the vault failed with FileNotFoundError",
        "kind": "SecretUnavailable",
    }
    assert run["steps"][0]["result"]["length"] == len("hush-of-the-vault")
    assert other["steps"][0]["error"]["message"] == (
        "secret://OTHER: tenant 'default' has no such secret here"
    )
    assert "hush" not in _stored(engine)


@pytest.mark.parametrize("command", [["-m", "orchestrator", "worker", "--once"], SCHEDULER])
def test_nothing_starts_with_a_vault_that_cannot_be_imported(
    stack: Stack, command: list[str]
) -> None:
    environ = {**os.environ, **stack.environ, f"{PREFIX}SECRETS_VAULT": "tests.support:nothing"}

    words = [sys.executable, *command]
    process = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)

    assert process.returncode
    assert "Error: ORCHESTRATOR_SECRETS_VAULT: 'tests.support:nothing'" in process.stderr
    assert "Traceback" not in process.stderr
