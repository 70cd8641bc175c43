"""Output and artifacts of steps, on real processes."""

import hashlib
import re
from pathlib import Path
from typing import Any

import requests
import yaml
from sqlalchemy import Engine, text

from orchestrator.client import Client
from tests.support.factories import eventually
from tests.support.processes import ended, submit


def _one(uses: str, *more: dict[str, Any]) -> dict[str, Any]:
    name = uses.replace("_", "-")
    return {"name": name, "steps": [{"key": "s", "uses": f"tests.support.handlers.{uses}"}, *more]}


def _texts(client: Client, run_id: str, **query: Any) -> list[str]:
    return [line["text"] for line in client.log(run_id, **query)["items"]]


def _events(client: Client, run_id: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = client._call("GET", f"/runs/{run_id}/events")["items"]
    return events


def test_output_is_visible_while_the_step_runs(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = submit(client, _one("talk"), params={"go": str(go)})

    log = eventually(lambda: _texts(client, run["id"]), until=lambda lines: len(lines) >= 3)
    progress = eventually(
        lambda: [each for each in _events(client, run["id"]) if each["type"] == "step.progress"]
    )
    go.touch()
    run = ended(client, run["id"])

    assert log == ["logged by the context", "logged by the module", "printed"]
    assert progress[0]["data"] == {
        "percent": 50, "stage": "first half", "message": "so far so good",
    }  # fmt: skip
    assert run["state"] == "succeeded"
    assert _texts(client, run["id"]) == [*log, "begun and ended", "printed by a thread"]
    levels = [line["level"] for line in client.log(run["id"])["items"]]
    assert levels == ["info", "error", "info", "info", "info"]
    last = [each for each in _events(client, run["id"]) if each["type"] == "step.progress"][-1]
    assert (last["data"]["percent"], last["data"]["stage"]) == (100, "second half")


def test_leftover_threads_write_into_no_other_log(client: Client) -> None:
    lingering = [submit(client, _one("linger"))["id"] for _ in range(8)]
    quiet = [submit(client, _one("say_three"))["id"] for _ in range(16)]

    assert {ended(client, run)["state"] for run in lingering + quiet} == {"succeeded"}
    assert [_texts(client, run) for run in quiet] == [["0", "1", "2"]] * 16
    for run in lingering:
        output = "".join(_texts(client, run))  # its threads may print until it has ended
        assert re.fullmatch(r"(left behind(, \d+)?)*wrapped(left behind(, \d+)?)*", output)


def test_a_million_lines_are_cut_and_marked(client: Client) -> None:
    run = ended(client, submit(client, _one("flood"))["id"], within=60)

    assert run["state"] == "succeeded"
    first = client.log(run["id"], limit=3)
    assert [line["text"] for line in first["items"]] == [
        "no \ufffd UTF-8", "half ?, NUL \ufffd", "0",
    ]  # fmt: skip
    assert first["truncated"] is True
    last = _texts(client, run["id"], tail=101)
    assert last[0].startswith("… 989,902 lines were left out here")
    assert last[1:] == [str(number) for number in range(999_900, 1_000_000)]


def test_output_in_a_loop_is_written_once_a_second(client: Client, engine: Engine) -> None:
    run = ended(client, submit(client, _one("call_in_a_loop"))["id"], within=60)

    assert run["state"] == "succeeded"
    seconds = run["steps"][0]["duration_seconds"]
    progress = [each for each in _events(client, run["id"]) if each["type"] == "step.progress"]
    assert 1 <= len(progress) <= seconds + 2  # about one write a second
    with engine.connect() as connection:
        statement = "SELECT warnings FROM runs WHERE id = :id"
        assert connection.scalar(text(statement), {"id": run["id"]}) == 100_000


def test_a_large_result_reaches_the_step_that_reads_it(client: Client) -> None:
    filled = {"with": {"text": "{{ steps.s.result.text }}"}}
    then = {"key": "then", "uses": "tests.support.handlers.measure_large", **filled}
    run = ended(client, submit(client, _one("make_large", then))["id"])

    assert run["state"] == "succeeded"
    assert run["steps"][0]["result"] is None
    assert run["steps"][1]["result"] == {"read": 300_000, "filled": 300_000}
    (result,) = client.artifacts(run["id"])
    assert (result["kind"], result["media_type"]) == ("result", "application/json")
    assert requests.get(client.url + result["url"], timeout=30).json() == {"text": "é" * 300_000}


def test_two_gigabytes_are_refused_with_the_limit(client: Client, say: Path) -> None:
    run = ended(client, submit(client, _one("save_too_much"), params={"say": str(say)})["id"])

    assert run["state"] == "failed"
    assert "more than 1,073,741,824 bytes" in run["error"]["message"]
    assert client.artifacts(run["id"]) == []


def test_the_example_leaves_a_file_and_a_chart_that_download_intact(client: Client) -> None:
    client.apply(yaml.safe_load(Path("examples/ecb_fx/workflow.yaml").read_text()))
    run = ended(client, client.submit("ECB_FX", {"date": "2021-07-01"})["id"], within=60)

    assert run["state"] == "succeeded"
    table, chart = client.artifacts(run["id"])
    assert (table["media_type"], table["kind"], table["records"]) == ("text/csv", "data", 64)
    assert (chart["media_type"], chart["kind"]) == ("image/png", "visualization")
    for each in (table, chart):
        response = requests.get(client.url + each["url"], timeout=30)
        assert response.headers["Content-Type"] == each["media_type"]
        assert hashlib.sha256(response.content).hexdigest() == each["sha256"]
        assert len(response.content) == each["size"]
    assert response.content.startswith(b"\x89PNG\r\n")
    for step in ("EXTRACT", "TRANSFORM", "SEND", "LOAD"):
        assert _texts(client, run["id"], step=step) != []
    stages = {each["data"]["stage"] for each in _events(client, run["id"])
              if each["type"] == "step.progress"}  # fmt: skip
    assert {"drawing the chart", "writing cross rates"} <= stages
