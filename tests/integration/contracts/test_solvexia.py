"""What is particular to SolveXia's API: its words, dates and ids, and what its clients do."""

import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, event, text

from orchestrator import artifacts, execution, runs
from orchestrator.db import Database
from orchestrator.drafts import Draft
from orchestrator.messages import Outgoing
from orchestrator.outcomes import Failed, Outcome, Succeeded
from orchestrator.said import Source
from orchestrator.states import RunState, StepState
from orchestrator.storage import store_of
from tests import reference
from tests.factories import a_claim, a_run, a_spec, a_tenant, messages_in
from tests.integration.contracts.conftest import Golden
from tests.integration.contracts.solvexia_adapter import ADAPTER, PROCESSES, RUNS
from tests.keys import a_key, with_key

V1 = "/api/v1"
REFERENCE = {"Authorization": f"Bearer {reference.SECRET}"}
DAY = {
    "name": "ledger",
    "params": {
        "type": "object",
        "required": ["day"],
        "properties": {
            "day": {"type": "string", "format": "date", "description": "which day"},
            "limit": {"type": "integer", "default": 10},
            "share": {"type": "number"},
            "dry": {"type": "boolean"},
            "area": {"enum": ["north", "south"]},
            "source": {"type": "string", "format": "file"},
        },
    },
    "steps": [
        {"key": "load", "uses": "noop", "with": {"day": "{{ params.day }}"}},
        {"key": "push", "uses": "noop", "with": {"n": "{{ params['limit'] }}"}},
        {"key": "off", "uses": "noop", "enabled": False},
    ],
}


def _register(client: FlaskClient, spec: dict[str, Any]) -> str:
    """The id of the process that a workflow is."""
    made = client.post(f"{V1}/workflows", json=spec)
    assert made.status_code in (200, 201), made.json
    return f"p-{made.json['number']}"


def _created(client: FlaskClient, spec: dict[str, Any], **body: Any) -> dict[str, Any]:
    """A run that has not started."""
    process = _register(client, spec)
    made = client.post(f"{PROCESSES}/{process}/processruns", **({"json": body} if body else {}))
    assert made.status_code == 200, made.json
    found: dict[str, Any] = made.json
    return found


def _end(database: Database, sent: list[Outgoing], *outcomes: Outcome) -> None:
    """Do what a worker would: claim each step in turn, and end it so."""
    for outcome in outcomes:
        claims = (a_claim(database, message.task_id) for message in messages_in(sent))
        claim = next(each for each in claims if each is not None)
        with database.transaction() as session:
            execution.record(session, claim, outcome)


def _refused(answer: Any, status: int, *told: str) -> None:
    assert ADAPTER.refusal(answer) == status, answer.json
    assert all(each in answer.json["message"] for each in told), answer.json


def _status(client: FlaskClient, wire_id: str) -> str:
    return str(client.get(f"{RUNS}/{wire_id}/runstatus").json["status"])


# What the reference tenant looks like.

RUN, LOAD, PUSH = "pr-1249", "as-12490", "ds-12491"
PROCESS_STEP = 9_000_000_000_000 + 9001 * 10_000
SHOWN = {
    "processrun": f"{RUNS}/{RUN}",
    "processrun_pending": f"{RUNS}/pr-1250",
    "runstatus_succeeded": f"{RUNS}/pr-1248/runstatus",
    "runstatus_failed": f"{RUNS}/{RUN}/runstatus",
    "runstatus_pending": f"{RUNS}/pr-1250/runstatus",
    "runstatus_cancelled": f"{RUNS}/pr-1252/runstatus",
    "processrun_steps": f"{RUNS}/{RUN}/steps",
    "step_runstatus_warning": f"{RUNS}/{RUN}/steps/{LOAD}/runstatus",
    "step_runstatus_failed": f"{RUNS}/{RUN}/steps/{PUSH}/runstatus",
    "step_runstatus_skipped": f"{RUNS}/{RUN}/steps/as-12492/runstatus",
    "processes": PROCESSES,
    "process": f"{PROCESSES}/p-9001",
    "process_processruns": f"{PROCESSES}/p-9001/processruns",
    "process_steps": f"{PROCESSES}/p-9001/steps",
    "step": f"{V1}/steps/ds-12490",
    "step_of_process": f"{V1}/steps/ds-{PROCESS_STEP + 1}",
    "step_properties": f"{V1}/steps/ds-12490/properties",
    "step_properties_of_process": f"{V1}/steps/ds-{PROCESS_STEP}/properties",
    "step_property": f"{V1}/steps/ds-12490/properties/dsprop-12490000",
    "file_metadata": f"{V1}/files/f-501/metadata",
    "logs": f"{V1}/logs",
    "logs_between": f"{V1}/logs?startDate=2026-04-02T08:00:12Z&endDate=2026-04-02T08:00:41Z",
}


def test_the_reference_tenant_is_shown_as_published(
    reference_api: FlaskClient, golden: Golden
) -> None:
    for name, path in SHOWN.items():
        answer = reference_api.get(path, headers=REFERENCE)
        assert answer.status_code == 200, (path, answer.json)
        golden(f"solvexia/{name}", answer.json)


