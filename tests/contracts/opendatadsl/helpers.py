"""How these tests ask for executions, and what they find."""

from typing import Any
from urllib.parse import urlencode

from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from tests.contracts.adapters.opendatadsl import ROOT
from tests.support import reference_tenant

FORM = "application/x-www-form-urlencoded"
NAMES = {str(run_id): name for name, run_id in reference_tenant.RUNS.items()}


def ask(api: FlaskClient, **query: Any) -> TestResponse:
    """The answer to a query that can be used."""
    answer = api.get(ROOT, query_string=query)
    assert answer.status_code == 200, answer.headers.get("x-odsl-error")
    return answer


def found(api: FlaskClient, query: Any) -> set[str]:
    """The names of the reference's runs that a query finds."""
    given = query if isinstance(query, str) else urlencode(query)
    answer = api.get(f"{ROOT}?_project=_id&{given}")
    assert answer.status_code == 200, (query, answer.headers.get("x-odsl-error"))
    ids = {NAMES[each["_id"]] for each in answer.json}
    assert int(answer.headers["x-total-count"]) == len(ids)
    return ids


def put(engine: Engine, sql: str, **values: Any) -> None:
    """Write into the tables what no address can."""
    with engine.begin() as connection:
        connection.execute(text(sql), values)
