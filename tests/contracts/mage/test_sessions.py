"""Mage's sessions and statuses, which need no key."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.contracts.mage.helpers import answered, refused
from tests.support.api_keys import a_key
from tests.support.factories import KEY

SESSIONS = "/api/sessions"


@pytest.mark.row("GET /api/statuses: one status, without a key")
def test_the_status_is_told_to_everybody(nobody: FlaskClient) -> None:
    reply = answered(nobody.get("/api/statuses"))

    (status,) = reply["statuses"]
    assert status["scheduler_status"] in ("running", "stopped")
    assert status["require_user_authentication"] is True
    assert set(status) >= {"is_instance_manager", "project_type", "repo_path", "instance_type"}


@pytest.mark.row("POST /api/sessions: `expires`, `token` and `user`; a wrong password is code 404")
@pytest.mark.usefixtures("no_keys_left")
def test_a_key_and_a_client_sign_in(client: FlaskClient, nobody: FlaskClient) -> None:
    viewer = a_key(client, "viewer", user="anna")
    oauth = a_key(client, "operator", kind="oauth_client")

    def sign_in(**members: Any) -> dict[str, Any]:
        return dict(answered(nobody.post(SESSIONS, json={"session": members}))["session"])

    def reads(token: str) -> int:
        return nobody.get("/api/pipelines", headers={"OAUTH-TOKEN": token}).status_code

    by_key = sign_in(email="anna", password=viewer["key"])
    by_client = sign_in(username=oauth["client_id"], password=oauth["client_secret"])
    assert (by_key["user"]["username"], by_key["user"]["roles_display"]) == ("anna", "Viewer")
    assert by_key["token"] == viewer["key"]
    assert (by_client["user"]["owner"], by_client["user"]["roles_display"]) == (False, "Editor")
    assert by_client["token"].startswith("eyJ")
    assert (reads(by_key["token"]), reads(by_client["token"])) == (200, 200)
    for wrong in (
        {"email": "bert", "password": viewer["key"]},
        {"email": "anna", "password": "wrong"},
        {"username": oauth["client_id"], "password": "wrong"},
        {"email": "\x00", "password": "\x00"},
    ):
        reply = nobody.post(SESSIONS, json={"session": wrong})
        assert reply.status_code == 200
        if "\x00" not in wrong["password"]:
            error = refused(reply, 404, "record_not_found")
            assert error["message"] == "Email/username and/or password invalid."


def test_a_session_needs_both(client: FlaskClient, nobody: FlaskClient) -> None:
    for body in ({}, {"email": "anna"}, {"password": KEY}, {"email": "", "password": None}):
        error = refused(nobody.post(SESSIONS, json={"session": body}), 404, "record_not_found")
        assert error["message"] == "Email/username and password are required."
    refused(nobody.post(SESSIONS, json={}), 400, "record_invalid")
    large = nobody.post(SESSIONS, json={"session": {"email": "x" * 70_000, "password": "x"}})
    refused(large, 413, "api_resource_error")
    refused(client.get(SESSIONS), 405, "api_resource_error")