def test_what_depends_on_now_is_shown_as_published(
    reference_api: FlaskClient, golden: Golden
) -> None:
    made = reference_api.post(f"{PROCESSES}/p-9001/processruns", headers=REFERENCE)
    n = made.json["id"].removeprefix("pr-")

    def compare(name: str, answer: Any) -> None:
        assert answer.status_code == 200, answer.json
        body = {key: _placed(key, value, n) for key, value in answer.json.items()}
        golden(f"solvexia/{name}", body)

    compare("create", made)
    steps = reference_api.get(f"{RUNS}/pr-{n}/steps", headers=REFERENCE).json
    step = steps[0]["id"]
    properties = reference_api.get(f"{V1}/steps/{step}/properties", headers=REFERENCE).json
    path = f"{V1}/steps/{step}/properties/{properties[0]['id']}"
    compare(
        "set_property", reference_api.post(path, json={"value": "2026-04-03"}, headers=REFERENCE)
    )
    compare("start", reference_api.post(f"{RUNS}/pr-{n}/start", headers=REFERENCE))
    cancel = {"request": "ProcessRun_CancelRq", "processRunId": f"pr-{n}"}
    compare("requests", reference_api.post(f"{V1}/requests", json=cancel, headers=REFERENCE))
    compare("cancel", reference_api.post(f"{RUNS}/pr-{n}/cancel", headers=REFERENCE))
    running = reference_api.get(f"{RUNS}/pr-1251/runstatus", headers=REFERENCE)
    assert isinstance(running.json["runDurationInSeconds"], int)
    compare("runstatus_running", running)
    again = f"{RUNS}/{RUN}/steps/{PUSH}/restartfromhere"
    compare("restartfromhere", reference_api.post(again, headers=REFERENCE))


def _placed(key: str, value: Any, n: str) -> Any:
    """The value, or its place for one that no two tests have alike."""
    if key.startswith("runDuration") and value:
        return "<seconds>"
    if (
        key in ("dateModified", "dateCreated", "dateFinished")
        and isinstance(value, str)
        and value > "2026-05"
    ):
        return "<now>"
    places = {f"pr-{n}": "pr-<n>", f"invoice_export : run #{n}": "invoice_export : run #<n>"}
    return places.get(str(value), "dsprop-<n>" if str(value).startswith("dsprop-") else value)


# The published examples.


def test_a_run_is_created_and_not_started(client: FlaskClient, database: Database) -> None:
    made = _created(client, a_spec("Nightly-ledger"))
    status = client.get(f"{RUNS}/{made['id']}/runstatus").json

    assert made["name"] == f"Nightly-ledger : run #{made['id'].removeprefix('pr-')}"
    assert (made["alertEmailAddress"], made["alertSMS"], made["description"]) == ("", "", "")
    assert made["lastModifiedBy"] == "admin"
    assert made["dateModified"][-1] == "0"
    assert len(made["dateCreated"]) == len("2020-06-15T02:24:14.2700000")
    assert status == {
        "id": made["id"],
        "dateStarted": None,
        "dateFinished": None,
        "runDurationInSeconds": None,
        "runDurationInSec": None,
        "status": "NotStarted",
    }


def test_a_started_run_is_scheduled_and_only_once(client: FlaskClient, database: Database) -> None:
    made = _created(client, a_spec())

    started = client.post(f"{RUNS}/{made['id']}/start")
    again = client.post(f"{RUNS}/{made['id']}/start")

    assert started.json == {
        "id": made["id"],
        "dateStarted": None,
        "dateFinished": None,
        "runDurationInSeconds": None,
        "runDurationInSec": None,
        "status": "Scheduled",
    }
    _refused(again, 400, f"Process run {made['id']} was started already")


def test_a_finished_run_cannot_be_cancelled(
    client: FlaskClient, database: Database, sent: list[Outgoing]
) -> None:
    run = a_run(database)
    _end(database, sent, Succeeded())
    command = {"request": "ProcessRun_CancelRq", "processRunId": f"pr-{run.number}"}

    for answer in (
        client.post(f"{V1}/requests", json=command),
        client.post(f"{RUNS}/pr-{run.number}/cancel"),
    ):
        _refused(answer, 400, f"Process run pr-{run.number} has already finished")


def test_a_failed_step_says_what_failed(
    client: FlaskClient, database: Database, sent: list[Outgoing]
) -> None:
    run = a_run(database, a_spec(steps=2))
    _end(database, sent, Failed("Could not reach the ledger database", ("E",)))
    steps = client.get(f"{RUNS}/pr-{run.number}/steps").json

    told = [
        client.get(f"{RUNS}/pr-{run.number}/steps/{each['id']}/runstatus").json for each in steps
    ]

    assert _status(client, f"pr-{run.number}") == "Finished"
    assert [each["status"] for each in told] == ["Failed", "Skipped"]
    assert told[0]["completionMessage"] == "Could not reach the ledger database"
    assert told[0]["runDurationInSeconds"] == told[0]["runDurationInSec"] == 0
    assert told[0]["dateStarted"].endswith("Z")


