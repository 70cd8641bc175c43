"""The cost of a page of runs in every API with many runs (`RUNS`, 1,000,000)."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import requests
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.models import Project, Tenant
from tests.bench import many
from tests.bench.ask import engine_of, session_of
from tests.bench.report import Report
from tests.bench.usage import using

RUNS = int(os.environ.get("RUNS", "1000000"))
REQUESTS = 200  # of each list
MAX_TOTAL = 20_000.0  # milliseconds spent on one list, at most
SMALL = 1_000_000  # runs up to which the first budget applies
BUDGETS = (30.0, 60.0)  # milliseconds, p99


class Ids(NamedTuple):
    """Ids of the bench's objects in the paths of the contracts."""

    tenant_id: str
    project_id: str
    schedule: int
    workflow: int


def measure(stack: Stack, total: int = RUNS, requests_each: int = REQUESTS) -> Report:
    """Milliseconds of each list, requested over HTTP one after the other."""
    http = session_of(stack)
    report = Report("lists", f"milliseconds of a list at {total:,} runs")
    ids = _filled(stack, http, total)
    budget = BUDGETS[total > SMALL]
    with using(stack) as report.used["all"]:
        for name, path in _lists(ids):
            times = _timed(http, stack.url + path, requests_each)
            report.add(name, times, at_most=budget, of="p99")
    return report


def _lists(ids: Ids) -> Iterator[tuple[str, str]]:
    """Name and path: a single row for comparison, each API's first page, and its filters."""
    now = datetime.now(UTC)
    since, until = (now - timedelta(days=60)), (now - timedelta(days=30))
    day, until_day = since.date().isoformat(), until.date().isoformat()
    epochs = f"start_timestamp={int(since.timestamp())}&end_timestamp={int(until.timestamp())}"
    odsl = "/api/process-exec/v1/private"
    yield "one workflow", "/api/v1/workflows/bench-0"
    yield "native, first page", "/api/v1/runs?limit=100"
    yield "native, failed", "/api/v1/runs?state=failed&limit=100"
    yield "native, a rare tag", "/api/v1/runs?tag=rare&limit=100"
    yield "native, a tag of every third", "/api/v1/runs?tag=often&limit=100"
    yield "OpenDataDSL, first page", odsl
    yield "OpenDataDSL, only the total", f"{odsl}?_limit=1"
    yield "OpenDataDSL, failed in a month", f"{odsl}?status=failed&start=range({day},{until_day})"
    yield "OpenDataDSL, of a name that failed", f"{odsl}?name=bench-3&status=failed"
    yield (
        "OpenDataDSL, _filter",
        (f"{odsl}?_filter=(status=failed or status=warning) and name=bench-15&start=gt({day})"),
    )
    yield "OpenDataDSL, phases.status", f"{odsl}?phases.status=failed&_limit=10"
    yield (
        "SolveXia, runs of a process since",
        (f"/api/v1/processes/p-{ids.workflow}/processruns?dateCreatedStart={day}"),
    )
    runs = "/api/pipeline_runs"
    of_one = f"/api/pipeline_schedules/{ids.schedule}/pipeline_runs"
    yield "Mage, first page", runs
    yield "Mage, of a schedule", of_one
    yield "Mage, failed", f"{runs}?status=failed"
    yield "Mage, failed of a schedule in a month", f"{of_one}?status=failed&{epochs}"
    yield "Mage, failed in a month", f"{runs}?status=failed&{epochs}"
    jobs = f"/api/{ids.tenant_id}/{ids.project_id}/execution/jobs"
    yield "mindzie, first page", jobs
    yield "mindzie, failed in a month", f"{jobs}?status=Failed&dateFrom={day}&dateTo={until_day}"
    yield "mindzie, high", f"{jobs}?priority=High&pageSize=100"
    yield "VirtuousAI, first page", "/api/v1/automation-runs"
    yield "VirtuousAI, failed", "/api/v1/automation-runs?status=failed"
    yield "VirtuousAI, pending", "/api/v1/automation-runs?status=pending"


def _timed(http: requests.Session, url: str, requests_each: int) -> list[float]:
    for _ in range(5):
        response = http.get(url, timeout=60)
        assert response.status_code == 200, (url, response.text[:500])
        assert "error" not in response.text[:20], (url, response.text[:500])
    times: list[float] = []
    while len(times) < requests_each and sum(times) < MAX_TOTAL:
        began = time.perf_counter()
        http.get(url, timeout=60)
        times.append((time.perf_counter() - began) * 1000)
    return times


def _filled(stack: Stack, http: requests.Session, total: int) -> Ids:
    client = Client(stack.url, stack.key)
    steps = [{"key": "s0", "uses": "noop"}, {"key": "s1", "uses": "noop"}]
    names = [f"bench-{each}" for each in range(many.WORKFLOWS)]
    numbers = [client.apply({"name": name, "steps": steps})["number"] for name in names]
    schedules = [
        http.post(
            f"{stack.url}/api/v1/schedules", json={"workflow": name, "type": "api", "name": name}
        ).json()
        for name in names[: many.SCHEDULES]
    ]
    engine = engine_of(stack)
    with Session(engine) as session, session.begin():
        tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == "default")).one()
        project_id = session.scalars(select(Project.id).where(Project.tenant_id == tenant_id)).one()
        many.fill(session.connection(), tenant_id, total)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        many.settle(connection)
    return Ids(str(tenant_id), str(project_id), schedules[0]["number"], numbers[3])
