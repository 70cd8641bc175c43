"""The refusals of every published API: one suite over all five."""

from http import HTTPStatus
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.contracts import CONTRACTS
from api.toolkit.problems import Problem
from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.errors import Mistake
from orchestrator.models import Run
from orchestrator.states import RunState
from tests.contracts.adapter import Adapter
from tests.contracts.runs import default_tenant, reference_run
from tests.support import reference_tenant
from tests.support.factories import GRACE, a_run, a_spec

TYPES = ("application/json", "application/octet-stream", "text/xml", "")
STATUSES = (400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503)


def test_an_unknown_id_is_not_found(
    adapter: Adapter, ours: FlaskClient, database: Database
) -> None:
    tenant_id = default_tenant(database)

    assert adapter.refusal(adapter.read(ours, tenant_id, adapter.unknown_id)) == 404
    for act in (adapter.cancel, adapter.retry):
        answer = act(ours, tenant_id, adapter.unknown_id)
        assert answer is None or adapter.refusal(answer) == 404


def test_an_id_in_another_form_is_refused(
    adapter: Adapter, ours: FlaskClient, database: Database
) -> None:
    tenant_id = default_tenant(database)

    for malformed in adapter.malformed_ids:
        for act in (adapter.read, adapter.cancel, adapter.retry):
            answer = act(ours, tenant_id, malformed)
            assert answer is None or adapter.refusal(answer) in (400, 404, 405, 422), malformed


def test_another_tenants_run_is_not_there(
    adapter: Adapter, reference_client: FlaskClient, ours: FlaskClient, database: Database
) -> None:
    run = reference_run(database, "running")
    assert (
        adapter.read(reference_client, reference_tenant.TENANT, adapter.wire_id(run)).status_code
        == 200
    )

    for tenant_id in (default_tenant(database), reference_tenant.TENANT):
        for act in (adapter.read, adapter.cancel, adapter.retry):
            answer = act(ours, tenant_id, adapter.wire_id(run))
            assert answer is None or adapter.refusal(answer) == 404, answer.text

    page = adapter.page(
        ours, default_tenant(database), limit=10, offset=0, workflow="invoice_export"
    )
    assert page.status_code != 200 or adapter.wire_id(run) not in page.text
    assert reference_run(database, "running").state == RunState.RUNNING


def test_without_a_valid_key_every_request_is_refused(
    adapter: Adapter, reference_client: FlaskClient, database: Database
) -> None:
    run = reference_run(database, "failed")
    for credentials in ({}, adapter.credentials("ok_wrong_key_0123456789")):
        stranger = reference_client.application.test_client()
        for name, value in credentials.items():
            stranger.environ_base[f"HTTP_{name.upper().replace('-', '_')}"] = value
        answers = [
            adapter.read(stranger, run.tenant_id, adapter.wire_id(run)),
            adapter.page(stranger, run.tenant_id, limit=1, offset=0, workflow="invoice_export"),
        ]
        assert [adapter.refusal(answer) for answer in answers] == [401, 401]

    friend = reference_client.application.test_client()
    for name, value in adapter.credentials(reference_tenant.SECRET).items():
        friend.environ_base[f"HTTP_{name.upper().replace('-', '_')}"] = value
    assert adapter.read(friend, run.tenant_id, adapter.wire_id(run)).status_code == 200


def _cancelled(database: Database) -> Run:
    run = a_run(database, a_spec(steps=2), window=0)
    with database.transaction() as session:
        return runs.cancel(session, run.tenant_id, run.id, grace=GRACE)


class _Mislabelling(FlaskClient):
    """Sends a Content-Type without a body."""

    of_type = ""

    def open(self, *args: Any, **options: Any) -> Any:
        if options.get("json") is None and not options.get("data"):
            options = {**options, "headers": {**dict(options.get("headers") or {})}}
            options.pop("json", None)
            options["headers"]["Content-Type"] = self.of_type
        return super().open(*args, **options)


@pytest.mark.parametrize("content_type", TYPES)
def test_an_empty_body_is_no_body_whatever_it_is_called(
    adapter: Adapter, ours: FlaskClient, database: Database, content_type: str
) -> None:
    client = _Mislabelling(ours.application)
    client.environ_base.update(ours.environ_base)
    client.of_type = content_type
    run, ended = a_run(database, a_spec(steps=2), window=0), _cancelled(database)

    answers = [
        adapter.read(client, run.tenant_id, adapter.wire_id(run)),
        adapter.cancel(client, run.tenant_id, adapter.wire_id(run)),
    ]

    assert [each.status_code for each in answers if each is not None] == [200] * (
        2 - answers.count(None)
    )
    read = adapter.read(client, ended.tenant_id, adapter.wire_id(ended))
    assert read.status_code == 200


@pytest.mark.parametrize("status", STATUSES)
def test_every_refusal_has_the_published_form(
    adapter: Adapter, ours: FlaskClient, status: int
) -> None:
    (contract,) = [each for each in CONTRACTS if each.name == adapter.name]
    mistakes = (Mistake("/query/limit", "what is wrong"),) if status == 422 else ()
    problem = Problem(
        status=HTTPStatus(status), code="some_code", detail="what is wrong", mistakes=mistakes
    )
    with ours.application.test_request_context() as context:
        rendered = contract.finish(contract.render(problem))
        sent = (rendered.iter_encoded(), rendered.status, rendered.headers)
        answer = TestResponse(*sent, request=context.request)

    meant = adapter.refusal(answer)

    assert meant == status or (meant in (400, 422) and status in (400, 409, 413, 415, 422))
    text = answer.text + str(answer.headers)
    assert "what is wrong" in text or status in (401, 403, 404, 405, 500)