def test_the_two_commands_do_what_the_paths_do(client: FlaskClient, database: Database) -> None:
    by_path, by_command = _created(client, a_spec()), _created(client, a_spec())
    asked = {"processRunId": by_command["id"]}

    answers = [
        client.post(f"{RUNS}/{by_path['id']}/start"),
        client.post(f"{V1}/requests", json={"request": "ProcessRun_StartRq", **asked}),
        client.post(f"{RUNS}/{by_path['id']}/cancel"),
        client.post(f"{V1}/requests", json={"request": "ProcessRun_CancelRq", **asked}),
    ]

    assert [each.json["status"] for each in answers] == ["Scheduled"] * 2 + ["Cancelled"] * 2
    assert answers[0].json.keys() == answers[1].json.keys()


def test_paths_are_read_in_any_case(client: FlaskClient, database: Database) -> None:
    wire_id = f"pr-{a_run(database).number}"

    for path in ("/ProcessRuns/{}/RunStatus", "/processRuns/{}/runstatus", "/PROCESSRUNS/{}"):
        for written in (wire_id, wire_id.upper()):
            assert client.get(V1 + path.format(written)).json["id"] == wire_id


# States.


def test_every_state_of_a_run_has_a_word(
    client: FlaskClient, database: Database, engine: Engine
) -> None:
    words = {
        "pending": "Scheduled",
        "queued": "Scheduled",
        "running": "Running",
        "cancelling": "Cancelled",
        "succeeded": "Finished",
        "failed": "Finished",
        "timed_out": "TimedOut",
        "cancelled": "Cancelled",
    }
    run = a_run(database)
    found = {}
    for state in RunState:
        with engine.begin() as connection:
            connection.execute(text("UPDATE runs SET state = :state"), {"state": state.value})
        found[state.value] = _status(client, f"pr-{run.number}")

    assert found == words


def test_every_state_of_a_step_has_a_word(
    client: FlaskClient, database: Database, engine: Engine
) -> None:
    words = {
        "pending": "NotStarted",
        "queued": "Scheduled",
        "running": "Running",
        "waiting": "Scheduled",
        "succeeded": "Success",
        "failed": "Failed",
        "skipped": "Skipped",
        "cancelled": "Cancelled",
    }
    run = a_run(database)
    found = {}
    for state in StepState:
        with engine.begin() as connection:
            connection.execute(text("UPDATE steps SET state = :state"), {"state": state.value})
        found[state.value] = ADAPTER.steps(client, run.tenant_id, f"pr-{run.number}")["s1"]

    assert found == words


def test_a_step_that_warned_ends_with_a_warning(reference_api: FlaskClient) -> None:
    told = reference_api.get(f"{RUNS}/{RUN}/steps/{LOAD}/runstatus", headers=REFERENCE).json

    assert (told["status"], told["completionMessage"]) == ("Warning", "812 rows")


# Processes and their runs.


def test_processes_are_found_by_name_and_age(client: FlaskClient, database: Database) -> None:
    ids = {name: _register(client, a_spec(name)) for name in ("alpha", "Beta", "al_ha")}
    hour = timedelta(hours=1)
    before, after = (
        (datetime.now(UTC) + shift).strftime("%Y-%m-%dT%H:%M:%S") for shift in (-hour, hour)
    )

    def names(**query: str) -> list[str]:
        return [each["name"] for each in client.get(PROCESSES, query_string=query).json]

    listed = client.get(PROCESSES).json

    assert {each["id"]: each["name"] for each in listed} == {v: k for k, v in ids.items()}
    assert names(name="BET") == ["Beta"]
    assert names(name="l_h") == ["al_ha"]
    assert names(name="%") == []
    assert len(names(dateCreatedStart=before, dateCreatedEnd=after)) == 3
    assert names(dateCreatedStart=after) == names(dateCreatedEnd=f"{before}Z") == []
    assert names(dateCreatedStart="2100-01-01") == []


def test_runs_of_a_process_are_listed_newest_first(client: FlaskClient, database: Database) -> None:
    numbers = [a_run(database).number for _ in range(3)]
    a_run(database, a_spec("other"))
    process = _register(client, a_spec())
    path = f"{PROCESSES}/{process}/processruns"

    listed = client.get(path).json

    assert listed == [{"id": f"pr-{n}", "name": f"work : run #{n}"} for n in reversed(numbers)]
    assert client.get(path, query_string={"dateCreatedStart": "2100-01-01"}).json == []
    assert len(client.get(path, query_string={"dateCreatedEnd": "2100-01-01"}).json) == 3


def test_a_prefix_stands_before_the_name(client: FlaskClient, database: Database) -> None:
    made = _created(client, a_spec(), namePrefix="Q1")
    plain = _created(client, a_spec(), namePrefix=None)
    n = made["id"].removeprefix("pr-")

    assert made["name"] == f"Q1 work : run #{n}"
    assert client.get(f"{RUNS}/{made['id']}").json["name"] == made["name"]
    assert plain["name"].startswith("work : run #")
    listed = client.get(f"{PROCESSES}/{made['process']}/processruns").json
    assert [each["name"] for each in listed] == [plain["name"], made["name"]]


