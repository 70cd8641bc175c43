"""A test for each promise of the README, on real processes."""

import time
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, text

from orchestrator.client import ApiError, Client
from orchestrator.local.stack import Stack
from tests.support.factories import PROMPT, eventually
from tests.support.processes import GRACE, LEASE, ended, is_alive, kill, lines_in, parent_of, submit


def _one(uses: str, name: str = "", **options: Any) -> dict[str, Any]:
    name = name or uses.rpartition(".")[2]
    return {"name": name, "steps": [{"key": "s", "uses": uses, **options}]}


def _then_noop(uses: str) -> dict[str, Any]:
    spec = _one(uses, name=f"{uses.rpartition('.')[2]}-then-noop")
    spec["steps"].append({"key": "later", "uses": "noop"})
    return spec


def test_a_chain_of_forty_steps_succeeds_with_its_results(client: Client) -> None:
    steps = [
        {"key": f"s{n}", "uses": "noop", "with": {"n": f"{{{{ steps.s{n - 1}.result.n + 1 }}}}"}}
        for n in range(1, 40)
    ]
    first = {"key": "s0", "uses": "noop", "with": {"n": "{{ params.start }}"}}

    run = submit(client, {"name": "forty", "steps": [first, *steps]}, params={"start": 5})

    run = ended(client, run["id"])
    assert run["state"] == "succeeded"
    assert run["steps"][-1]["result"] == {"n": 44}
    assert {step["attempt"] for step in run["steps"]} == {1}


def test_a_fan_out_of_fifty_steps_joins(client: Client) -> None:
    wide = [{"key": f"w{n}", "uses": "noop", "needs": ["first"]} for n in range(50)]
    join = {"key": "join", "uses": "noop", "needs": [step["key"] for step in wide]}
    spec = {"name": "wide", "steps": [{"key": "first", "uses": "noop"}, *wide, join]}

    run = ended(client, submit(client, spec)["id"])

    assert run["state"] == "succeeded"
    last = max(step["finished_at"] for step in run["steps"] if step["key"] != "join")
    assert run["steps"][-1]["started_at"] > last


def test_the_main_job_loads_a_day_of_the_ecb_into_postgres(client: Client, engine: Engine) -> None:
    import yaml

    client.apply(yaml.safe_load(Path("examples/ecb_fx/workflow.yaml").read_text()))

    run = ended(client, client.submit("ECB_FX", {"date": "2021-07-01"})["id"])

    assert run["state"] == "succeeded"
    assert [step["key"] for step in run["steps"]] == ["EXTRACT", "TRANSFORM", "SEND", "LOAD"]
    assert run["steps"][-1]["result"]["message"] == "Updated 32 series for 2021-07-01"
    loaded = text("SELECT count(*) FROM ecb_fx.rates WHERE date = '2021-07-01'")
    with engine.connect() as connection:
        assert connection.scalar(loaded) == 32


def test_a_day_without_rates_fails_clearly_and_a_wrong_date_is_refused(client: Client) -> None:
    run = ended(client, client.submit("ECB_FX", {"date": "2021-07-04"})["id"])
    with pytest.raises(ApiError, match="/params/date") as refused:
        client.submit("ECB_FX", {"date": "2021-13-01"})

    assert run["state"] == "failed"
    assert "no rates on Sunday 2021-07-04" in run["error"]["message"]
    assert refused.value.status == 422


def test_a_killed_child_costs_one_attempt_and_nothing_else(client: Client, say: Path) -> None:
    run = submit(
        client, _one("tests.support.handlers.hang_once", "child"), params={"say": str(say)}
    )
    child = int(lines_in(say)[0].split()[1])

    kill(child)
    killed = time.monotonic()

    run = ended(client, run["id"])
    assert run["state"] == "succeeded"
    assert time.monotonic() - killed < LEASE.total_seconds() + PROMPT
    assert run["steps"][0]["attempt"] == 2
    assert run["steps"][0]["result"]["key"] == run["steps"][0]["id"]


def test_a_killed_worker_costs_one_attempt_and_nothing_else(client: Client, say: Path) -> None:
    run = submit(
        client, _one("tests.support.handlers.hang_once", "worker"), params={"say": str(say)}
    )
    child = int(lines_in(say)[0].split()[1])

    kill(parent_of(child))
    killed = time.monotonic()

    run = ended(client, run["id"])
    assert run["state"] == "succeeded"
    assert time.monotonic() - killed < LEASE.total_seconds() + PROMPT
    assert run["steps"][0]["attempt"] == 2
    eventually(lambda: not is_alive(child))


