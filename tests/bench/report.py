"""The results of a bench: a table, and all repeats as JSON."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from tests.bench.usage import Used


@dataclass
class Line:
    """One measurement: ours and, where there is one, the floor, by repeat."""

    name: str
    ours: Sequence[float]
    floor: Sequence[float] = ()
    budget: str = ""  # as printed in the table
    within: bool | None = None  # whether the budget is kept

    @property
    def ratios(self) -> list[float]:
        """Ours to the floor, in pairs that were measured at the same time."""
        return [a / b for a, b in zip(self.ours, self.floor, strict=bool(self.floor))]


@dataclass
class Report:
    """The lines of one bench."""

    name: str
    title: str  # with the unit
    server: str = ""  # the version of Postgres
    lines: list[Line] = field(default_factory=list)
    used: dict[str, Used] = field(default_factory=dict)  # by what was measured
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        ours: Sequence[float],
        floor: Sequence[float] = (),
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        of: str = "median",
    ) -> Line:
        """Add a line. A budget is for the ratio where there is a floor, else for a statistic."""
        line = Line(name, list(ours), list(floor))
        measured = median(line.ratios) if floor else _STATISTICS[of](ours)
        what = "ratio" if floor else of
        if at_most is not None:
            line.budget, line.within = f"{what} ≤ {at_most:g}", measured <= at_most
        if at_least is not None:
            line.budget, line.within = f"{what} ≥ {at_least:g}", measured >= at_least
        self.lines.append(line)
        return line

    def print(self, console: Console) -> None:
        """Print the tables."""
        table = Table(title=f"{self.name}, {self.server}: {self.title}")
        for heading in ("", "median", "p99", "floor", "ratio", "spread", "budget", "within"):
            table.add_column(heading, justify="left" if heading == "" else "right")
        for line in self.lines:
            table.add_row(*_cells(line))
        console.print(table)
        if self.used:
            console.print(_usage_table(self.used))
        for note in self.notes:
            console.print(note)

    def write(self, folder: Path) -> None:
        """Write all repeats as JSON, with the machine."""
        folder.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {
            "bench": self.name,
            "title": self.title,
            "machine": machine() | {"postgres": self.server},
            "lines": [vars(line) | {"ratios": line.ratios} for line in self.lines],
            "used": {name: used.as_json() for name, used in self.used.items()},
            "notes": self.notes,
        }
        (folder / f"{self.name}.json").write_text(json.dumps(document, indent=1))


def machine() -> dict[str, Any]:
    """The machine that it ran on."""
    return {
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def at(values: Sequence[float], share: float) -> float:
    """The quantile of the values at `share`."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


_STATISTICS = {
    "median": median,
    "p95": lambda values: at(values, 0.95),
    "p99": lambda values: at(values, 0.99),
}


def _cells(line: Line) -> list[str]:
    ratios = line.ratios
    return [
        line.name,
        _format(median(line.ours)),
        _format(at(line.ours, 0.99)),
        _format(median(line.floor)) if line.floor else "",
        f"{median(ratios):.2f}" if ratios else "",
        f"{min(ratios):.2f} … {max(ratios):.2f}" if ratios else f"{len(line.ours)} values",
        line.budget,
        "" if line.within is None else "yes" if line.within else "NO",
    ]


def _usage_table(used: dict[str, Used]) -> Table:
    table = Table(title="CPU seconds and peak MB by process")
    table.add_column("")
    for name in used:
        table.add_column(name, justify="right")
    for role in sorted({role for each in used.values() for role in each.cpu}):
        cells = [
            f"{each.cpu.get(role, 0):.2f} s  {each.memory.get(role, 0):4.0f} MB"
            for each in used.values()
        ]
        table.add_row(role, *cells)
    table.add_row("all", *(f"{sum(each.cpu.values()):.2f} s" for each in used.values()))
    return table


def _format(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