def test_steps_of_a_process_and_of_its_runs_have_other_ids(
    client: FlaskClient, database: Database
) -> None:
    made = _created(client, DAY)
    before = client.get(f"{PROCESSES}/{made['process']}/steps").json
    of_run = client.get(f"{RUNS}/{made['id']}/steps").json

    assert [{**each, "id": None} for each in before] == [{**each, "id": None} for each in of_run]
    assert [(each["stepOrder"], each["orderedName"]) for each in before] == [
        ("1", "1"), ("2", "2"), ("3", "3"),
    ]  # fmt: skip
    assert [each["isEnabled"] for each in before] == [True, True, False]
    assert {each["id"] for each in before}.isdisjoint(each["id"] for each in of_run)
    for each in (*before, *of_run):
        assert client.get(f"{V1}/steps/{each['id']}").json == each


def test_a_step_is_asked_for_and_answered_with_either_prefix(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database)
    number = client.get(f"{RUNS}/pr-{run.number}/steps").json[0]["id"].removeprefix("ds-")

    for wire in (f"ds-{number}", f"as-{number}"):
        told = client.get(f"{RUNS}/pr-{run.number}/steps/{wire}/runstatus").json
        assert told["id"] == wire


# Properties: the parameters of a run, until it starts.


def _properties(client: FlaskClient, step: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in client.get(f"{V1}/steps/{step}/properties").json}


def _set(client: FlaskClient, step: str, given: Mapping[str, Any], value: Any) -> Any:
    return client.post(
        f"{V1}/steps/{step}/properties/{given['id']}", json={**given, "value": value}
    )


def test_parameters_are_properties_of_the_steps_that_use_them(
    client: FlaskClient, database: Database
) -> None:
    made = _created(client, DAY)
    load, push, off = (each["id"] for each in client.get(f"{RUNS}/{made['id']}/steps").json)
    found, limit = _properties(client, load), _properties(client, push)["limit"]

    assert {name: each["dataType"] for name, each in found.items()} == {
        "day": "Datepicker", "dry": "CheckBox", "area": "Dropdown", "share": "Decimal",
        "source": "File",
    }  # fmt: skip
    assert found["day"] == {
        "id": found["day"]["id"],
        "name": "day",
        "dataType": "Datepicker",
        "required": True,
        "visible": True,
        "informationFlowType": "INPUT",
        "mouseoverText": "which day",
        "value": None,
    }
    assert "value" not in found["source"]
    assert found["source"]["file"] is None
    assert (limit["dataType"], limit["value"]) == ("Number", 10)
    assert _properties(client, off) == {}
    assert client.get(f"{V1}/steps/{push}/properties/{limit['id']}").json == limit


def test_properties_are_set_before_a_run_starts(client: FlaskClient, database: Database) -> None:
    made = _created(client, DAY)
    load, push, _ = (each["id"] for each in client.get(f"{RUNS}/{made['id']}/steps").json)
    found, limit = _properties(client, load), _properties(client, push)["limit"]

    early = client.post(f"{RUNS}/{made['id']}/start")
    answers = [
        _set(client, load, found["day"], "2026-02-03"),
        _set(client, push, limit, "7"),
        _set(client, load, found["share"], "0.5"),
        _set(client, load, found["dry"], "true"),
        _set(client, load, found["area"], "north"),
    ]
    wrong = [
        _set(client, load, found["day"], "yesterday"),
        _set(client, push, limit, "many"),
        _set(client, load, found["area"], "west"),
        client.post(f"{V1}/steps/{push}/properties/{limit['id']}", json={"id": limit["id"]}),
    ]
    started = client.post(f"{RUNS}/{made['id']}/start")
    late = _set(client, push, limit, 8)

    _refused(early, 400, "/params", "'day' is a required property")
    assert [each.json["value"] for each in answers] == ["2026-02-03", 7, 0.5, True, "north"]
    for each in wrong:
        _refused(each, 400)
    assert started.json["status"] == "Scheduled"
    _refused(late, 400, f"Process run {made['id']} is not NotStarted")
    with database.transaction() as session:
        run = runs.get(session, a_tenant(session), int(made["id"].removeprefix("pr-")))
        assert run.params == {
            "day": "2026-02-03", "limit": 7, "share": 0.5, "dry": True, "area": "north",
        }  # fmt: skip


def test_the_properties_of_a_process_are_read_only(client: FlaskClient, database: Database) -> None:
    process = _register(client, DAY)
    step = client.get(f"{PROCESSES}/{process}/steps").json[1]["id"]
    limit = _properties(client, step)["limit"]

    assert limit["value"] == 10
    _refused(_set(client, step, limit, 8), 400, "definition")


# Restart.


