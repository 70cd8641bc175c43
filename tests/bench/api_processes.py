"""What an API of two processes does in a second, against one of one: POSTs, and lists, of runs.

Both serve the same database side by side and are measured in turns, so that other load on the
machine slows both. Clients, Postgres and the API share its cores.
"""

from config.settings import Settings
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench.ask import chain, new_tenant
from tests.bench.overload import Load, accepted_of, send_all
from tests.bench.report import Report
from tests.support.http_attacks import ServedApi, serve

TURNS, SECONDS = 6, 2.0
TENANTS, CONNECTIONS = 2, 8  # of each tenant
_WORKFLOW = "nobodys"  # in a queue without a worker


def measure(stack: Stack, turns: int = TURNS, seconds: float = SECONDS) -> Report:
    """Requests a second, each client one after the other."""
    keys = [stack.key, *(new_tenant(stack, f"tenant{n}") for n in range(1, TENANTS))]
    for key in keys:
        Client(stack.url, key).apply(chain(_WORKFLOW, 1, queue=_WORKFLOW))
    settings = Settings.from_env(stack.environ)
    report = Report("api_processes", f"two processes against one, {TENANTS * CONNECTIONS} clients")
    with serve(settings, api_processes=1) as one, serve(settings, api_processes=2) as two:
        for method in ("POST", "GET"):
            rates = dict[ServedApi, list[float]]()
            for api in (one, two) * turns:
                loads = [Load(api.url, key, None, seconds, CONNECTIONS, method) for key in keys]
                count = len(accepted_of(send_all(loads)))
                rates.setdefault(api, []).append(count / seconds)
            report.add(f"{method} /runs a second", rates[two], rates[one])
    return report
