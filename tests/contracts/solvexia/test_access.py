"""Keys, tokens, their scopes and roles, and other tenants."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tests.contracts.adapters.solvexia import PROCESSES, RUNS
from tests.contracts.solvexia.helpers import (
    DAY,
    RUN,
    TOKEN,
    V1,
    ask_token,
    created,
    properties,
    refused,
    register,
    set_property,
    steps_of,
    with_token,
)
from tests.support.api_keys import a_key, with_key
from tests.support.factories import a_spec


@pytest.mark.usefixtures("no_keys_left")
def test_scopes_reach_what_they_name(client: FlaskClient) -> None:
    process = register(client, a_spec())
    reach = {  # processes to read and to change, files, logs
        "process": (200, 200, 404, 200),
        "process_execute": (200, 200, 404, 200),
        "process_read": (200, 403, 404, 200),
        "file_read": (403, 403, 404, 403),
        "log_read": (403, 403, 403, 200),
        "runs": (403, 200, 403, 403),
        "runs:read": (403, 403, 403, 403),
        "workflows:read": (200, 403, 403, 403),
        "artifacts:read": (403, 403, 404, 403),
        "events:read": (403, 403, 403, 200),
    }

    def statuses(scope: str) -> tuple[int, ...]:
        key = with_key(client, a_key(client, "operator", scopes=[scope])["key"])
        return (
            key.get(f"{PROCESSES}/{process}").status_code,
            key.post(f"{PROCESSES}/{process}/processruns").status_code,
            key.get(f"{V1}/files/f-99").status_code,
            key.get(f"{V1}/logs").status_code,
        )

    assert {scope: statuses(scope) for scope in reach} == reach


@pytest.mark.row("`POST /oauth/token` with `client_credentials` and `scope`")
@pytest.mark.usefixtures("no_keys_left")
def test_a_client_asks_for_less_than_it_is_registered_with(client: FlaskClient) -> None:
    made = created(client, a_spec())
    path = f"{RUNS}/{made['id']}"
    reader = with_token(client, "process_read", scopes=["process"])
    starter = with_token(client, "process_execute process_read", scopes=["process_execute"])

    assert reader.get(path).status_code == starter.get(path).status_code == 200
    refused(reader.post(f"{path}/start"), 403, "process_execute")
    assert starter.post(f"{path}/start").json["status"] == "Scheduled"
    for has, wider in (("process_read", "process"), ("process_execute", "process"), ("file", "x")):
        answer = ask_token(client, wider, scopes=[has])
        assert (answer.status_code, answer.json["error"]) == (400, "invalid_scope")
        assert answer.json["message"].endswith(f"does not have the scope {wider}; it has {has}")


def test_unsupported_oauth_requests_are_refused_as_oauth_does(client: FlaskClient) -> None:
    anyone = client.application.test_client()
    code = {"grant_type": "authorization_code", "code": "x"}
    refresh = {"grant_type": "refresh_token", "refresh_token": "x"}
    authorize = "/oauth/authorize?client_id=x&response_type=code"

    for answer, status, part in (
        (anyone.post(TOKEN, json=code), 401, "client_id and client_secret"),
        (anyone.post(TOKEN, data=refresh), 401, "client_id and client_secret"),
        (anyone.post(TOKEN, data={"grant_type": "password"}), 400, "client_credentials"),
        (anyone.get(TOKEN), 405, "use POST"),
        (anyone.get(authorize), 401, "send a key as `Authorization: Bearer …`"),
        (anyone.get("/oauth/other"), 404, "POST /oauth/token"),
    ):
        body = answer.json
        assert (answer.status_code, answer.content_type) == (status, "application/json")
        assert body.keys() == {"error", "error_description", "message", "supportId"}
        assert part in body["message"] == body["error_description"]


@pytest.mark.usefixtures("no_keys_left")
def test_a_viewer_reads_and_changes_nothing(client: FlaskClient) -> None:
    made = created(client, DAY)
    path, step = f"{RUNS}/{made['id']}", steps_of(client, made["id"])[0]
    viewer = with_key(client, a_key(client, "viewer")["key"])
    day = properties(viewer, step)["day"]
    command = {"request": "ProcessRun_StartRq", "processRunId": made["id"]}

    for answer in (
        viewer.post(f"{path}/start"),
        viewer.post(f"{path}/cancel"),
        viewer.post(f"{V1}/requests", json=command),
        viewer.post(f"{path}/steps/{step}/restartfromhere"),
        viewer.post(f"{PROCESSES}/{made['process']}/processruns"),
        viewer.post(f"{V1}/files/f-1"),
        set_property(viewer, step, day, "2026-01-01"),
    ):
        refused(answer, 403, "operator")
    assert viewer.get(path).json == made


def test_a_missing_or_wrong_token_is_refused_in_the_same_form(client: FlaskClient) -> None:
    anyone = client.application.test_client()

    for headers in ({}, {"Authorization": "Bearer nope"}):
        for path in (f"{RUNS}/pr-1", f"{V1}/logs", f"{V1}/processes/none/at/all"):
            answer = anyone.get(path, headers=headers)
            refused(answer, 401)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_another_tenants_rows_are_not_there(reference_client: FlaskClient, engine: Engine) -> None:
    theirs = "SET tenant_id = (SELECT id FROM tenants WHERE name = 'default')"
    with engine.begin() as connection:
        for table in ("runs", "steps", "artifacts"):
            connection.execute(text(f"UPDATE {table} {theirs}"))

    for path in (f"{RUNS}/{RUN}", f"{RUNS}/{RUN}/steps", f"{V1}/steps/ds-12490"):
        refused(reference_client.get(path), 404)
    refused(reference_client.post(f"{RUNS}/{RUN}/cancel"), 404)
    refused(reference_client.get(f"{V1}/files/f-501"), 404)
    assert reference_client.get(f"{PROCESSES}/p-9001/processruns").json == []