def test_a_run_is_restarted_from_a_step(
    client: FlaskClient, database: Database, sent: list[Outgoing]
) -> None:
    run = a_run(database, a_spec(steps=3))
    _end(database, sent, Succeeded({"n": 1}), Failed("no", ("E",)))
    ids = [each["id"] for each in client.get(f"{RUNS}/pr-{run.number}/steps").json]
    asked = ids[1].replace("ds-", "as-")

    answer = client.post(f"{RUNS}/pr-{run.number}/steps/{asked}/restartfromhere")
    again = client.post(f"{RUNS}/pr-{run.number}/steps/{asked}/restartfromhere")

    assert (answer.status_code, answer.json["id"], answer.json["status"]) == (200, asked, "Running")
    assert answer.json["runDurationInSeconds"] == 0
    assert _status(client, f"pr-{run.number}") == "Scheduled"
    assert ADAPTER.steps(client, run.tenant_id, f"pr-{run.number}") == {
        "s1": "Success", "s2": "Scheduled", "s3": "NotStarted",
    }  # fmt: skip
    assert client.get(f"{RUNS}/pr-{run.number}/steps").json[1]["id"] == ids[1]
    _refused(again, 400, f"Process run pr-{run.number} has not ended")


def test_a_cancelled_run_is_restarted_and_one_that_waits_is_not(
    client: FlaskClient, database: Database
) -> None:
    made = _created(client, a_spec())
    step = client.get(f"{RUNS}/{made['id']}/steps").json[0]["id"]
    path = f"{RUNS}/{made['id']}/steps/{step}/restartfromhere"

    _refused(client.post(path), 400)
    client.post(f"{RUNS}/{made['id']}/cancel")
    assert client.post(path).json["status"] == "Running"


def test_cancelling_twice_is_as_good_as_once(
    client: FlaskClient, database: Database, sent: list[Outgoing]
) -> None:
    held, run = _created(client, a_spec()), a_run(database)
    a_claim(database, messages_in(sent)[-1].task_id)

    for wire_id, ended in ((held["id"], True), (f"pr-{run.number}", False)):
        answers = [client.post(f"{RUNS}/{wire_id}/cancel") for _ in range(2)]
        assert [each.status_code for each in answers] == [200, 200]
        assert [each.json["status"] for each in answers] == ["Cancelled"] * 2
        assert [each.json["dateFinished"] is not None for each in answers] == [ended] * 2


# Files and logs.


def test_a_file_is_downloaded(
    client: FlaskClient, database: Database, sent: list[Outgoing]
) -> None:
    run = a_run(database)
    claim = a_claim(database, messages_in(sent)[-1].task_id)
    assert claim is not None
    step = client.get(f"{V1}/runs/{run.id}/steps").json[0]
    source = Source(
        tenant_id=run.tenant_id, run_id=run.id, step_id=UUID(step["id"]), step="s1", attempt=1
    )
    saved = artifacts.save(
        database,
        store_of(client.application.extensions["orchestrator"].settings),
        source,
        Draft(name="Sales Q1.csv"),
        b"a,b\n1,2\n",
        limit=1000,
        within=timedelta(seconds=5),
    )
    with database.transaction() as session:
        number = artifacts.get(session, run.tenant_id, UUID(saved.id)).number
    path = f"{V1}/files/f-{number}"
    wire_step = f"ds-{step['number']}"
    (left,) = client.get(f"{V1}/steps/{wire_step}/properties").json

    assert (left["name"], left["file"]) == ("Sales Q1.csv", f"f-{number}")
    assert (left["dataType"], left["informationFlowType"]) == ("File", "OUTPUT")
    assert client.get(f"{V1}/steps/{wire_step}/properties/{left['id']}").json == left
    _refused(_set(client, wire_step, left, "x"), 400, "cannot be set")

    whole, part = client.get(path), client.get(path, headers={"Range": "bytes=4-"})
    told = client.get(f"{path}/metadata").json

    assert (whole.status_code, whole.data, part.data) == (200, b"a,b\n1,2\n", b"1,2\n")
    assert 'filename="Sales Q1.csv"' in whole.headers["Content-Disposition"]
    assert told == {
        "id": f"f-{number}",
        "name": "Sales Q1.csv",
        "sizeInBytes": 8,
        "fileExtension": "csv",
        "url": f"http://localhost{path}",
    }
    _refused(client.get(path, headers={"Range": "bytes=99-"}), 400)
    upload = client.post(path, data={"file": (io.BytesIO(b"x"), "x.csv")})
    _refused(upload, 400, "not uploaded here")


