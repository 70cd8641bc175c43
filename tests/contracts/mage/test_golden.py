"""The exact body of every address of Mage's pipeline runs, for the reference tenant."""

import re
from typing import Any

from flask.testing import FlaskClient

from orchestrator.access.signing import trigger_token
from tests.contracts.conftest import Golden
from tests.support import reference_tenant

RUNS, TRIGGERS = "/api/pipeline_runs", "/api/pipeline_schedules"
RUN = f"{RUNS}/{reference_tenant.NUMBERS['failed']}"
TRIGGER = f"{TRIGGERS}/71"
PIPELINE = f"/api/pipelines/{reference_tenant.SPEC['name']}"
KEY = {"X-API-KEY": reference_tenant.SECRET}
NOW = r"(?!2026-04-02)\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?\+00:00"
NEW = ("trigger", "api_trigger", "start_run", "make_schedule")  # what they give has a new id

# In the order of the requests: reads first, and each after the changes of the ones before.
ASKED: list[tuple[str, str, str, Any]] = [
    ("list_runs", "GET", RUNS, None),
    ("list_runs_page", "GET", f"{RUNS}?_limit=1&status=completed", None),
    ("list_schedule_runs", "GET", f"{TRIGGER}/pipeline_runs?_limit=1&_offset=0", None),
    ("show_run", "GET", RUN, None),
    (
        "list_blocks",
        "GET",
        f"/api/block_runs?pipeline_run_id={reference_tenant.NUMBERS['failed']}",
        None,
    ),
    ("list_run_blocks", "GET", f"{RUN}/block_runs?_limit=1", None),
    ("show_schedule", "GET", TRIGGER, None),
    ("list_schedules", "GET", TRIGGERS, None),
    ("list_pipeline_schedules", "GET", f"{PIPELINE}/pipeline_schedules", None),
    ("list_pipelines", "GET", "/api/pipelines", None),
    ("show_pipeline", "GET", f"{PIPELINE}?include_schedules=1", None),
    ("list_statuses", "GET", "/api/statuses", None),
    (
        "make_session",
        "POST",
        "/api/sessions",
        {"session": {"email": "ada@example.org", "password": reference_tenant.SECRET}},
    ),
    ("cancel_ended", "PUT", RUN, {"pipeline_run": {"status": "cancelled"}}),
    (
        "cancel_waiting",
        "PUT",
        f"{RUNS}/{reference_tenant.NUMBERS['pending']}",
        {"pipeline_run": {"status": "cancelled"}},
    ),
    ("delete_run", "DELETE", f"{RUNS}/{reference_tenant.NUMBERS['cancelled']}", None),
    ("trigger", "POST", f"{TRIGGER}/pipeline_runs/TOKEN", {"source": "billing"}),
    ("api_trigger", "POST", f"{TRIGGER}/api_trigger", {"pipeline_run": {"variables": {}}}),
    ("start_run", "POST", f"{TRIGGER}/pipeline_runs", {"pipeline_run": {}}),
    ("retry_blocks", "PUT", RUN, {"pipeline_run": {"pipeline_run_action": "retry_blocks"}}),
    ("put_pipeline", "PUT", PIPELINE, {"pipeline": {"status": "retry_incomplete_block_runs"}}),
    (
        "make_schedule",
        "POST",
        f"{PIPELINE}/pipeline_schedules",
        {"pipeline_schedule": {"name": "late forest", "schedule_interval": "@daily"}},
    ),
    ("put_schedule", "PUT", TRIGGER, {"pipeline_schedule": {"description": "by the ledger"}}),
    ("delete_schedule", "DELETE", TRIGGER, None),
    ("unknown_run", "GET", f"{RUNS}/999999", None),
    ("unknown_run_real", "GET", f"{RUNS}/999999?_http_error_codes=1", None),
    ("wrong_token", "POST", f"{TRIGGER}/pipeline_runs/0f3b6c0d9a5e4c0b8a7766554433aa11", None),
]


def test_every_address_answers_as_it_always_did(reference_api: FlaskClient, golden: Golden) -> None:
    secret = reference_api.application.extensions["orchestrator"].secret_key
    token = trigger_token(secret, reference_tenant.SCHEDULE, 1)
    for name, method, path, body in ASKED:
        bearer = {"Authorization": f"Bearer {token}"} if name == "api_trigger" else KEY
        address = path.replace("TOKEN", token)
        reply = reference_api.open(address, method=method, json=body, headers=bearer)
        golden(f"mage/{name}", [reply.status_code, _plain(reply.json, token, name in NEW)])
    wrong = reference_api.get(RUNS, headers={"X-API-KEY": "wrong"})
    golden("mage/wrong_key", [wrong.status_code, wrong.json])


def _plain(value: Any, token: str, is_new: bool, name: str = "") -> Any:
    """The body, with placeholders for what depends on now and on how often tests ran."""
    if isinstance(value, dict):
        return {key: _plain(each, token, is_new, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, token, is_new, name) for each in value]
    if name == "id" and is_new:
        return "<id>"
    if isinstance(value, str) and name.endswith(("_at", "_date", "expires")):
        return re.sub(NOW, "<now>", value)
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value):
        return "<token>" if value == token else "<another token>"
    return value
