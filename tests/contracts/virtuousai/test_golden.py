"""VirtuousAI's automation runs: the exact bodies of the reference tenant, and the document."""

import json
from typing import Any

from flask.testing import FlaskClient

from api.contracts.virtuousai.surface import TOKENS
from tests.contracts.adapters.virtuousai import AUTOMATIONS, RUNS, body_of
from tests.contracts.conftest import Golden
from tests.contracts.virtuousai.helpers import AUTOMATION, EVENTS, NOBODY, REFERENCE, RUN, follow
from tests.support import reference_tenant
from tests.support.factories import KEY

NOW = "<now>"


def _without_now(shown: dict[str, Any], *names: str) -> dict[str, Any]:
    """The body with what depends on now, or on chance, replaced."""
    return {name: NOW if name in names and value else value for name, value in shown.items()}


def test_the_bodies_are_as_published(reference_api: FlaskClient, golden: Golden) -> None:
    for name, path in {
        "runs": RUNS,
        "runs_failed": f"{RUNS}?status=failed&limit=1",
        "run": RUN,
        "steps": f"{RUN}/steps",
        "automations": AUTOMATIONS,
        "automation": AUTOMATION,
        "events": EVENTS,
        "events_of_a_kind": f"{EVENTS}?event_type=action.failed&resource_id={reference_tenant.RUN}",
    }.items():
        golden(f"virtuousai/{name}", body_of(reference_api.get(path, headers=REFERENCE)))


def test_the_changes_answer_as_published(reference_api: FlaskClient, golden: Golden) -> None:
    def answer(path: str, body: Any = None) -> dict[str, Any]:
        shown = body_of(reference_api.post(path, json=body, headers=REFERENCE))
        return _without_now(shown, "updatedAt", "completedAt", "externalJobId")

    golden("virtuousai/cancel", answer(f"{RUNS}/{reference_tenant.RUNS['pending']}/cancel"))
    golden("virtuousai/retry", answer(f"{RUN}/retry", {"mode": "from_step", "stepKey": "push"}))
    started = answer(f"{AUTOMATION}/runs", {"input": {"day": "2026-04-01"}, "concurrencyKey": "k"})
    golden("virtuousai/trigger", _without_now(started, "id", "createdAt"))
    config = {"steps": [{"key": "load", "uses": "noop"}]}
    made = answer(AUTOMATIONS, {"name": "Invoice Export", "config": config})
    golden("virtuousai/make", _without_now(made, "id", "createdAt"))


def test_the_stream_is_as_published(reference_api: FlaskClient, golden: Golden) -> None:
    parts = list(follow(reference_api, str(reference_tenant.RUN), **REFERENCE))

    golden("virtuousai/stream", "".join(parts).split("\n"))


def test_the_refusals_are_as_published(reference_api: FlaskClient, golden: Golden) -> None:
    def answer(path: str, body: Any = None) -> list[Any]:
        response = reference_api.post(path, json=body, headers=REFERENCE)
        return [response.status_code, response.json]

    def seen(path: str, headers: dict[str, str] = REFERENCE) -> list[Any]:
        response = reference_api.get(path, headers=headers)
        return [response.status_code, response.json]

    golden(
        "virtuousai/refusals",
        {
            "cancel of a failed run": answer(f"{RUN}/cancel"),
            "from_step without a step": answer(f"{RUN}/retry", {"mode": "from_step"}),
            "from_step of no step": answer(f"{RUN}/retry", {"mode": "from_step", "stepKey": "x"}),
            "retry of a running run": answer(f"{RUNS}/{reference_tenant.RUNS['running']}/retry"),
            "no name and no config": answer(AUTOMATIONS, {}),
            "no key": seen(RUNS, {}),
            "unknown run": seen(f"{RUNS}/{NOBODY}"),
            "another tenant's run": seen(RUN, {"X-API-Key": KEY}),
            "malformed run": seen(f"{RUNS}/nonsense"),
            "unknown status": seen(f"{RUNS}?status=succeeded"),
        },
    )


def test_the_document_has_every_address_with_its_refusals(client: FlaskClient) -> None:
    document: Any = client.get("/openapi/virtuousai.json").json

    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in ("get", "post")
    }
    assert sorted(operations) == sorted(
        [
            f"GET {RUNS}", f"GET {RUNS}/{{run_id}}", f"POST {RUNS}/{{run_id}}/cancel",
            f"GET {RUNS}/{{run_id}}/events", f"POST {RUNS}/{{run_id}}/retry",
            f"GET {RUNS}/{{run_id}}/steps", f"GET {AUTOMATIONS}", f"POST {AUTOMATIONS}",
            f"GET {AUTOMATIONS}/{{automation_id}}", f"POST {AUTOMATIONS}/{{automation_id}}/runs",
            f"GET {EVENTS}", f"GET {TOKENS}", f"POST {TOKENS}", f"GET {TOKENS}/{{token_id}}",
        ]
    )  # fmt: skip
    for operation in operations.values():
        shown = json.dumps(operation["responses"])
        assert "#/components/schemas/Unprocessable" in shown
        assert "#/components/schemas/Refused" in shown
        assert operation["summary"]
    retry = document["components"]["schemas"]["RetryBody"]["properties"]
    assert sorted(retry) == ["mode", "stepKey"]
