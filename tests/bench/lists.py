"""W7: what a page of runs costs in every API when there are many runs (`RUNS`, 1,000,000)."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import NamedTuple

import requests
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.client import Client
from orchestrator.db import make_engine
from orchestrator.definitions import Project, Tenant
from orchestrator.stack import Stack
from tests.bench import many

RUNS = int(os.environ.get("RUNS", "1000000"))
ASKED = 200  # times each
LONGEST = 20_000.0  # milliseconds of asking for the same list
BUDGET = 60.0  # milliseconds, p99


class Place(NamedTuple):
    """Where a contract has the bench's runs."""

    tenant_id: str
    project_id: str
    schedule: int
    workflow: int


def measure(stack: Stack, console: Console) -> None:
    """Print the milliseconds of each list, asked one after the other over HTTP."""
    http = requests.Session()
    http.headers["Authorization"] = f"Bearer {stack.key}"
    place = _filled(stack, http, console)
    table = Table(title=f"W7: milliseconds of a list at {RUNS:,} runs")
    for heading in ("list", "p50", "p99", "bytes", "within"):
        table.add_column(heading)
    for name, path in _asked(place):
        took, size = _timed(http, stack.url + path)
        p50, p99 = quantiles(took, n=100)[49], quantiles(took, n=100)[98]
        within = "yes" if p99 <= BUDGET else "NO"
        table.add_row(name, f"{p50:.1f}", f"{p99:.1f}", f"{size:,}", within)
    console.print(table)


def _asked(place: Place) -> Iterator[tuple[str, str]]:
    """Every contract's first page, and its filters by status and date."""
    now = datetime.now(UTC)
    since, until = (now - timedelta(days=60)), (now - timedelta(days=30))
    day, last = since.date().isoformat(), until.date().isoformat()
    epochs = f"start_timestamp={int(since.timestamp())}&end_timestamp={int(until.timestamp())}"
    odsl = "/api/process-exec/v1/private"
    yield "native, first page", "/api/v1/runs?limit=100"
    yield "native, failed", "/api/v1/runs?state=failed&limit=100"
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


def _timed(http: requests.Session, url: str) -> tuple[list[float], int]:
    for _ in range(5):
        answer = http.get(url, timeout=60)
        assert answer.status_code == 200, (url, answer.text[:500])
        assert "error" not in answer.text[:20], (url, answer.text[:500])
    took: list[float] = []
    while len(took) < ASKED and sum(took) < LONGEST:
        began = time.perf_counter()
        size = len(http.get(url, timeout=60).content)
        took.append((time.perf_counter() - began) * 1000)
    return took, size


def _filled(stack: Stack, http: requests.Session, console: Console) -> Place:
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
    engine = make_engine(stack.environ["ORCHESTRATOR_DATABASE_URL"])
    with console.status(f"writing {RUNS:,} runs"), Session(engine) as session, session.begin():
        tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == "default")).one()
        project_id = session.scalars(select(Project.id).where(Project.tenant_id == tenant_id)).one()
        many.fill(session.connection(), tenant_id, RUNS)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        many.settle(connection)
    return Place(str(tenant_id), str(project_id), made[0]["number"], numbers[3])