def test_logs_are_sentences_the_latest_first(
    client: FlaskClient, database: Database, sent: list[Outgoing]
) -> None:
    run = a_run(database, submitted_by="acme.ana.ruiz")
    _end(database, sent, Failed("Could not reach the ledger database", ("E",)))
    other = a_run(database)
    found = client.get(f"{V1}/logs").json
    mine = [each for each in found if f"pr-{run.number} " in each["message"]]
    step = client.get(f"{RUNS}/pr-{run.number}/steps").json[0]["id"]

    assert found[0]["message"].startswith(f"Process run pr-{other.number} (work) was ")
    assert {each["userName"] for each in mine} == {"acme.ana.ruiz"}
    assert [each["message"] for each in mine] == [
        f"Process run pr-{run.number} (work) failed: Could not reach the ledger database",
        f"Step {step} (s1) of process run pr-{run.number} (work) failed: Could not reach the"
        " ledger database",
        f"Process run pr-{run.number} (work) started",
        f"Step {step} (s1) of process run pr-{run.number} (work) started",
        f"Process run pr-{run.number} (work) was scheduled",
        f"Process run pr-{run.number} (work) was created",
    ]
    assert all(isinstance(each["id"], str) for each in found)


def test_logs_are_the_latest_50_or_those_of_a_span(client: FlaskClient, database: Database) -> None:
    for _ in range(30):
        a_run(database)
    newest = client.get(f"{V1}/logs").json
    moment = newest[10]["timeStamp"]

    def ids(**query: str) -> list[str]:
        return [each["id"] for each in client.get(f"{V1}/logs", query_string=query).json]

    assert len(newest) == 50
    known = [each["id"] for each in newest]
    assert ids(startDate=moment) == known[:11]
    assert ids(endDate=moment)[:40] == known[10:]
    assert len(ids(endDate=moment)) == 50
    assert ids(startDate=newest[12]["timeStamp"], endDate=moment) == known[10:13]
    assert len(ids(startDate="2000-01-01")) == 60
    assert ids(endDate="2000-01-01") == ids(startDate="2100-01-01") == []


# Who may.


