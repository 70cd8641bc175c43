"""Process runs: create, start, cancel, restart, and their names."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from orchestrator import runs
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.outputs.writer import write_output
from orchestrator.sdk.recorder import Recorder
from tests.contracts.adapters.solvexia import ADAPTER, PROCESSES, RUNS
from tests.contracts.solvexia.helpers import (
    V1,
    created,
    earlier,
    finish,
    refused,
    register,
    status_of,
    steps_of,
)
from tests.support.factories import a_claim, a_run, a_spec, a_tenant, messages_in

UNSTARTED = {
    "dateStarted": None,
    "dateFinished": None,
    "runDurationInSeconds": None,
    "runDurationInSec": None,
}


@pytest.mark.row("`POST …/start`: `Scheduled`, its dates null")
def test_a_run_is_created_then_scheduled_and_only_once(client: FlaskClient) -> None:
    made = created(client, a_spec("Nightly-ledger"))
    path = f"{RUNS}/{made['id']}"
    held = client.get(f"{path}/runstatus").json
    started, again = client.post(f"{path}/start"), client.post(f"{path}/start")

    assert made["name"] == "Nightly-ledger : run #1"
    assert (made["alertEmailAddress"], made["alertSMS"], made["description"]) == ("", "", "")
    assert made["lastModifiedBy"] == "admin"
    for moment in (made["dateModified"], made["dateCreated"]):
        assert (len(moment), moment[-1]) == (len("2020-06-15T02:24:14.2700000"), "0")
    assert held == {"id": made["id"], **UNSTARTED, "status": "NotStarted"}
    assert started.json == {"id": made["id"], **UNSTARTED, "status": "Scheduled"}
    refused(again, 400, f"Process run {made['id']} was started already")


def test_a_finished_run_cannot_be_cancelled(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    finish(database, sent, Succeeded())
    command = {"request": "ProcessRun_CancelRq", "processRunId": f"pr-{run.number}"}

    for answer in (
        client.post(f"{V1}/requests", json=command),
        client.post(f"{RUNS}/pr-{run.number}/cancel"),
    ):
        refused(answer, 400, f"Process run pr-{run.number} has already finished")


@pytest.mark.row("`completionMessage` of a failed step")
def test_a_failed_step_says_what_failed(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, a_spec(steps=2))
    finish(database, sent, Failed("Could not reach the ledger database", ("E",)))
    steps = steps_of(client, f"pr-{run.number}")

    statuses = [client.get(f"{RUNS}/pr-{run.number}/steps/{each}/runstatus").json for each in steps]

    assert status_of(client, f"pr-{run.number}") == "Finished"
    assert [each["status"] for each in statuses] == ["Failed", "Skipped"]
    assert statuses[0]["completionMessage"] == "Could not reach the ledger database"
    assert statuses[0]["runDurationInSeconds"] == statuses[0]["runDurationInSec"] == 0
    assert statuses[0]["dateStarted"].endswith("Z")


@pytest.mark.row("`POST requests`: `ProcessRun_StartRq`, `ProcessRun_CancelRq`")
def test_the_two_commands_do_what_the_paths_do(client: FlaskClient) -> None:
    by_path, by_command = created(client, a_spec()), created(client, a_spec())
    named = {"processRunId": by_command["id"].upper()}

    answers = [
        client.post(f"{RUNS}/{by_path['id']}/start"),
        client.post(f"{V1}/requests", json={"request": "ProcessRun_StartRq", **named}),
        client.post(f"{RUNS}/{by_path['id']}/cancel"),
        client.post(f"{V1}/requests", json={"request": "ProcessRun_CancelRq", **named}),
    ]

    assert [each.json["status"] for each in answers] == ["Scheduled"] * 2 + ["Cancelled"] * 2
    assert answers[0].json.keys() == answers[1].json.keys()


@pytest.mark.row("paths in any case; `ds-` and `as-` ids")
def test_paths_are_read_in_any_case_and_either_prefix_is_echoed(
    client: FlaskClient, database: Database
) -> None:
    wire_id = f"pr-{a_run(database).number}"
    number = steps_of(client, wire_id)[0].removeprefix("ds-")

    for path in ("/ProcessRuns/{}/RunStatus", "/processRuns/{}/runstatus", "/PROCESSRUNS/{}"):
        for written in (wire_id, wire_id.upper()):
            assert client.get(V1 + path.format(written)).json["id"] == wire_id
    for wire in (f"ds-{number}", f"as-{number}"):
        assert client.get(f"{RUNS}/{wire_id}/Steps/{wire}/RunStatus").json["id"] == wire


@pytest.mark.row('`POST …/restartfromhere`: `Running`, a date, and "step is currently running"')
def test_a_run_is_restarted_from_a_step(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, a_spec(steps=3))
    wire_id = f"pr-{run.number}"
    finish(database, sent, Succeeded({"n": 1}), Failed("no", ("E",)))
    ids = steps_of(client, wire_id)
    alias = ids[1].replace("ds-", "as-")
    first = client.get(f"{RUNS}/{wire_id}/steps/{alias}/runstatus").json

    answer = client.post(f"{RUNS}/{wire_id}/steps/{alias}/restartfromhere")
    again = client.post(f"{RUNS}/{wire_id}/steps/{alias}/restartfromhere")

    assert (answer.status_code, answer.json["id"], answer.json["status"]) == (200, alias, "Running")
    assert answer.json["completionMessage"] == "step is currently running"
    assert answer.json["runDurationInSeconds"] == 0
    assert answer.json["dateStarted"] != first["dateStarted"]
    assert client.get(f"{RUNS}/{wire_id}/steps/{alias}/runstatus").json == answer.json
    assert status_of(client, wire_id) == "Running"
    assert ADAPTER.steps(client, run.tenant_id, wire_id) == {
        "s1": "Success", "s2": "Running", "s3": "NotStarted",
    }  # fmt: skip
    assert steps_of(client, wire_id) == ids
    refused(again, 400, f"Process run {wire_id} has not ended")


def test_a_cancelled_run_is_restarted_and_one_that_waits_is_not(client: FlaskClient) -> None:
    spec = a_spec(steps=2)
    spec["steps"][1]["enabled"] = False
    made = created(client, spec)
    step, disabled = steps_of(client, made["id"])
    path = f"{RUNS}/{made['id']}/steps"

    refused(client.post(f"{path}/{step}/restartfromhere"), 400, "has not ended")
    client.post(f"{RUNS}/{made['id']}/cancel")
    refused(client.post(f"{path}/{disabled}/restartfromhere"), 400, "disabled")
    assert client.post(f"{path}/{step}/restartfromhere").json["status"] == "Running"


@pytest.mark.row("`POST …/cancel`: `Cancelled`, `dateFinished` once it has ended")
def test_cancelling_twice_is_as_good_as_once(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    held, run = created(client, a_spec()), a_run(database)
    a_claim(database, messages_in(sent)[-1].task_id)

    for wire_id, ended in ((held["id"], True), (f"pr-{run.number}", False)):
        answers = [client.post(f"{RUNS}/{wire_id}/cancel") for _ in range(2)]
        assert [each.status_code for each in answers] == [200, 200]
        assert [each.json["status"] for each in answers] == ["Cancelled"] * 2
        assert [each.json["dateFinished"] is not None for each in answers] == [ended] * 2


def test_of_many_at_once_one_starts_a_run(client: FlaskClient) -> None:
    path = f"{RUNS}/{created(client, a_spec())['id']}"

    def ask(what: str) -> int:
        other = client.application.test_client()
        return other.post(
            f"{path}/{what}", headers={"Authorization": client.environ_base["HTTP_AUTHORIZATION"]}
        ).status_code

    with ThreadPoolExecutor(4) as callers:
        assert Counter(callers.map(ask, ["start"] * 4)) == {200: 1, 400: 3}
        assert Counter(callers.map(ask, ["cancel"] * 4)) == {200: 4}


@pytest.mark.row(
    "`GET …/runstatus` after a restart: `dateStarted` and duration from the first start"
)
def test_a_restarted_run_keeps_its_first_start(
    client: FlaskClient, database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = a_run(database, a_spec(steps=2))
    wire_id = f"pr-{run.number}"
    finish(database, sent, Succeeded(), Failed("no", ("E",)))
    earlier(engine, run.id, hours=1)
    first, (load, push) = client.get(f"{RUNS}/{wire_id}/runstatus").json, steps_of(client, wire_id)

    for outcome in (None, Succeeded()):
        client.post(f"{RUNS}/{wire_id}/steps/{push}/restartfromhere")
        waiting = client.get(f"{RUNS}/{wire_id}/runstatus").json
        assert (waiting["status"], waiting["dateFinished"]) == ("Running", None)
        assert waiting["dateStarted"] == first["dateStarted"]
        assert waiting["runDurationInSeconds"] >= 3600
        if outcome is None:
            client.post(f"{RUNS}/{wire_id}/cancel")
            assert status_of(client, wire_id) == "Cancelled"
        else:
            with database.transaction() as session:
                task_id = runs.step(session, run, "s2").task_id
            claim = a_claim(database, task_id)
            with database.transaction() as session:
                attempts.record_outcome(session, claim, outcome)
    ended = client.get(f"{RUNS}/{wire_id}/runstatus").json
    again = client.get(f"{RUNS}/{wire_id}/steps/{push}/runstatus").json
    reply = client.get(f"{RUNS}/{wire_id}/steps/{load}/runstatus").json

    assert (ended["status"], ended["dateStarted"]) == ("Finished", first["dateStarted"])
    assert ended["runDurationInSeconds"] >= 3600
    assert again["runDurationInSeconds"] < 3600  # of the restart
    assert reply["dateStarted"].rstrip("Z")[:19] == first["dateStarted"][:19]


@pytest.mark.row("`POST …/restartfromhere` of a run that never began: `Running` with a date, too")
def test_a_run_that_was_cancelled_before_it_began_is_restarted(client: FlaskClient) -> None:
    made = created(client, a_spec(steps=2))
    first, second = steps_of(client, made["id"])
    client.post(f"{RUNS}/{made['id']}/cancel")

    answer = client.post(f"{RUNS}/{made['id']}/steps/{first}/restartfromhere").json
    status = client.get(f"{RUNS}/{made['id']}/runstatus").json

    assert (answer["status"], answer["dateFinished"]) == ("Running", None)
    assert client.get(f"{RUNS}/{made['id']}/steps/{first}/runstatus").json == answer
    assert (status["status"], status["runDurationInSeconds"]) == ("Running", 0)
    assert status["dateStarted"][:19] == answer["dateStarted"][:19]
    waiting = client.get(f"{RUNS}/{made['id']}/steps/{second}/runstatus").json
    assert (waiting["status"], waiting["dateStarted"]) == ("NotStarted", None)


@pytest.mark.row("`completionMessage` of a running step: its own message, or that it runs")
def test_a_running_step_has_its_message(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    wire_id = f"pr-{a_run(database).number}"
    claim = a_claim(database, messages_in(sent)[-1].task_id)
    assert claim is not None
    (step,) = steps_of(client, wire_id)
    path = f"{RUNS}/{wire_id}/steps/{step}/runstatus"

    before = client.get(path).json
    recorder = Recorder()
    recorder.progress(0.5, 1, None, "half of the ledger")
    with database.transaction() as session:
        write_output(session, claim.source, recorder.drain())
    after = client.get(path).json

    assert (before["status"], before["completionMessage"]) == (
        "Running",
        "step is currently running",
    )
    assert after["completionMessage"] == "half of the ledger"


@pytest.mark.row("`name` of a process run: `run #n` counts the runs of its process")
def test_run_numbers_count_per_process(client: FlaskClient, database: Database) -> None:
    names = [created(client, a_spec(name))["name"] for name in ("a", "b", "a", "b", "a")]
    assert names == ["a : run #1", "b : run #1", "a : run #2", "b : run #2", "a : run #3"]
    a_run(database, a_spec("a"))  # through another API
    last = created(client, a_spec("a"))
    assert last["name"] == "a : run #5"

    first = client.get("/api/v1/runs", query_string={"workflow": "a"}).json["items"][-1]["id"]
    assert client.post(f"/api/v1/runs/{first}/cancel").status_code == 200
    with database.transaction() as session:
        runs.delete(session, a_tenant(session), UUID(first))
    assert client.get(f"{RUNS}/{last['id']}").json["name"] == "a : run #5"
    assert created(client, a_spec("a"))["name"] == "a : run #6"


def test_run_numbers_of_many_at_once_are_different(client: FlaskClient) -> None:
    process = register(client, a_spec("many"))
    headers = {"Authorization": client.environ_base["HTTP_AUTHORIZATION"]}

    def create(_: int) -> str:
        other = client.application.test_client()
        made = other.post(f"{PROCESSES}/{process}/processruns", headers=headers)
        return str(made.json["name"])

    with ThreadPoolExecutor(4) as callers:
        names = set(callers.map(create, range(12)))

    assert names == {f"many : run #{n}" for n in range(1, 13)}