def test_a_step_that_kills_its_worker_is_quarantined_and_harms_no_neighbour(
    client: Client, say: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    steps = [
        {"key": key, "uses": "tests.support.handlers.hang_until", "needs": []}
        for key in ("a", "b", "c")
    ]  # three of the four children, so at least one is in the same worker
    params = {"say": str(tmp_path / "there"), "go": str(go)}
    neighbours = submit(client, {"name": "neighbours", "steps": steps}, params=params)
    lines_in(tmp_path / "there", lines=3)
    run = submit(client, _one("tests.support.handlers.kill_worker"), params={"say": str(say)})

    run = ended(client, run["id"])
    go.touch()
    neighbours = ended(client, neighbours["id"])

    assert run["state"] == "failed"
    assert run["error"]["kind"] == "Quarantined"
    assert lines_in(say) == ["1", "2", "3"]
    assert neighbours["state"] == "succeeded"
    assert [step["attempt"] for step in neighbours["steps"]] == [1, 1, 1]


@pytest.mark.parametrize("handler", ["hang", "stubborn"])
def test_a_cancel_ends_a_running_step_within_its_grace(
    client: Client, say: Path, handler: str
) -> None:
    run = submit(client, _then_noop(f"tests.support.handlers.{handler}"), params={"say": str(say)})
    child = int(lines_in(say)[0])

    requested = time.monotonic()
    response = client.cancel(run["id"], reason="enough")

    assert response["state"] == "cancelling"
    run = ended(client, run["id"])
    assert time.monotonic() - requested < GRACE.total_seconds() + PROMPT
    assert run["state"] == "cancelled"
    assert run["cancel_reason"] == "enough"
    assert [step["state"] for step in run["steps"]] == ["cancelled", "cancelled"]
    assert run["steps"][1]["started_at"] is None
    if handler == "stubborn":
        assert not is_alive(child)


def test_a_forced_cancel_gives_no_grace(client: Client, say: Path) -> None:
    run = submit(client, _one("tests.support.handlers.stubborn", "force"), params={"say": str(say)})
    child = int(lines_in(say)[0])

    client.cancel(run["id"], grace="60s")
    requested = time.monotonic()
    client.cancel(run["id"], force=True)

    assert ended(client, run["id"])["state"] == "cancelled"
    assert time.monotonic() - requested < PROMPT
    assert not is_alive(child)


def test_a_cancelled_handler_can_clean_up(client: Client, say: Path) -> None:
    run = submit(client, _one("tests.support.handlers.tidy"), params={"say": str(say)})
    lines_in(say)

    client.cancel(run["id"])

    assert ended(client, run["id"])["state"] == "cancelled"
    assert lines_in(say)[1] == "cleaned up after StepCancelled"


def test_a_step_that_runs_too_long_is_stopped_softly_then_hard(client: Client, say: Path) -> None:
    soft = submit(client, _one("tests.support.handlers.tidy", "soft", timeout="300ms"),
                  params={"say": str(say)})  # fmt: skip
    soft = ended(client, soft["id"])
    hard = submit(client, _one("tests.support.handlers.stubborn", "hard", timeout="300ms"),
                  params={"say": str(say)})  # fmt: skip
    hard = ended(client, hard["id"])

    for run in (soft, hard):
        assert run["state"] == "failed"
        assert run["error"]["kind"] == "Timeout"
        assert "timeout of 0.3 s" in run["error"]["message"]
    assert "cleaned up after StepTimedOut" in lines_in(say)
    assert not is_alive(int(lines_in(say)[-1]))


def test_a_run_that_takes_too_long_is_stopped(client: Client, say: Path) -> None:
    spec = _then_noop("tests.support.handlers.hang")
    run = submit(client, spec, params={"say": str(say)}, timeout="1s")

    run = ended(client, run["id"])

    assert run["state"] == "timed_out"
    assert run["error"] == {"message": "the run's timeout has passed", "kind": "Timeout"}
    assert [step["state"] for step in run["steps"]] == ["cancelled", "cancelled"]


def test_retry_from_failed_runs_only_what_has_to_run(client: Client) -> None:
    steps = [
        {"key": "good", "uses": "tests.support.handlers.when"},
        {"key": "bad", "uses": "fail", "with": {"times": 1}},
        {"key": "last", "uses": "noop"},
    ]
    failed = ended(client, submit(client, {"name": "repair", "steps": steps})["id"])
    assert [step["state"] for step in failed["steps"]] == ["succeeded", "failed", "skipped"]

    client.retry(failed["id"], mode="from_failed")

    mended = ended(client, failed["id"])
    assert mended["state"] == "succeeded"
    assert mended["steps"][0] == failed["steps"][0]
    assert [step["attempt"] for step in mended["steps"]] == [1, 2, 1]


def test_a_retry_as_a_new_run_keeps_results_and_names_the_old_run(client: Client) -> None:
    steps = [{"key": "good", "uses": "tests.support.handlers.when"}, {"key": "bad", "uses": "fail"}]
    failed = ended(client, submit(client, {"name": "renew", "steps": steps})["id"])

    new = client.retry(failed["id"], mode="from_failed", **{"as": "new"})

    new = ended(client, new["id"])
    assert new["id"] != failed["id"]
    assert new["retry_of"] == failed["id"]
    assert new["steps"][0]["result"] == failed["steps"][0]["result"]
    assert new["steps"][0]["attempt"] == 0


def test_a_step_that_raises_retry_step_is_retried(client: Client) -> None:
    retry = {"attempts": 3, "delay": "10ms"}

    run = ended(client, submit(client, _one("tests.support.handlers.flaky", retry=retry))["id"])

    assert run["state"] == "succeeded"
    assert run["steps"][0]["result"] == {"attempt": 3}


def test_an_existing_celery_task_is_a_step(client: Client) -> None:
    called = {"args": [2], "kwargs": {"right": 3}}

    run = ended(
        client, submit(client, _one("celery:existing.add", "old", **{"with": called}))["id"]
    )

    assert run["steps"][0]["result"] == 5


def test_the_shell_is_off_unless_it_is_allowed(client: Client) -> None:
    run = ended(client, submit(client, _one("shell", **{"with": {"command": "id"}}))["id"])

    assert run["state"] == "failed"
    assert "ORCHESTRATOR_ALLOW_SHELL=1" in run["error"]["message"]


def test_the_http_handler_calls_an_address(client: Client, stack: Stack) -> None:
    called = {"with": {"url": f"{stack.url}/healthz"}}

    run = ended(client, submit(client, _one("http", **called))["id"])

    assert run["steps"][0]["result"]["json"] == {"status": "ok"}


def test_an_unknown_handler_fails_with_what_the_worker_knows(client: Client) -> None:
    run = ended(client, submit(client, _one("nobody.wrote_this", "unknown"))["id"])

    assert run["state"] == "failed"
    assert "no live worker of its queue has handler 'nobody.wrote_this'" in run["error"]["message"]


def test_a_condition_chooses_what_runs(client: Client) -> None:
    steps = [
        {"key": "full", "uses": "noop", "when": "params.full"},
        {"key": "always", "uses": "noop"},
    ]

    run = ended(
        client, submit(client, {"name": "if", "steps": steps}, params={"full": False})["id"]
    )

    assert run["state"] == "succeeded"
    assert [step["state"] for step in run["steps"]] == ["skipped", "succeeded"]


def test_a_run_waits_for_its_start_time(client: Client) -> None:
    at = time.time() + 1.5
    run_at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}Z"

    run = submit(client, _one("tests.support.handlers.when", "timed"), run_at=run_at)

    assert run["state"] == "pending"
    assert ended(client, run["id"])["steps"][0]["result"]["at"] >= at


def test_flower_shows_steps_by_readable_names(client: Client, stack: Stack) -> None:
    run = ended(client, submit(client, _one("noop", "shown-in-flower"))["id"])
    flower = stack.flower_url
    account = ("admin", stack.key)

    assert run["state"] == "succeeded"
    assert requests.get(f"{flower}/api/tasks", timeout=5).status_code == 401
    eventually(
        lambda: requests.get(f"{flower}/api/tasks", auth=account, timeout=5).text,
        until=lambda shown: "shown-in-flower/s#1" in shown,
    )
    workers = requests.get(f"{flower}/api/workers?refresh=1", auth=account, timeout=10).text
    assert "worker-1" in workers


def test_a_killed_worker_is_started_again(client: Client, stack: Stack, say: Path) -> None:
    run = submit(client, _one("tests.support.handlers.hang", "again"), params={"say": str(say)})
    worker = parent_of(int(lines_in(say)[0]))

    kill(worker)

    client.cancel(run["id"], force=True)
    ended(client, run["id"])
    eventually(lambda: len(stack.pids("worker")) == 2 and worker not in stack.pids("worker"))
