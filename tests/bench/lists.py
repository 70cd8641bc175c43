"""W7: what a page of runs costs in every API when there are many runs (`RUNS`, 1,000,000)."""

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
ASKED = 200  # times each
LONGEST = 20_000.0  # milliseconds of asking for the same list
SMALL = 1_000_000  # runs, up to which the first budget counts
BUDGETS = (30.0, 60.0)  # milliseconds, p99


class Place(NamedTuple):
    """Where a contract has the bench's runs."""

    tenant_id: str
    project_id: str
    schedule: int
    workflow: int


def measure(stack: Stack, total: int = RUNS, asked: int = ASKED) -> Report:
    """The milliseconds of each list, asked one after the other over HTTP."""
    http = session_of(stack)
    report = Report("w7", f"milliseconds of a list at {total:,} runs")
    place = _filled(stack, http, total)
    budget = BUDGETS[total > SMALL]
    with using(stack) as report.used["all"]:
        for name, path in _asked(place):
            report.add(name, _timed(http, stack.url + path, asked), at_most=budget, of="p99")
    return report


def _asked(place: Place) -> Iterator[tuple[str, str]]:
    """One row, to compare with; every contract's first page, and its filters."""
    now = datetime.now(UTC)
    since, until = (now - timedelta(days=60)), (now - timedelta(days=30))
    day, last = since.date().isoformat(), until.date().isoformat()
    epochs = f"start_timestamp={int(since.timestamp())}&end_timestamp={int(until.timestamp())}"
    odsl = "/api/process-exec/v1/private"
    yield "one workflow", "/api/v1/workflows/bench-0"
    yield "native, first page", "/api/v1/runs?limit=100"
    yield "native, failed", "/api/v1/runs?state=failed&limit=100"
    yield "native, a rare tag", "/api/v1/runs?tag=rare&limit=100"
    yield "native, a tag of every third", "/api/v1/runs?tag=often&limit=100"
    yield "OpenDataDSL, first page", odsl
    yield "OpenDataDSL, only the total", f"{odsl}?_limit=1"
    yield "OpenDataDSL, failed in a month", f"{odsl}?status=failed&start=range({day},{last})"
    yield "OpenDataDSL, of a name that failed", f"{odsl}?name=bench-3&status=failed"
    yield (
        "OpenDataDSL, _filter",
        (f"{odsl}?_filter=(status=failed or status=warning) and name=bench-15&start=gt({day})"),
    )
    yield "OpenDataDSL, phases.status", f"{odsl}?phases.status=failed&_limit=10"
    yield (
        "SolveXia, runs of a process since",
        (f"/api/v1/processes/p-{place.workflow}/processruns?dateCreatedStart={day}"),
    )
    runs = "/api/pipeline_runs"
    of_one = f"/api/pipeline_schedules/{place.schedule}/pipeline_runs"
    yield "Mage, first page", runs
    yield "Mage, of a schedule", of_one
    yield "Mage, failed", f"{runs}?status=failed"
    yield "Mage, failed of a schedule in a month", f"{of_one}?status=failed&{epochs}"
    yield "Mage, failed in a month", f"{runs}?status=failed&{epochs}"
    jobs = f"/api/{place.tenant_id}/{place.project_id}/execution/jobs"
    yield "mindzie, first page", jobs
    yield "mindzie, failed in a month", f"{jobs}?status=Failed&dateFrom={day}&dateTo={last}"
    yield "mindzie, high", f"{jobs}?priority=High&pageSize=100"
    yield "VirtuousAI, first page", "/api/v1/automation-runs"
    yield "VirtuousAI, failed", "/api/v1/automation-runs?status=failed"
    yield "VirtuousAI, pending", "/api/v1/automation-runs?status=pending"


def _timed(http: requests.Session, url: str, asked: int) -> list[float]:
    for _ in range(5):
        answer = http.get(url, timeout=60)
        assert answer.status_code == 200, (url, answer.text[:500])
        assert "error" not in answer.text[:20], (url, answer.text[:500])
    took: list[float] = []
    while len(took) < asked and sum(took) < LONGEST:
        began = time.perf_counter()
        http.get(url, timeout=60)
        took.append((time.perf_counter() - began) * 1000)
    return took


def _filled(stack: Stack, http: requests.Session, total: int) -> Place:
    client = Client(stack.url, stack.key)
    steps = [{"key": "s0", "uses": "noop"}, {"key": "s1", "uses": "noop"}]
    names = [f"bench-{each}" for each in range(many.WORKFLOWS)]
    numbers = [client.apply({"name": name, "steps": steps})["number"] for name in names]
    made = [
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
    return Place(str(tenant_id), str(project_id), made[0]["number"], numbers[3])
