"""Redis goes away while workers are busy: they resume by themselves, or are restarted."""

from pathlib import Path

from orchestrator.client import Client
from tests.chaos.conftest import FragileRedis
from tests.support.factories import a_spec
from tests.support.processes import ended, lines_in, submit


def test_busy_workers_resume_when_redis_is_back(
    client: Client, fragile_redis: FragileRedis, tmp_path: Path
) -> None:
    say = tmp_path / "said"
    # Of two workers with two children each, one is full, and one has a free slot.
    steps = [
        {"key": f"s{number}", "uses": "tests.support.handlers.hang_until", "needs": []}
        for number in range(3)
    ]
    params = {"say": str(say), "go": str(tmp_path / "go")}
    busy = submit(client, {"name": "busy", "steps": steps}, params=params)
    lines_in(say, lines=3)

    with fragile_redis.away():
        waiting = submit(client, a_spec("meanwhile"))
    after = ended(client, waiting["id"], within=30)
    (tmp_path / "go").touch()
    busy = ended(client, busy["id"])

    assert after["state"] == "succeeded"
    assert busy["state"] == "succeeded"
    assert [step["attempt"] for step in busy["steps"]] == [1, 1, 1]
    assert len(lines_in(say)) == 3
