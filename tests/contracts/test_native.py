"""The exact body of the addresses of the native API, for the reference tenant."""

import re
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from orchestrator.monitoring import workers
from tests.contracts.conftest import Golden
from tests.integration.monitoring.test_status import a_report
from tests.support import reference_tenant

V1 = "/api/v1"
RUN = f"{V1}/runs/{reference_tenant.RUN}"
SCHEDULE = f"{V1}/schedules/{reference_tenant.SCHEDULE}"
NOW = re.compile(r"(?!2026-04-02)\d{4}-\d\d-\d\dT[\d:.]+Z")
# What depends on when and how often tests run, or on a secret.
VARYING = {"url", "token", "secret", "hash", "next_cursor", "run_id", "host", "worker"}
NEW = VARYING | {"prefix", "id", "number", "workflow_id", "source_id", "key_id", "request_id"}
SPEC = {"name": "w", "steps": [{"key": "s", "uses": "noop"}]}
HOURLY = {"workflow": "w", "name": "n", "type": "interval", "every": "1h"}
HOOK = {"target": "https://hooks.example.com/x", "events": ["run.failed"]}
DAY = {"start_at": "2026-04-01T00:00:00Z", "end_at": "2026-04-02T00:00:00Z"}
READS = {
    "workflows": f"{V1}/workflows",
    "workflow": f"{V1}/workflows/{reference_tenant.SPEC['name']}",
    "versions": f"{V1}/workflows/{reference_tenant.SPEC['name']}/versions",
    "runs": f"{V1}/runs?state=failed&state=succeeded",
    "run": RUN,
    "run_pending": f"{V1}/runs/{reference_tenant.RUNS['pending']}",
    "steps": f"{RUN}/steps",
    "step": f"{RUN}/steps/push",
    "attempts": f"{RUN}/steps/push/attempts",
    "run_events": f"{RUN}/events",
    "explain": f"{RUN}/explain",
    "logs": f"{RUN}/logs",
    "artifacts": f"{RUN}/artifacts",
    "events": f"{V1}/runs/events?limit=3",
    "schedules": f"{V1}/schedules",
    "schedule": SCHEDULE,
    "firings": f"{SCHEDULE}/firings",
    "backfills": f"{V1}/backfills",
    "queues": f"{V1}/queues",
    "queue": f"{V1}/queues/default",
    "tenants": f"{V1}/tenants",
    "projects": f"{V1}/projects",
    "keys": f"{V1}/keys",
    "webhooks": f"{V1}/webhooks",
    "deliveries": f"{V1}/deliveries",
    "audit": f"{V1}/audit",
}
CHANGES: list[tuple[str, int, str, str, Any]] = [
    ("register", 201, "POST", f"{V1}/workflows", SPEC),
    ("submit", 201, "POST", f"{V1}/runs", {"workflow": "w", "tags": ["nightly"]}),
    ("batch", 201, "POST", f"{V1}/runs/batch", {"runs": [{"workflow": "w"}]}),
    ("cancel", 200, "POST", f"{V1}/runs/{reference_tenant.RUNS['pending']}/cancel", {}),
    ("retry", 200, "POST", f"{RUN}/retry", {"as": "new"}),
    ("make_schedule", 201, "POST", f"{V1}/schedules", HOURLY),
    ("make_key", 201, "POST", f"{V1}/keys", {"name": "reader", "role": "viewer"}),
    ("make_webhook", 201, "POST", f"{V1}/webhooks", HOOK),
    ("make_project", 201, "POST", f"{V1}/projects", {"name": "billing"}),
    ("refused_backfill", 409, "POST", f"{SCHEDULE}/backfills", DAY),
    ("refused_404", 404, "GET", f"{V1}/runs/{reference_tenant.KEY}", None),
    ("refused_409", 409, "POST", f"{V1}/runs/{reference_tenant.RUNS['succeeded']}/cancel", {}),
    ("refused_422", 422, "POST", f"{V1}/runs", {"priority": "high"}),
]


def _plain(value: Any, varying: set[str], name: str = "") -> Any:
    """The body, with placeholders for what varies."""
    if isinstance(value, dict):
        return {key: _plain(each, varying, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, varying, name) for each in value]
    is_secret = isinstance(value, str) and value.startswith("ok_")
    if value and (name in varying or (is_secret and name == "key")):
        return f"<{name}>"
    return "<now>" if isinstance(value, str) and NOW.fullmatch(value) else value


def test_what_is_read(reference_client: FlaskClient, golden: Golden) -> None:
    for name, address in READS.items():
        answer = reference_client.get(address)

        assert answer.status_code == 200, answer.text
        golden(f"native/{name}", _plain(answer.json, VARYING))


def test_the_workers_and_the_system(
    reference_client: FlaskClient, engine: Engine, golden: Golden
) -> None:
    with Session(engine) as session:
        workers.record_report(session, a_report())
        session.commit()

    for name, address in {"workers": f"{V1}/workers", "status": f"{V1}/system/status"}.items():
        answer = reference_client.get(address)
        assert answer.status_code == 200, answer.text
        golden(f"native/{name}", _plain(answer.json, VARYING | {"name"}))


def test_what_is_changed_and_refused(reference_client: FlaskClient, golden: Golden) -> None:
    for name, status, method, address, body in CHANGES:
        answer = reference_client.open(address, method=method, json=body)

        assert answer.status_code == status, answer.text
        golden(f"native/{name}", _plain(answer.json, NEW))