def _token(client: FlaskClient, *, scope: str | None = None, **asked: Any) -> Any:
    made = a_key(client, asked.pop("role", "operator"), kind="oauth_client", **asked)
    given = {name: made[name] for name in ("client_id", "client_secret")}
    given |= {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
    answer = client.application.test_client().post("/oauth/token", data=given)
    assert answer.status_code == 200, answer.json
    return with_key(client, answer.json["access_token"])


@pytest.mark.usefixtures("no_keys_left")
def test_scopes_reach_what_they_name(client: FlaskClient, database: Database) -> None:
    process = _register(client, a_spec())
    reach = {  # processes to read and to change, files, logs
        "process": (200, 200, 404, 200),
        "process_execute": (200, 200, 404, 200),
        "process_read": (200, 403, 404, 200),
        "file_read": (403, 403, 404, 403),
        "log_read": (403, 403, 403, 200),
        "runs": (200, 200, 404, 200),
        "runs:read": (200, 403, 404, 200),
        "workflows": (403, 403, 403, 403),
        None: (200, 200, 404, 200),
    }

    def found(scope: str | None) -> tuple[int, ...]:
        asked = {"scopes": [scope]} if scope else {}
        key = with_key(client, a_key(client, "operator", **asked)["key"])
        return (
            key.get(f"{PROCESSES}/{process}").status_code,
            key.post(f"{PROCESSES}/{process}/processruns").status_code,
            key.get(f"{V1}/files/f-99").status_code,
            key.get(f"{V1}/logs").status_code,
        )

    assert {scope: found(scope) for scope in reach} == reach


@pytest.mark.usefixtures("no_keys_left")
def test_a_viewer_reads_and_changes_nothing(client: FlaskClient, database: Database) -> None:
    run, made = a_run(database), _created(client, a_spec())
    viewer = with_key(client, a_key(client, "viewer")["key"])
    step = client.get(f"{RUNS}/pr-{run.number}/steps").json[0]["id"]

    assert viewer.get(f"{RUNS}/pr-{run.number}").status_code == 200
    for path in (
        f"{RUNS}/{made['id']}/start",
        f"{RUNS}/{made['id']}/cancel",
        f"{RUNS}/pr-{run.number}/steps/{step}/restartfromhere",
        f"{PROCESSES}/{made['process']}/processruns",
    ):
        _refused(viewer.post(path), 403, "operator")


# Refusals.


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nope"}])
def test_who_brings_no_good_token_is_told_in_the_same_form(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    anyone = client.application.test_client()

    for path in (f"{RUNS}/pr-1", f"{V1}/logs", f"{V1}/processes/none/at/all"):
        answer = anyone.get(path, headers=headers)
        _refused(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_what_is_not_there_or_no_id_is_not_found(client: FlaskClient) -> None:
    paths = {
        "pr": ["/processruns/{}", "/processruns/{}/runstatus", "/processruns/{}/steps"],
        "p": ["/processes/{}", "/processes/{}/steps", "/processes/{}/processruns"],
        "ds": ["/steps/{}", "/steps/{}/properties", "/steps/{}/properties/dsprop-1"],
        "f": ["/files/{}", "/files/{}/metadata"],
    }
    wrong = ["999999999", "x", "-1", "1.5", "9" * 40, "\u0661", "%E2%82%AC", "a" * 300, "000"]
    for prefix, of_kind in paths.items():
        for wire in [f"{prefix}-{each}" for each in wrong] + ["1", "u-1", "ds-9000000000001"]:
            for path in of_kind:
                _refused(client.get(V1 + path.format(wire)), 404)
    _refused(client.get(f"{RUNS}/{'pr-9' * 20}/steps/ds-1/runstatus"), 404)


def test_a_step_of_another_run_is_not_found(client: FlaskClient, database: Database) -> None:
    one, other = a_run(database), a_run(database)
    step = client.get(f"{RUNS}/pr-{other.number}/steps").json[0]["id"]

    _refused(client.get(f"{RUNS}/pr-{one.number}/steps/{step}/runstatus"), 404)
    _refused(client.post(f"{RUNS}/pr-{one.number}/steps/{step}/restartfromhere"), 404)
    _refused(client.get(f"{V1}/steps/{step}/properties/dsprop-1"), 404)


def test_a_wrong_command_is_refused(client: FlaskClient) -> None:
    for body, pointer in (
        ({}, "/request"),
        ({"request": "ProcessRun_StartRq"}, "/processRunId"),
        ({"request": "Start", "processRunId": "pr-1"}, "/request"),
        ({"request": 1, "processRunId": "pr-1"}, "/request"),
        ({"request": "ProcessRun_StartRq", "processRunId": 1}, "/processRunId"),
        ({"request": "ProcessRun_StartRq", "processRunId": "pr-1\x00"}, "/processRunId"),
        ({"request": None, "processRunId": ["pr-1"]}, "/request"),
        ([], "/"),
        ("x", "/"),
    ):
        _refused(client.post(f"{V1}/requests", json=body), 400, pointer)


def test_a_wrong_query_is_refused(client: FlaskClient) -> None:
    for query, pointer in (
        ("/processes?dateCreatedStart=yesterday", "/query/dateCreatedStart"),
        ("/processes?dateCreatedEnd=9999-99-99", "/query/dateCreatedEnd"),
        ("/processes?name=%00", "NUL"),
        ("/logs?startDate=1", "/query/startDate"),
        ("/logs?endDate=0001-01-01T00:00:00%2B23:00", "/query/endDate"),
    ):
        _refused(client.get(V1 + query), 400, pointer)


def test_a_wrong_body_makes_no_run(client: FlaskClient, database: Database) -> None:
    path = f"{PROCESSES}/{_register(client, a_spec())}/processruns"
    wrong: list[dict[str, Any]] = [
        {"data": b"{", "content_type": "application/json"},
        {"data": b"[" * 100_000, "content_type": "application/json"},
        {"data": b"\xff\xfe", "content_type": "application/json"},
        {"data": b"<a/>", "content_type": "application/xml"},
        {"json": {"namePrefix": 1}},
        {"json": {"namePrefix": "x" * 201}},
        {"json": {"namePrefix": "a\x00"}},
        {"json": {"namePrefix": "\ud800"}},
        {"json": ["namePrefix"]},
        {"json": {"namePrefix": "x" * 5_000_000}},
    ]

    for each in wrong:
        _refused(client.post(path, **each), 400)
    assert client.get(path).json == []


def test_another_tenants_rows_are_not_there(reference_api: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE runs SET tenant_id = (SELECT id FROM tenants WHERE name ="
                                " 'default')"))  # fmt: skip
        connection.execute(text("UPDATE steps SET tenant_id = (SELECT id FROM tenants WHERE name ="
                                " 'default')"))  # fmt: skip

    for path in (f"{RUNS}/{RUN}", f"{RUNS}/{RUN}/steps", f"{V1}/steps/ds-12490"):
        _refused(reference_api.get(path, headers=REFERENCE), 404)
    assert reference_api.get(f"{PROCESSES}/p-9001/processruns", headers=REFERENCE).json == []


def test_native_addresses_are_not_touched(client: FlaskClient) -> None:
    assert client.get(f"{V1}/runs").json == {"items": [], "next_cursor": None}
    assert client.get(f"{V1}/runs/x").json["type"] == "urn:orchestrator:problem:not_found"
    assert client.get(f"{V1}/Runs").status_code == 404
    assert client.get(f"{V1}/logsx").json["type"] == "urn:orchestrator:problem:not_found"


# What clients trip over.


def test_trap_1_every_refusal_has_a_message(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    refusals = [
        client.get(f"{RUNS}/pr-999999"),
        client.post(f"{RUNS}/pr-{run.number}/start"),
        client.get(f"{RUNS}/pr-{run.number}/start"),
        client.get(f"{V1}/processruns"),
        client.application.test_client().get(f"{RUNS}/pr-1"),
        client.post(f"{V1}/requests", json={}),
    ]

    assert [ADAPTER.refusal(each) for each in refusals] == [404, 400, 405, 404, 401, 400]
    assert len({each.json["supportId"] for each in refusals}) == len(refusals)
    told = client.post("/oauth/token", data={"grant_type": "client_credentials"})
    assert (told.status_code, told.json["error"]) == (401, "invalid_client")
    assert told.json["message"] == told.json["error_description"]
    assert len(told.json["supportId"]) == 36


def test_trap_2_a_running_run_has_a_duration(
    client: FlaskClient, database: Database, sent: list[Outgoing]
) -> None:
    run = a_run(database)
    assert client.get(f"{RUNS}/pr-{run.number}/runstatus").json["runDurationInSeconds"] is None
    a_claim(database, messages_in(sent)[-1].task_id)

    told = client.get(f"{RUNS}/pr-{run.number}/runstatus").json

    assert told["status"] == "Running"
    assert type(told["runDurationInSeconds"]) is type(told["runDurationInSec"]) is int


def test_trap_3_no_body_is_no_body_whatever_its_type(
    client: FlaskClient, database: Database
) -> None:
    process = _register(client, a_spec())
    types = ("application/octet-stream", "application/json", "text/csv", "image/png")
    for headers in ({}, *({"Content-Type": each} for each in types)):
        made = client.post(f"{PROCESSES}/{process}/processruns", headers=headers)
        wire_id = made.json["id"]
        step = client.get(f"{RUNS}/{wire_id}/steps", headers=headers).json[0]["id"]
        answers = [
            client.post(f"{RUNS}/{wire_id}/start", headers=headers),
            client.get(f"{RUNS}/{wire_id}/runstatus", headers=headers),
            client.post(f"{RUNS}/{wire_id}/cancel", headers=headers),
            client.post(f"{RUNS}/{wire_id}/steps/{step}/restartfromhere", headers=headers),
        ]
        assert [each.status_code for each in answers] == [200] * 4


def test_trap_4_a_get_starts_nothing(client: FlaskClient, database: Database) -> None:
    made = _created(client, a_spec())
    step = client.get(f"{RUNS}/{made['id']}/steps").json[0]["id"]

    for path in ("start", "cancel", f"steps/{step}/restartfromhere"):
        answer = client.get(f"{RUNS}/{made['id']}/{path}")
        _refused(answer, 405, "GET is not taken here; use", "POST")
        assert "POST" in answer.headers["Allow"]
    assert _status(client, made["id"]) == "NotStarted"


@pytest.mark.usefixtures("no_keys_left")
def test_trap_5_a_tokens_life_is_a_fractional_number(client: FlaskClient) -> None:
    made = a_key(client, "viewer", kind="oauth_client")
    given = {name: made[name] for name in ("client_id", "client_secret")}
    asked = {**given, "grant_type": "client_credentials"}

    answers = [client.application.test_client().post("/oauth/token", json=asked) for _ in range(40)]

    assert {each.status_code for each in answers} == {200}
    assert '"expires_in":600.0' in answers[0].text
    assert answers[0].json.keys() >= {"access_token", "token_type"}


@pytest.mark.usefixtures("no_keys_left")
def test_trap_6_a_token_without_a_scope_only_reads(client: FlaskClient, database: Database) -> None:
    made = _created(client, a_spec())
    path = f"{RUNS}/{made['id']}/start"
    reader, starter = _token(client), _token(client, scope="process")
    foreign = _token(client, scope="mtable_read")

    assert reader.get(f"{RUNS}/{made['id']}").status_code == 200
    _refused(reader.post(path), 403, "process_execute")
    _refused(foreign.get(f"{RUNS}/{made['id']}"), 403, "process_read")
    assert starter.post(path).json["status"] == "Scheduled"


def test_trap_7_a_failed_run_is_seen_in_its_steps_and_the_logs(reference_api: FlaskClient) -> None:
    status = reference_api.get(f"{RUNS}/{RUN}/runstatus", headers=REFERENCE).json["status"]
    step = reference_api.get(f"{RUNS}/{RUN}/steps/{PUSH}/runstatus", headers=REFERENCE).json
    logs = reference_api.get(f"{V1}/logs", headers=REFERENCE).json

    assert (status, step["status"]) == ("Finished", "Failed")
    assert step["completionMessage"] == "HTTP 503 from target"
    told = f"Process run {RUN} (invoice_export) failed: HTTP 503 from target"
    assert told in [each["message"] for each in logs]


@pytest.fixture
def statements(engine: Engine) -> Iterator[list[str]]:
    """What Postgres is asked, by whomever."""
    heard: list[str] = []

    def hear(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    yield heard
    event.remove(Engine, "before_cursor_execute", hear)


def test_trap_8_lists_are_cheap_and_change_nothing(
    client: FlaskClient, database: Database, statements: list[str]
) -> None:
    process = _register(client, a_spec())
    asked = []
    for more in (1, 10):
        for _ in range(more):
            a_run(database)
        statements.clear()
        for path in (f"{PROCESSES}/{process}/processruns", PROCESSES, f"{V1}/logs"):
            assert client.get(path).json == client.get(path).json
        # Who asks is noted once a minute, and is no part of the list.
        heard = [each.lstrip().lower() for each in statements if "keys" not in each]
        asked.append(len([each for each in heard if each.startswith("select")]))
        assert not [each for each in heard if each.startswith(("insert", "update", "delete"))]

    assert asked[0] == asked[1] > 0
