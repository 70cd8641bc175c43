"""Search for executions."""

from typing import Any
from urllib.parse import urlencode

from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from tests.contracts.adapters.opendatadsl import ROOT
from tests.support import reference_tenant

FORM = "application/x-www-form-urlencoded"
NAMES = {str(run_id): name for name, run_id in reference_tenant.RUNS.items()}


def search(reference_client: FlaskClient, **query: Any) -> TestResponse:
    """The response to a valid query."""
    answer = reference_client.get(ROOT, query_string=query)
    assert answer.status_code == 200, answer.headers.get("x-odsl-error")
    return answer


def matches(reference_client: FlaskClient, query: Any) -> set[str]:
    """The names of the reference runs that a query matches."""
    query_string = query if isinstance(query, str) else urlencode(query)
    answer = reference_client.get(f"{ROOT}?_project=_id&{query_string}")
    assert answer.status_code == 200, (query, answer.headers.get("x-odsl-error"))
    ids = {NAMES[each["_id"]] for each in answer.json}
    assert int(answer.headers["x-total-count"]) == len(ids)
    return ids


def execute(engine: Engine, sql: str, **values: Any) -> None:
    """Execute SQL for a state that no endpoint produces."""
    with engine.begin() as connection:
        connection.execute(text(sql), values)
