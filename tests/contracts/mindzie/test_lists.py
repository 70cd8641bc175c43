"""Lists of jobs, and the queue."""

from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.mindzie import body_of
from tests.contracts.mindzie.helpers import JOBS, fields_of, submit
from tests.integration.monitoring.test_status import a_report, say
from tests.support import reference_tenant
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


def test_pages_are_of_at_most_a_hundred(reference_client: FlaskClient) -> None:
    body = body_of(reference_client.get(f"{JOBS}/jobs?pageSize=101"))

    assert (body["page"], body["pageSize"], body["hasNextPage"]) == (1, 100, False)
    last = body_of(reference_client.get(f"{JOBS}/jobs?page=2147483647&pageSize=100"))
    assert last["jobs"] == []


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
