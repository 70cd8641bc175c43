"""Workers of one queue with different handlers: a step goes to one that has its handler."""

from pathlib import Path

import pytest

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, lines_in, submit, the_worker

QUEUE = "mixed"


def _spec(name: str, uses: str, **more: object) -> dict[str, object]:
    return {"name": name, "queue": QUEUE, "steps": [{"key": "s", "uses": uses, **more}]}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_step_goes_to_the_worker_that_has_its_handler(
    stack: Stack, client: Client, tmp_path: Path, pool: str
) -> None:
    hold = {"say": str(tmp_path / "said"), "go": str(tmp_path / "go")}
    uses = "tests.support.handlers.hang_until"
    with (
        a_worker(stack, f"with-{pool}", "--queues", QUEUE, "--concurrency", "1", "--pool", pool),
        a_worker(stack, f"without-{pool}", "--queues", QUEUE, "--pool", pool, steps=""),
    ):
        for name in ("with", "without"):
            eventually(lambda name=name: the_worker(stack, f"{name}-{pool}"), within=30)
        first = submit(client, _spec("first", uses), params=hold)
        lines_in(tmp_path / "said")

        second = submit(client, _spec("second", uses), params=hold)
        waiting = eventually(
            lambda: client.run(second["id"])["steps"][0],
            until=lambda step: step["state"] == "waiting" and step["attempt"] >= 2,
        )
        (tmp_path / "go").touch()
        runs = [ended(client, run["id"], within=60) for run in (first, second)]

    assert waiting["error"]["message"] == (
        f"this worker has no handler '{uses}': it waits for one of its queue that has it"
    )
    assert [run["state"] for run in runs] == ["succeeded", "succeeded"]
    assert runs[1]["steps"][0]["worker"].startswith(f"with-{pool}-")


def test_a_step_whose_handler_no_worker_has_fails_and_says_so(stack: Stack, client: Client) -> None:
    retry = {"attempts": 3, "delay": "0s"}
    run = submit(client, {"name": "nobody", "steps": [
        {"key": "s", "uses": "nobody.has_this", "retry": retry}
    ]})  # fmt: skip

    (step,) = ended(client, run["id"])["steps"]

    assert (step["state"], step["attempt"], step["error"]["kind"]) == (
        "failed", 1, "UnknownHandler"
    )  # fmt: skip
    assert step["error"]["message"].startswith(
        "no live worker of its queue has handler 'nobody.has_this'; this one has celery:"
    )


def test_the_http_handler_calls_no_private_address_unless_its_worker_may(
    stack: Stack, client: Client
) -> None:
    url = f"{stack.url}/healthz?token=s3cret".replace("//", "//user:s3cret@")
    steps = [{"key": "s", "uses": "http", "with": {"url": url}}]
    with a_worker(stack, "guarded", http_private_targets="0"):
        run = submit(client, {"name": "guarded", "queue": "guarded", "steps": steps})
        (step,) = ended(client, run["id"], within=60)["steps"]

    host = url.rpartition("@")[2].partition(":")[0]
    assert (step["state"], step["attempt"]) == ("failed", 1)
    assert step["error"]["message"] == (
        f"the request is refused: {host} is not an address of the public Internet;"
        " ORCHESTRATOR_HTTP_PRIVATE_TARGETS=1 would allow it"
    )
