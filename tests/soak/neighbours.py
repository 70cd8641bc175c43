"""Two tenants run random nasty steps: whose output is in whose log, and does anything grow?

python -m tests.soak.neighbours --minutes 10
"""

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

import psutil
from rich.console import Console
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from config.settings import PREFIX
from orchestrator.access.tenants import create_tenant
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.soak.stacks import own_stack
from tests.support import nasty
from tests.support.processes import ended

OPEN = 4  # runs of each tenant at any time
QUIET = 6.0  # seconds until what a step left behind is ended, and the worker's processes are few
INTERVAL = 5.0  # seconds between two samples
TIMEOUT = "5s"
# Maximum growth from the first third of the time to the last.
BOUNDS = {"RSS MB": 30.0, "threads": 2.0, "files": 4.0, "processes": 1.0}


@dataclass
class Tenant:
    """A tenant, and the runs that are checked when they have ended."""

    client: Client
    runs: dict[str, tuple[str, str]] = field(default_factory=dict)  # token and step by run


def main() -> None:
    """Soak a stack of its own; the exit status is 1 when a line is wrong or something grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.neighbours", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    console = Console(width=120)
    console.print(f"seed {options.seed}")
    with own_stack("tests.support.nasty", workers=1) as (stack, _):
        faults = _soak(stack, console, random.Random(options.seed), options.minutes * 60)
    for fault in faults:
        console.print(fault)
    sys.exit(1 if faults else 0)


def _soak(stack: Stack, console: Console, dice: random.Random, seconds: float) -> list[str]:
    tenants = [Tenant(_client(stack, name)) for name in ("one", "two")]
    faults: list[str] = []
    samples: list[dict[str, float]] = []
    steps: Counter[str] = Counter()
    begun = sampled = time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        for tenant in tenants:
            while len(tenant.runs) < OPEN:
                _submit(tenant, dice)
            faults += _check_ended(tenant, steps)
        if now > sampled + INTERVAL:
            samples.append(_sample())
            sampled = now
        time.sleep(0.05)
    for tenant in tenants:
        for run_id in list(tenant.runs):
            ended(tenant.client, run_id, within=60)
        faults += _check_ended(tenant, steps)
    time.sleep(QUIET)
    faults += [f"still runs: {name}" for name in _programs()]
    console.print(f"{steps.total()} runs of {len(steps)} kinds of steps")
    return faults + _growth(samples, console)


def _client(stack: Stack, name: str) -> Client:
    """A client of a new tenant."""
    with create_engine(stack.environ[f"{PREFIX}DATABASE_URL"]).begin() as connection:
        return Client(stack.url, create_tenant(Session(connection), name)[1])


def _submit(tenant: Tenant, dice: random.Random) -> None:
    name = dice.choice(["innocent", *nasty.nasties, *nasty.nasties])
    token = f"token-{dice.randrange(16**12):012x}"
    step = {
        "key": "s",
        "uses": "nasty.with_a_token",
        "with": {"name": name, "token": token},
        "timeout": TIMEOUT,
    }
    tenant.client.apply({"name": name.replace("_", "-").lower(), "steps": [step]})
    run = tenant.client.submit(name.replace("_", "-").lower(), {})
    tenant.runs[run["id"]] = token, name


def _check_ended(tenant: Tenant, steps: Counter[str]) -> list[str]:
    """Check the logs of the runs that have ended; returns what is wrong."""
    faults = []
    for run_id, (token, name) in list(tenant.runs.items()):
        run = tenant.client.run(run_id)
        if run["state"] not in ("succeeded", "failed", "timed_out", "cancelled"):
            continue
        del tenant.runs[run_id]
        steps[name] += 1
        attempts = run["steps"][0]["attempt"]
        lines = [line["text"] for line in tenant.client.log(run_id, limit=1000)["items"]]
        foreign = [line for line in lines if "token-" in line and token not in line]
        own = Counter(line for line in lines if line.startswith(token))
        faults += [f"{name} {run_id}: {line} of another" for line in foreign]
        expected = Counter({f"{token} {way}": attempts for way in nasty.WAYS})
        if not (own <= expected if name in nasty.LOSE_OUTPUT else own == expected):
            faults.append(f"{name} {run_id}: {attempts} attempts, but {dict(own)}")
    return faults


def _sample() -> dict[str, float]:
    """Figures of the worker's processes."""
    worker = next(
        each
        for each in psutil.Process().children(recursive=True)
        if " worker " in " ".join(each.cmdline())
    )
    values = {"RSS MB": 0.0, "threads": 0.0, "files": 0.0, "processes": 0.0}
    for each in (worker, *worker.children(recursive=True)):
        try:
            with each.oneshot():
                values["RSS MB"] += each.memory_info().rss / 2**20
                values["threads"] += each.num_threads()
                values["files"] += each.num_fds()
                values["processes"] += 1
        except psutil.Error:
            continue
    return values


def _growth(samples: list[dict[str, float]], console: Console) -> list[str]:
    faults = []
    third = len(samples) // 3
    for name, bound in BOUNDS.items():
        first, last = (
            median(sample[name] for sample in part) for part in (samples[:third], samples[-third:])
        )
        console.print(f"{name}: {first:.1f} in the first third, {last:.1f} in the last")
        if last - first > bound:
            faults.append(f"{name} grew by {last - first:.1f}")
    return faults


def _programs() -> list[str]:
    """The programs of nasty steps that still run."""
    return [
        command
        for each in psutil.process_iter(["cmdline"])
        if (command := " ".join(each.info["cmdline"] or ())).startswith(nasty.PROGRAMS)
    ]


if __name__ == "__main__":
    main()
