"""Each hidden trap of SolveXia's API, by its number."""

import pytest
from flask.testing import FlaskClient

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from tests.contracts.adapters.solvexia import ADAPTER, PROCESSES, RUNS
from tests.contracts.solvexia.helpers import (
    PUSH,
    RUN,
    TOKEN,
    V1,
    created,
    refused,
    register,
    status_of,
    steps_of,
    with_token,
)
from tests.support.api_keys import a_key
from tests.support.factories import a_claim, a_run, a_spec, messages_in
from tests.support.statement_recorder import recorded_statements


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
    refusal = client.post(TOKEN, data={"grant_type": "client_credentials"})
    assert (refusal.status_code, refusal.json["error"]) == (401, "invalid_client")
    assert refusal.json["message"] == refusal.json["error_description"]
    assert len(refusal.json["supportId"]) == 36


@pytest.mark.row("`runDurationInSeconds` and `runDurationInSec`")
def test_trap_2_a_running_run_has_a_duration(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    assert client.get(f"{RUNS}/pr-{run.number}/runstatus").json["runDurationInSeconds"] is None
    a_claim(database, messages_in(sent)[-1].task_id)

    status = client.get(f"{RUNS}/pr-{run.number}/runstatus").json

    assert status["status"] == "Running"
    assert type(status["runDurationInSeconds"]) is type(status["runDurationInSec"]) is int


def test_trap_3_no_body_is_no_body_whatever_its_type(
    client: FlaskClient, database: Database
) -> None:
    process = register(client, a_spec())
    types = ("application/octet-stream", "application/json", "image/png")
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


def test_trap_4_a_get_starts_nothing(client: FlaskClient) -> None:
    made = created(client, a_spec())
    step = steps_of(client, made["id"])[0]

    for path in ("start", "cancel", f"steps/{step}/restartfromhere"):
        answer = client.get(f"{RUNS}/{made['id']}/{path}")
        refused(answer, 405, "GET is not taken here; use", "POST")
        assert "POST" in answer.headers["Allow"]
    assert status_of(client, made["id"]) == "NotStarted"


@pytest.mark.usefixtures("no_keys_left")
def test_trap_5_a_tokens_life_is_a_fractional_number(client: FlaskClient) -> None:
    made = a_key(client, "viewer", kind="oauth_client")
    credentials = {name: made[name] for name in ("client_id", "client_secret")}
    body = {**credentials, "grant_type": "client_credentials"}

    answers = [client.application.test_client().post(TOKEN, json=body) for _ in range(20)]

    assert {each.status_code for each in answers} == {200}
    assert '"expires_in":600.0' in answers[0].text
    assert answers[0].json.keys() >= {"access_token", "token_type"}


@pytest.mark.usefixtures("no_keys_left")
def test_trap_6_a_token_without_a_scope_only_reads(client: FlaskClient) -> None:
    made = created(client, a_spec())
    path = f"{RUNS}/{made['id']}"
    reader, starter = with_token(client), with_token(client, "process")
    foreign = with_token(client, "mtable_read")

    assert reader.get(path).status_code == 200
    refused(reader.post(f"{path}/start"), 403, "process_execute")
    refused(foreign.get(path), 403, "process_read")
    assert starter.post(f"{path}/start").json["status"] == "Scheduled"


def test_trap_7_a_failed_run_is_seen_in_its_steps_and_the_logs(
    reference_client: FlaskClient,
) -> None:
    status = reference_client.get(f"{RUNS}/{RUN}/runstatus").json["status"]
    step = reference_client.get(f"{RUNS}/{RUN}/steps/{PUSH}/runstatus").json
    logs = reference_client.get(f"{V1}/logs").json

    assert (status, step["status"]) == ("Finished", "Failed")
    assert step["completionMessage"] == "HTTP 503 from target"
    message = f"Process run {RUN} (invoice_export) failed: HTTP 503 from target"
    assert message in [each["message"] for each in logs]


def test_trap_8_lists_are_cheap_and_change_nothing(client: FlaskClient, database: Database) -> None:
    process = register(client, a_spec())
    counts = []
    for more in (1, 10):
        for _ in range(more):
            a_run(database)
        with recorded_statements(client) as statements:
            for path in (f"{PROCESSES}/{process}/processruns", PROCESSES, f"{V1}/logs"):
                assert client.get(path).json == client.get(path).json
        counts.append(len(statements))
        changes = ("insert", "update", "delete")
        assert not [each for each in statements if each.lstrip().lower().startswith(changes)]

    assert counts[0] == counts[1] > 0
