"""What a body of the execution jobs API asks the core for."""

from typing import Any
from uuid import UUID

from api.contracts.mindzie.requests import new_run
from orchestrator.access.authentication import Principal
from orchestrator.models import Role

WHO = Principal(tenant_id=UUID(int=1), name="ci", role=Role.OPERATOR, key_id=UUID(int=2))


def _told(**notifications: Any) -> Any:
    resource = {"resource_type": "Pipeline", "resource_id": "work"}
    body = {"job_name": "Q1", "job_type": "Analysis", "priority": None, "parameters": None}
    return new_run(
        {**body, "resource": resource, "notifications": notifications}, "work", WHO
    ).notifications


def test_mail_is_told_of_what_was_chosen() -> None:
    ana = ["ana@example.org"]

    assert _told(on_completion=True, on_failure=True, email_recipients=ana) == {
        "events": ["run.succeeded", "run.failed", "run.timed_out"], "mail": ana,
    }  # fmt: skip
    assert _told(on_failure=True, email_recipients=ana)["events"] == ["run.failed", "run.timed_out"]
    assert _told(email_recipients=ana) is None
    assert _told(on_failure=True, email_recipients=[]) is None
