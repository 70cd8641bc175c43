"""Lists of jobs, and the queue."""

from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator.db.database import Database
from tests.contracts.adapters.mindzie import body_of
from tests.contracts.mindzie.helpers import JOBS, fields_of, submit
from tests.integration.monitoring.test_status import a_report, say
from tests.support import reference_tenant
from tests.support.factories import a_run, a_spec
from tests.support.statement_recorder import recorded_statements

FILTERS: list[tuple[str, list[str]]] = [
    ("status=queued", ["pending"]),
    ("status=Running", ["running"]),
    ("status=COMPLETED", ["succeeded"]),
    ("status=Failed&jobType=analysis", ["failed"]),
    ("jobType=Notebook", []),
    ("priority=high", ["failed"]),
    ("submittedBy=ana.ruiz&status=Cancelled", ["cancelled"]),
    ("submittedBy=nobody", []),
    ("dateFrom=2026-04-02T08:02:00Z", ["cancelled", "running"]),
    ("dateFrom=2026-04-02T10:02:00%2B02:00&dateTo=2026-04-02T08:02:00", ["running"]),
    ("dateFrom=2026-04-02T10:02:00+02:00&dateTo=2026-04-02T08:02:00.120034Z", ["running"]),
    ("dateTo=2026-04-02T08:00:00.120033", ["succeeded"]),
    ("dateFrom=2026-04-02&dateTo=2026-04-02&pageSize=1&page=5", ["succeeded"]),
    ("dateTo=2026-04-01", []),
    ("dateTo=9999-12-31&pageSize=1", ["cancelled"]),
    ("status=Queued&unknown=1", ["pending"]),
]


WRONG_QUERIES = [
    ("pageSize=0", "/query/pageSize"),
    ("page=0", "/query/page"),
    ("page=x", "/query/page"),
    ("page=99999999999999999999", "/query/page"),
    ("status=Pending", "/query/status"),
    ("jobType=", "/query/jobType"),
    ("priority=5", "/query/priority"),
    ("dateFrom=yesterday", "/query/dateFrom"),
    ("dateTo=2026-13-01", "/query/dateTo"),
]


@pytest.mark.row("mindzie GET jobs: status, jobType, priority, submittedBy, dateFrom, dateTo")
def test_jobs_are_filtered(reference_client: FlaskClient) -> None:
    for query, names in FILTERS:
        body = body_of(reference_client.get(f"{JOBS}/jobs?{query}"))

        ids = [each["jobId"] for each in body["jobs"]]
        assert ids == [str(reference_tenant.RUNS[name]) for name in names], query
        assert body["summary"]["totalJobs"] == 5


def test_a_page_asks_the_same_questions_however_long_it_is(reference_client: FlaskClient) -> None:
    counts = []
    for size in (2, 5):
        with recorded_statements(reference_client) as statements:
            page = body_of(reference_client.get(f"{JOBS}/jobs?pageSize={size}"))
        assert len(page["jobs"]) == size
        counts.append(len(statements))

    assert counts[0] == counts[1]


@pytest.mark.row("mindzie GET jobs: page, pageSize, hasNextPage")
def test_pages_are_of_at_most_a_hundred(reference_client: FlaskClient) -> None:
    body = body_of(reference_client.get(f"{JOBS}/jobs?pageSize=101"))

    assert (body["page"], body["pageSize"], body["hasNextPage"]) == (1, 100, False)
    last = body_of(reference_client.get(f"{JOBS}/jobs?page=2147483647&pageSize=100"))
    assert last["jobs"] == []


@pytest.mark.row("mindzie GET jobs, system/status: a held or scheduled job counts in both")
def test_a_job_that_is_held_counts_alike_in_the_list_and_in_the_system(
    client: FlaskClient, jobs: str, database: Database, tenant_id: UUID
) -> None:
    def queued() -> tuple[int, dict[str, Any]]:
        summary = body_of(client.get(f"{jobs}/jobs"))["summary"]
        system = body_of(client.get(f"/api/{tenant_id}/execution/system/status"))
        return summary["queuedJobs"], system["queueStatistics"]

    say(database, a_report())
    assert queued()[1]["estimatedProcessingTime"] == "0 seconds"
    a_run(database, a_spec(steps=2), start=False, priority=7)
    later = {"executeImmediately": False, "scheduledTime": "2099-01-01T08:00:00Z"}
    submit(client, jobs, scheduling=later, priority="Low")
    for key in ("first", "second"):
        a_run(database, a_spec(steps=2), concurrency_key="ledger", name=key)

    of_list, of_system = queued()

    assert of_list == of_system["totalQueuedJobs"] == 4
    assert [of_system[f"{each}PriorityJobs"] for each in ("high", "normal", "low")] == [1, 2, 1]
    assert of_system["estimatedProcessingTime"] == "unknown"  # not 0: nothing can tell


@pytest.mark.row("mindzie GET system/status: estimates are not zero while something waits")
def test_an_estimate_is_not_zero_while_a_job_waits(
    client: FlaskClient, jobs: str, database: Database, engine: Engine, tenant_id: UUID
) -> None:
    def estimate() -> str:
        system = body_of(client.get(f"/api/{tenant_id}/execution/system/status"))
        return str(system["queueStatistics"]["estimatedProcessingTime"])

    say(database, a_report())  # of two processes
    for number in range(3):
        submit(client, jobs, parameters={"number": number})
    assert estimate() == "unknown"
    done = a_run(database, a_spec("other"), window=0)
    change = "UPDATE runs SET state = 'succeeded', started_at = now() - interval '252 s'"
    with engine.begin() as connection:
        connection.execute(text(f"{change}, finished_at = now() WHERE id = :id"), {"id": done.id})

    assert estimate() == "6.3 minutes"  # three jobs of 4.2 minutes each, two at once
    assert body_of(client.get(f"{jobs}/queue"))["summary"]["estimatedProcessingTime"] == estimate()


def test_a_page_of_the_queue(client: FlaskClient, jobs: str) -> None:
    made = [submit(client, jobs, parameters={"n": number})["jobId"] for number in range(3)]

    pages = [body_of(client.get(f"{jobs}/queue?page={at}&pageSize=2")) for at in (1, 2, 3)]

    shown = [[each["jobId"] for each in page["queuedJobs"]] for page in pages]
    assert shown == [made[:2], made[2:], []]
    assert fields_of(client.get(f"{jobs}/queue?page=0")) == ["/query/page"]


def test_a_wrong_query_is_refused_with_its_place(reference_client: FlaskClient) -> None:
    for query, field in WRONG_QUERIES:
        assert fields_of(reference_client.get(f"{JOBS}/jobs?{query}")) == [field], query


def test_the_queue_has_the_jobs_that_wait_in_their_order(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    say(database, a_report())
    low, normal = (submit(client, jobs, priority=each)["jobId"] for each in ("Low", "Normal"))
    high = submit(client, jobs, priority="High", jobType="Notebook")["jobId"]

    body = body_of(client.get(f"{jobs}/queue"))

    places = [(each["jobId"], each["queuePosition"]) for each in body["queuedJobs"]]
    assert places == [(high, 1), (normal, 2), (low, 3)]
    assert body["summary"]["totalQueuedJobs"] == 3
    assert body["processingCapacity"]["activeWorkers"] == 1
    only = body_of(client.get(f"{jobs}/queue?jobType=notebook&includeEstimates=false"))
    (shown,) = only["queuedJobs"]
    assert shown["jobId"] == high
    assert "estimatedStartTime" not in shown
    assert body_of(client.get(f"{jobs}/queue?priority=Critical"))["queuedJobs"] == []
