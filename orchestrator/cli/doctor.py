"""The command `doctor`: checks the whole system, directly on the database and Redis."""

import json
import sys
from itertools import groupby
from typing import TYPE_CHECKING

import click

from config.settings import Settings
from orchestrator.cli.connection import known_database_url, known_redis_url

if TYPE_CHECKING:
    from orchestrator.maintenance.doctor import DoctorReport

_MAX_LINES = 10  # of one invariant


@click.command()
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.pass_obj
def doctor(settings: Settings, as_json: bool) -> None:
    """Check the whole system; exit 1 if anything is wrong. Needs the database and Redis."""
    from orchestrator.broker.client import Broker, make_app
    from orchestrator.db.database import Database
    from orchestrator.db.engine import make_engine
    from orchestrator.maintenance.doctor import examine

    redis_url = known_redis_url(settings)
    broker = Broker(make_app(redis_url, publisher=True)) if redis_url else None
    engine = make_engine(known_database_url(settings), pool_size=1, name="orchestrator-doctor")
    try:
        database = Database(engine, broker.deliver if broker else lambda _: None)
        report = examine(database, broker)
    finally:
        engine.dispose()
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, default=str))
    else:
        _print(report)
    sys.exit(1 if report.is_broken else 0)


def _print(report: "DoctorReport") -> None:
    """Print the facts, then the notices, then what is wrong."""
    for line in report.lines:
        click.echo(line)
    for notice in report.notices:
        click.echo(f"Note: {notice}.")
    for mistake in report.mistakes:
        click.echo(f"Broken: {mistake}.")
    by_kind = sorted(report.findings, key=lambda each: each.broken)
    for broken, group in groupby(by_kind, key=lambda each: each.broken):
        violations = list(group)
        click.echo(f"Broken: {broken} ({len(violations)}); {_remedy(broken)}.")
        for each in violations[:_MAX_LINES]:
            run = f"run {each.run_id} " if each.run_id else ""
            step = f"step {each.step} " if each.step else ""
            click.echo(f"  {run}{step}({each.detail})")
    if not report.is_broken:
        click.echo("Nothing is broken.")


def _remedy(broken: str) -> str:
    """What ends a violation."""
    from orchestrator.maintenance.doctor import LOST_MESSAGE
    from orchestrator.maintenance.invariants import BY_NAME

    if broken == LOST_MESSAGE:
        return "a scheduler sends it again within seconds, if one runs"
    if broken in BY_NAME and BY_NAME[broken].overdue:
        return "overdue: a scheduler does it, if one runs"
    return "nothing mends it by itself: please report it"


COMMANDS = (doctor,)
