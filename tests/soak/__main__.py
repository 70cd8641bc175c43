"""Load a stack near its capacity for a long time; fail when something grows, or is refused.

python -m tests.soak --minutes 30 --share 0.8 --json soak.json
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, create_engine, text

from config.settings import PREFIX
from orchestrator.local.stack import Stack
from tests.chaos.invariants import broken
from tests.soak.load import Load, Results
from tests.soak.stacks import own_stack
from tests.soak.trends import Trend, Verdict, trend
from tests.soak.watch import Sample, Watch

INTERVAL = 10.0  # seconds between two samples
CALIBRATION = 45.0  # seconds; the first third is a warm-up
MAX_OPEN = 60  # open runs that keep every worker busy during the calibration
SETTLE_TIME = 15.0  # seconds for the runs that the calibration left
_OPEN = "SELECT count(*) FROM runs WHERE state IN ('pending', 'queued', 'running', 'cancelling')"
_ENDED = "SELECT count(*) FROM runs WHERE finished_at IS NOT NULL"

# Maximum growth per hour; series without a bound are not judged. Memory is per 100,000 attempts;
# _RELATIVE bounds are shares of the first value.
PER_ATTEMPTS = 100_000
BOUNDS: dict[str, float] = {
    "RSS MB": 1.0, "Redis MB": 1.0, "Postgres MB": 10.0,
    "files": 1.0, "Redis keys": 2.0, "Redis clients": 1.0, "connections": 1.0,
    "dead %": 2.0, "dead rows": 1000.0, "table MB": 1.0,
    "KB a run": 0.1, "index B a row": 0.1, "open runs": 1.0, "run p95 ms": 1.0, "POST p95 ms": 1.0,
}  # fmt: skip
_BY_ATTEMPTS = ("RSS MB", "Redis MB", "Postgres MB")
_RELATIVE = ("KB a run", "index B a row", "open runs", "run p95 ms", "POST p95 ms")


@dataclass
class Series:
    """All samples of a soak, by series."""

    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, at: float, sample: Sample) -> None:
        """Add a sample."""
        for name, value in sample.items():
            self.points.setdefault(name, []).append((at, value))

    def bound(self, name: str, of: Trend) -> float | None:
        """The maximum growth per hour; None for a series without a bound."""
        kind = next((kind for kind in BOUNDS if name.startswith(kind)), None)
        if kind is None:
            return None
        if kind in _BY_ATTEMPTS:
            attempts = self.points["attempts"]
            hours = (attempts[-1][0] - attempts[0][0]) / 3600
            return BOUNDS[kind] * (attempts[-1][1] - attempts[0][1]) / hours / PER_ATTEMPTS
        return BOUNDS[kind] * (max(of.first, 1.0) if kind in _RELATIVE else 1.0)


def main() -> None:
    """Soak a stack of its own; the exit status is 1 when something grows or fails."""
    options = _arguments()
    console = Console(width=120)
    with own_stack("tests.soak.steps", workers=2) as (stack, _):
        failed = _soak(stack, console, options)
    sys.exit(1 if failed else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity of the stack")
    parser.add_argument("--rate", type=float, help="runs a second, instead of a calibration")
    parser.add_argument("--json", type=Path, help="where to write every sample")
    return parser.parse_args()


def _soak(stack: Stack, console: Console, options: argparse.Namespace) -> bool:
    engine = create_engine(stack.environ[f"{PREFIX}DATABASE_URL"])
    load = Load(stack.url, stack.key)
    load.prepare()
    rate = options.rate
    if rate is None:
        capacity = _capacity(load, engine)
        rate = options.share * capacity
        console.print(f"{capacity:.1f} runs/s is the capacity; the load is {rate:.1f}")
    watch = Watch(engine, stack.environ[f"{PREFIX}REDIS_URL"])
    series = Series()
    with load.at(rate):
        refused = _sample(watch, load, series, console, options.minutes * 60)
    load.close()
    violations = broken(engine)
    bloat, replaced = watch.bloat(), watch.replaced()
    engine.dispose()
    trends = {name: trend(points) for name, points in sorted(series.points.items())}
    summary = {
        name: {
            **each._asdict(),
            "bound": (bound := series.bound(name, each)),
            "verdict": "" if bound is None else str(each.verdict(bound)),
        }
        for name, each in trends.items()
    }
    _print(console, summary, bloat)
    faults = [f"{name} did not live until the end" for name in replaced]
    faults += [f"{refused} requests were refused"] if refused else []
    faults += [f"{name}: {len(where)} times" for name, where in violations.items()]
    for fault in faults:
        console.print(fault)
    if options.json:
        report = {"rate": rate, "series": summary, "bloat": bloat, "points": series.points}
        options.json.write_text(json.dumps(report, indent=1))
    return bool(faults) or any(each["verdict"] == Verdict.GROWS for each in summary.values())


def _capacity(load: Load, engine: Engine) -> float:
    """The capacity: runs a second that end while others always wait."""
    begun = time.monotonic()
    first: tuple[float, int] | None = None
    while (now := time.monotonic()) < begun + CALIBRATION:
        if first is None and now > begun + CALIBRATION / 3:
            first = now, _count(engine, _ENDED)
        if _count(engine, _OPEN) < MAX_OPEN:
            load.some(10)
        else:
            time.sleep(0.05)
    assert first is not None
    ended = _count(engine, _ENDED) - first[1]
    span = time.monotonic() - first[0]
    time.sleep(SETTLE_TIME)
    load.take()
    return ended / span


def _sample(watch: Watch, load: Load, series: Series, console: Console, seconds: float) -> int:
    """Take samples for so long; returns the number of requests refused meanwhile."""
    begun = time.monotonic()
    last, refused = 0.0, 0
    while last < seconds:
        time.sleep(max(0.0, begun + last + INTERVAL - time.monotonic()))
        at, results = time.monotonic() - begun, load.take()
        sample = watch.sample()
        if len(results.milliseconds) > 1:
            sample["POST p95 ms"] = quantiles(results.milliseconds, n=20)[-1]
        sample["late requests"] = float(results.late)
        series.add(at, sample)
        _progress(console, at, at - last, results, sample)
        last = at
        refused += len(results.refused)
    return refused


def _progress(console: Console, at: float, span: float, results: Results, sample: Sample) -> None:
    memory = sum(value for name, value in sample.items() if name.startswith("RSS MB"))
    errors = results.refused
    refused = f"  REFUSED {len(errors)}: {errors[0][:60]}" if errors else ""
    late = f"  late {results.late}" if results.late else ""
    console.print(
        f"{at // 60:3.0f}:{at % 60:02.0f}  {results.runs / span:5.1f} runs/s"
        f"  open {sample['open runs']:4.0f}  POST p95 {sample.get('POST p95 ms', 0):5.1f} ms"
        f"  run p95 {sample.get('run p95 ms', 0):6.0f} ms  RSS {memory:4.0f} MB"
        f"  Redis {sample['Redis MB']:.2f} MB, {sample['Redis keys']:.0f} keys"
        f"  dead steps {sample['dead % steps']:.1f} %{late}{refused}",
        soft_wrap=True,
        highlight=False,
    )


def _print(
    console: Console,
    summary: dict[str, dict[str, float | str | None]],
    bloat: dict[str, dict[str, float]],
) -> None:
    table = Table(title="growth an hour, after the warm-up")
    for heading in ("", "first", "last", "slope", "95 % of it", "bound", "verdict"):
        table.add_column(heading, justify="left" if heading in ("", "verdict") else "right")
    for name, row in summary.items():
        if row["bound"] is None:
            continue
        span = f"{row['low']:.2f} … {row['high']:.2f}"
        values = [f"{row[column]:.2f}" for column in ("first", "last", "slope")]
        table.add_row(name, *values, span, f"{row['bound']:.2f}", str(row["verdict"]))
    console.print(table)
    for name, parts in bloat.items():
        console.print(f"{name}: " + ", ".join(f"{part} {of:.1f} %" for part, of in parts.items()))


def _count(engine: Engine, statement: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(statement)) or 0)


main()
