"""The core's requests made of bodies of the execution jobs API."""

from typing import Any
from uuid import UUID

from api.contracts.mindzie.requests import new_run
from orchestrator.access.authentication import Principal
from orchestrator.models import Role

WHO = Principal(tenant_id=UUID(int=1), name="ci", role=Role.OPERATOR, key_id=UUID(int=2))


def _notifications(**notifications: Any) -> Any:
    resource = {"resource_type": "Pipeline", "resource_id": "work"}
    body = {"job_name": "Q1", "job_type": "Analysis", "priority": None, "parameters": None}
    return new_run(
        {**body, "resource": resource, "notifications": notifications}, "work", WHO
    ).notifications


def test_notifications_have_the_chosen_events() -> None:
    ana = ["ana@example.org"]

    assert _notifications(on_completion=True, on_failure=True, email_recipients=ana) == {
        "events": ["run.succeeded", "run.failed", "run.timed_out"], "mail": ana,
    }  # fmt: skip
    assert _notifications(on_failure=True, email_recipients=ana)["events"] == [
        "run.failed",
        "run.timed_out",
    ]
    assert _notifications(email_recipients=ana) is None
    assert _notifications(on_failure=True, email_recipients=[]) is None
