"""An urgent run behind a backlog, and two tenants that share a queue."""

import time

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench.ask import chain, engine_of, new_tenant, one_run, scalar, session_of, submit_many
from tests.bench.report import Report

BACKLOG, URGENT = 3000, 20
_OPEN = "SELECT count(*) FROM runs WHERE workflow = 'tedious' AND finished_at IS NULL"
_BEFORE = """
    SELECT count(*) FROM runs JOIN tenants ON tenants.id = tenant_id
    WHERE tenants.name = 'crowd' AND started_at < (
        SELECT max(started_at) FROM runs JOIN tenants ON tenants.id = tenant_id
        WHERE tenants.name = 'single')
"""


def measure(stack: Stack, backlog: int = BACKLOG) -> Report:
    """Milliseconds of an urgent run alone, and while thousands wait."""
    client, engine = Client(stack.url, stack.key), engine_of(stack)
    http = session_of(stack)
    report = Report("urgent_run", "priority and fairness")
    client.apply(chain("tedious", 5, priority=2))
    client.apply(chain("urgent", 1, priority=9))
    alone = [one_run(http, stack, "urgent") * 1000 for _ in range(URGENT)]
    submit_many(stack, "tedious", backlog)
    beside = [one_run(http, stack, "urgent") * 1000 for _ in range(URGENT)]
    waiting = scalar(engine, _OPEN)
    report.add(f"urgent run, ms, {waiting:,} of {backlog:,} waiting, against none", beside, alone)
    while scalar(engine, _OPEN):
        time.sleep(0.5)
    for name, count in (("crowd", 600), ("single", 60)):
        key = new_tenant(stack, name)
        Client(stack.url, key).apply(chain("shared", 5))
        submit_many(stack, "shared", count, key=key)
    while scalar(engine, "SELECT count(*) FROM runs WHERE finished_at IS NULL"):
        time.sleep(0.5)
    overtaken = float(scalar(engine, _BEFORE))
    report.add("runs of a crowd of 600 before the last of 60 that came later", [overtaken])
    engine.dispose()
    return report
