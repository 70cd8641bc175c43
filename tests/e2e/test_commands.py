"""The command `orchestrator`, and workers of threads, as subprocesses."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from orchestrator.client import Client
from orchestrator.local import processes
from orchestrator.local.stack import Stack
from tests.support.processes import ended, kill, lines_in, submit


def _orchestrator(stack: Stack, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command, environ = _command(*words), _environ(stack, **settings)
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@contextmanager
def _running(stack: Stack, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a running process, killed at the end of the block."""
    process = subprocess.Popen(
        _command(*words),
        env=_environ(stack),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *words]


def _serving(stack: Stack) -> list[int]:
    """The process ids of the API."""
    everything = psutil.Process(stack._supervisor.pid).children(recursive=True)
    return [each.pid for each in everything if "api.app:serve()" in " ".join(each.cmdline())]


def _environ(stack: Stack, **settings: str) -> dict[str, str]:
    ours = {"ORCHESTRATOR_URL": stack.url, "ORCHESTRATOR_KEY": stack.key, **settings}
    return {**os.environ, **ours}


@contextmanager
def _worker(stack: Stack, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "orchestrator", "worker", "--once", *words]
    process = subprocess.Popen(
        command,
        env={**os.environ, **stack.environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        processes.stop_process(process)


def test_a_workflow_is_applied_run_and_shown(stack: Stack, tmp_path: Path) -> None:
    applied = _orchestrator(stack, "apply", "-f", "examples/hello.yaml")
    ran = _orchestrator(stack, "run", "hello", "-p", "name=Ada", "--watch")
    refused = _orchestrator(stack, "run", "hello", "-p", "nam=Ada")
    listed = _orchestrator(stack, "runs", "--workflow", "hello", "--json")

    assert applied.stdout == "hello version 1\n"
    assert ran.returncode == 0
    assert "repeat succeeded" in ran.stdout
    assert "Hello, Ada again" in ran.stdout
    assert refused.returncode == 1
    assert "/params: 'name' is a required property" in refused.stderr
    assert '"state": "succeeded"' in listed.stdout


def test_a_run_is_cancelled_and_retried(stack: Stack, client: Client) -> None:
    client.apply({"name": "nobody", "queue": "nobody", "steps": [{"key": "s", "uses": "noop"}]})
    run_id = _orchestrator(stack, "run", "nobody").stdout.strip()

    cancelled = _orchestrator(stack, "cancel", run_id)
    twice = _orchestrator(stack, "cancel", run_id)
    retried = _orchestrator(stack, "retry", run_id)

    assert "cancelled" in cancelled.stdout
    assert f"run {run_id} is cancelled: too late to cancel" in twice.stderr
    assert "queued" in retried.stdout
    client.cancel(run_id)


def test_watching_a_run_outlives_the_api(stack: Stack, client: Client) -> None:
    client.apply({"name": "watched", "queue": "nobody", "steps": [{"key": "s", "uses": "noop"}]})
    with _running(stack, "run", "watched", "--watch") as watch:
        assert watch.stderr is not None
        word, run_id = watch.stderr.readline().split()
        for each in _serving(stack):
            kill(each)
        client.cancel(run_id)
        output, _ = watch.communicate(timeout=30)

    assert word == "run"
    assert "watched v1" in output
    assert "cancelled" in output
    assert watch.returncode == 1


def test_explain_and_doctor_print_their_findings(stack: Stack, client: Client) -> None:
    client.apply({"name": "nobody", "queue": "nobody", "steps": [{"key": "s", "uses": "noop"}]})
    run_id = _orchestrator(stack, "run", "nobody").stdout.strip()

    explained = _orchestrator(stack, "explain", run_id)
    as_json = json.loads(_orchestrator(stack, "explain", run_id, "--json").stdout)
    doctor = _orchestrator(stack, "doctor", **stack.environ)

    because = "no active worker listens to queue nobody"
    assert explained.stdout == f"queued: step s: {because}\n  s queued: {because}\n"
    assert as_json["cause"]["code"] == "no_worker"
    assert doctor.stdout.splitlines()[-1] == "Nothing is broken.", doctor.stdout
    assert doctor.returncode == 0
    client.cancel(run_id)


def test_numbers_come_back_as_they_were_sent(stack: Stack, tmp_path: Path) -> None:
    """From the command line to the API, Postgres, the worker, and back."""
    numbers = "[1e+308, 1e+22, 1e+16, 1.0, 0.1, 5e-324, 10000000000000000000000, 9007199254740993]"
    path = tmp_path / "numbers.yaml"
    path.write_text(
        "name: numbers\n"
        "steps:\n"
        "  - key: s\n"
        "    uses: noop\n"
        f"    with: {{sent: '{{{{ params.sent }}}}', written: {numbers}, on: 2026-01-01}}\n"
        "    retry: {on: [ValueError]}\n"
    )
    assert _orchestrator(stack, "apply", "-f", str(path)).stdout == "numbers version 1\n"

    ran = _orchestrator(stack, "run", "numbers", "-p", f"sent={numbers}", "--watch")
    shown = _orchestrator(stack, "show", ran.stderr.split()[1], "--json").stdout

    run = json.loads(shown, parse_float=str, parse_int=str)
    expected = json.loads(numbers, parse_float=str, parse_int=str)
    assert run["params"] == {"sent": expected}
    assert run["steps"][0]["result"] == {"sent": expected, "written": expected, "on": "2026-01-01"}


def test_a_workflow_written_in_python_is_applied(stack: Stack) -> None:
    applied = _orchestrator(stack, "apply", "-f", "tests/e2e/acme.py")

    assert applied.stdout == "daily-total version 1\n"


def test_an_unknown_setting_names_the_closest(stack: Stack) -> None:
    environ = {**os.environ, "ORCHESTRATOR_LEASES": "15s"}
    command = [sys.executable, "-m", "orchestrator", "runs"]

    failed = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert failed.returncode == 1
    assert "did you mean ORCHESTRATOR_LEASE?" in failed.stderr


def test_a_key_is_made_listed_rotated_and_revoked(stack: Stack) -> None:
    made = _orchestrator(stack, "keys", "create", "ci", "--role", "viewer", "--scope", "runs:read")
    key = made.stdout.strip()
    listed = json.loads(_orchestrator(stack, "keys", "list", "--json").stdout)
    entry = next(each for each in listed if each["name"] == "ci")
    reading = _orchestrator(stack, "runs", ORCHESTRATOR_KEY=key)
    creating = _orchestrator(stack, "keys", "create", "more", ORCHESTRATOR_KEY=key)
    rotated = _orchestrator(stack, "keys", "rotate", entry["id"], "--grace", "1h").stdout.strip()
    revoked = _orchestrator(stack, "keys", "revoke", entry["id"])
    after = [_orchestrator(stack, "runs", ORCHESTRATOR_KEY=each) for each in (key, rotated)]

    assert key.startswith(entry["prefix"])
    assert (reading.returncode, creating.returncode) == (0, 1)
    assert "this needs the scope keys" in creating.stderr
    assert revoked.stdout.startswith("ci revoked at 2")
    assert [each.returncode for each in after] == [1, 0]
    assert "Error: this key was revoked" in after[0].stderr
    shown = _orchestrator(stack, "keys", "list").stdout.splitlines()
    assert [line.split()[-1] for line in shown if entry["id"] in line] == ["revoked"]


def test_an_oauth_client_is_made_for_a_script(stack: Stack) -> None:
    made = _orchestrator(stack, "keys", "create", "robot", "--kind", "oauth_client")
    client = dict(line.split("=", 1) for line in made.stdout.splitlines())

    form = {"grant_type": "client_credentials", **client}
    token = requests.post(f"{stack.url}/oauth/token", data=form, timeout=10).json()

    assert token["expires_in"] == 600
    reading = _orchestrator(stack, "runs", ORCHESTRATOR_KEY=token["access_token"])
    assert reading.returncode == 0


def test_a_tenant_is_made_on_the_database_with_a_key_of_its_own(stack: Stack) -> None:
    url = {"ORCHESTRATOR_DATABASE_URL": stack.environ["ORCHESTRATOR_DATABASE_URL"]}

    made = _orchestrator(stack, "tenants", "create", "acme", **url)
    again = _orchestrator(stack, "tenants", "create", "acme", **url)
    listed = _orchestrator(stack, "tenants", "list", **url)
    theirs = Client(stack.url, made.stdout.strip())
    applied = _orchestrator(
        stack, "apply", "-f", "examples/hello.yaml", "--project", "default",
        ORCHESTRATOR_KEY=made.stdout.strip(),
    )  # fmt: skip

    assert made.returncode == 0, made.stderr
    assert "there is a tenant 'acme' already" in again.stderr
    names = [line.split("\t")[2] for line in listed.stdout.splitlines()]
    assert (names[0], names[-1]) == ("default", "acme")
    assert applied.stdout == "hello version 1\n"
    assert theirs.runs()["items"] == []


def test_a_worker_of_threads_stops_handlers_that_poll(
    stack: Stack, client: Client, say: Path
) -> None:
    step = {"key": "s", "uses": "tests.support.handlers.wait_politely"}
    spec = {"name": "polite", "queue": "threads", "steps": [step]}
    late = {"name": "late", "queue": "threads", "steps": [{**step, "timeout": "300ms"}]}
    with _worker(stack, "--queues", "threads", "--pool", "threads", "--name", "threads"):
        run = submit(client, spec, params={"say": str(say)})
        lines_in(say)
        client.cancel(run["id"])
        cancelled = ended(client, run["id"])
        timed_out = ended(client, submit(client, late, params={"say": str(say)})["id"])

    assert cancelled["state"] == "cancelled"
    assert timed_out["state"] == "failed"
    assert timed_out["error"]["kind"] == "Timeout"


def test_a_terminated_worker_ends_its_step_first(stack: Stack, client: Client, say: Path) -> None:
    step = {"key": "s", "uses": "sleep", "with": {"seconds": 5}}
    client.apply({"name": "long", "queue": "leaving", "steps": [step]})
    with _worker(stack, "--queues", "leaving", "--name", "leaving") as process:
        run = client.submit("long", {})
        while client.run(run["id"])["state"] != "running":
            assert process.poll() is None
        process.terminate()
        run = ended(client, run["id"])

    # Longer than the lease of three seconds, which the leaving worker went on renewing.
    assert run["state"] == "succeeded"
    assert run["steps"][0]["attempt"] == 1
