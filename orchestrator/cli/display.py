"""Print runs to a terminal or a pipe."""

from collections.abc import Iterable
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_STYLES = {
    "succeeded": "green",
    "failed": "bold red",
    "timed_out": "bold red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
    "skipped": "dim",
    "pending": "dim",
}
_ENDED = ("succeeded", "failed", "skipped", "cancelled")


def watch(run: Iterable[dict[str, Any]], console: Console) -> dict[str, Any]:
    """Show a run until it ends; gives its last state."""
    if not console.is_terminal:
        return _print_lines(run, console)
    last: dict[str, Any] = {}
    spinner = Spinner("dots", style="cyan")
    with Live(console=console, refresh_per_second=10) as live:
        for last in run:
            live.update(_live(last, spinner))
    return last


def show(run: dict[str, Any], console: Console) -> None:
    """Print a run, its steps and its error."""
    console.print(_headline(run))
    console.print(_steps(run, None))
    if run["error"]:
        console.print(Text(f"{run['error'].get('step', 'run')}: {run['error']['message']}", "red"))


def table(runs: list[dict[str, Any]], console: Console) -> None:
    """Print a list of runs."""
    rows = Table(box=None, pad_edge=False)
    for heading in ("number", "id", "workflow", "state", "priority", "created", "took"):
        rows.add_column(heading, overflow="fold", no_wrap=heading in ("id", "state"))
    for run in runs:
        rows.add_row(
            str(run["number"]),
            run["id"],
            f"{run['workflow']} v{run['version']}",
            _state(run["state"]),
            str(run["priority"]),
            run["created_at"][:19].replace("T", " "),
            _duration(run),
        )
    console.print(rows)


def _print_lines(run: Iterable[dict[str, Any]], console: Console) -> dict[str, Any]:
    """Print each change of the progress and each step that ends: a pipe cannot be redrawn."""
    last: dict[str, Any] = {}
    printed: set[str] = set()
    last_progress = ""
    for last in run:
        progress = _progress(last)
        if progress not in ("", last_progress):
            console.print(progress, soft_wrap=True)
            last_progress = progress
        for step in last["steps"]:
            if step["state"] in _ENDED and step["key"] not in printed:
                printed.add(step["key"])
                line = f"{step['key']} {step['state']} {_duration(step)} {_message(step)}"
                console.print(line.rstrip(), soft_wrap=True)
    console.print(_headline(last), soft_wrap=True)
    return last


def _live(run: dict[str, Any], spinner: Spinner) -> Group:
    steps = run["steps"]
    ended = sum(step["state"] in _ENDED for step in steps)
    progress = run.get("progress") or {}
    percent = progress.get("percent", 100 * ended // max(1, len(steps)))
    bar = ProgressBar(total=100, completed=percent, width=40)
    label = Text.assemble(f" {percent:3d} %", (f"  {progress.get('stage') or ''}", "cyan"))
    return Group(_headline(run), Columns([bar, label]), _steps(run, spinner))


def _headline(run: dict[str, Any]) -> Text:
    name = Text(f"{run['workflow']} v{run['version']}  run {run['number']}  ", "bold")
    return name + _state(run["state"]) + Text(f"  {_duration(run)}", "dim")


def _steps(run: dict[str, Any], spinner: Spinner | None) -> Table:
    rows = Table(box=None, show_header=False, pad_edge=False)
    for step in run["steps"]:
        running = step["state"] == "running" and spinner is not None
        rows.add_row(
            spinner if running else Text(" "),
            step["key"],
            _state(step["state"]),
            _duration(step),
            f"attempt {step['attempt']}" if step["attempt"] > 1 else "",
            _message(step),
        )
    return rows


def _progress(run: dict[str, Any]) -> str:
    progress = run.get("progress")
    if not progress or run["state"] != "running":
        return ""
    return f"{progress['percent']:3d} %  {progress['stage'] or ''}".rstrip()


def _message(step: dict[str, Any]) -> Text:
    """The message of a step's error, else its stage, else the `message` of its result."""
    if step["error"]:
        return Text(step["error"]["message"], "red")
    if step["state"] == "running" and step.get("stage"):
        percent = step.get("percent")
        return Text(step["stage"] if percent is None else f"{percent} % {step['stage']}", "cyan")
    result = step["result"]
    return Text(str(result.get("message", "")) if isinstance(result, dict) else "")


def _state(state: str) -> Text:
    return Text(state, _STYLES.get(state, ""))


def _duration(row: dict[str, Any]) -> str:
    seconds = row["duration_seconds"]
    return "" if seconds is None else f"{seconds:.2f} s"
