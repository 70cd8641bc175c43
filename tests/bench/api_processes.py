"""What an API of two processes accepts, against one of one: POSTs of runs, each client in a row.

Both serve the same database side by side and are measured in turns, so that other load on the
machine slows both. Clients, Postgres and the API share its cores.
"""

from config.settings import Settings
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench.ask import chain, new_tenant
from tests.bench.overload import Load, accepted_of, send_all
from tests.bench.report import Report
from tests.bench.usage import using
from tests.support.http_attacks import ServedApi, serve

TURNS, SECONDS = 5, 3.0
TENANTS, CONNECTIONS = 2, 8  # of each tenant
_WORKFLOW = "nobodys"  # in a queue without a worker


def measure(stack: Stack, turns: int = TURNS, seconds: float = SECONDS) -> Report:
    """Requests a second and their latency."""
    keys = [stack.key, *(new_tenant(stack, f"tenant{n}") for n in range(1, TENANTS))]
    for key in keys:
        Client(stack.url, key).apply(chain(_WORKFLOW, 1, queue=_WORKFLOW))
    settings = Settings.from_env(stack.environ)
    report = Report("api_processes", f"two processes against one, {TENANTS * CONNECTIONS} clients")
    rates, times = dict[int, list[float]](), dict[int, list[float]]()
    with serve(settings, api_processes=1) as one, serve(settings, api_processes=2) as two:
        for turn in range(turns):
            for processes, api in ((1, one), (2, two)):
                with using(stack) as used:
                    latencies = _latencies(api, keys, seconds)
                rates.setdefault(processes, []).append(len(latencies) / seconds)
                times.setdefault(processes, []).extend(latencies)
                report.used[f"{processes}, turn {turn + 1}"] = used
    report.add("POSTs a second", rates[2], rates[1])
    for processes, each in times.items():
        report.add(f"POST, milliseconds, processes: {processes}", each)
    return report


def _latencies(api: ServedApi, keys: list[str], seconds: float) -> list[float]:
    loads = [Load(api.url, key, None, seconds, CONNECTIONS) for key in keys]
    return [each.latency for each in accepted_of(send_all(loads))]
