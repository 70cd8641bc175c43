"""Commands for operators: tenants, drain, doctor, audit, keys; all but `keys` use the database."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from config.settings import Settings
from orchestrator.cli.connection import client_of, known_database_url, open_database
from orchestrator.spec.durations import parse_duration

if TYPE_CHECKING:
    from orchestrator.maintenance.doctor import DoctorReport

_RETRY_PERIOD = timedelta(seconds=30)  # while the database is away
_MAX_LINES = 10  # of one invariant


@click.group()
def tenants() -> None:
    """Make and list tenants; needs the database itself."""


@tenants.command("create")
@click.argument("name")
@click.pass_obj
def create_tenant(settings: Settings, name: str) -> None:
    """Make the tenant NAME with a project `default`, and print its admin key."""
    from orchestrator.access.tenants import create_tenant

    if not name.isprintable() or not 0 < len(name) <= 100:
        raise click.BadParameter("a name has 1 to 100 printable characters")
    with _transaction(settings) as session:
        tenant, key = create_tenant(session, name)
    click.echo(f"tenant {tenant.number} {tenant.id} {tenant.name}", err=True)
    click.echo(key)


@tenants.command("list")
@click.pass_obj
def list_tenants(settings: Settings) -> None:
    """List every tenant: number, id, name."""
    from orchestrator.access.tenants import all_tenants

    with _transaction(settings) as session:
        for tenant in all_tenants(session):
            click.echo(f"{tenant.number}\t{tenant.id}\t{tenant.name}")


@click.command()
@click.argument("worker")
@click.option(
    "--within", default="5m", show_default=True, help="what still runs then, it gives back"
)
@click.option("--wait/--no-wait", default=True, help="stay until it is safe to kill")
@click.option("--undo", is_flag=True, help="let it take steps again")
@click.pass_obj
def drain(settings: Settings, worker: str, within: str, wait: bool, undo: bool) -> None:
    """Let WORKER take no new step, and hand back what runs too long; needs the database itself.

    The beginning of its name is enough. It stays alive, and takes steps again when it starts anew.
    """
    from orchestrator.monitoring import workers

    if not worker:
        raise click.BadParameter("name a worker, or the beginning of its name")
    try:
        time_left = None if undo else parse_duration(within)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    with open_database(known_database_url(settings)) as database:
        with database.transaction() as session:
            name = workers.find_worker(session, worker)
            workers.drain_worker(session, name, time_left)
        if undo:
            click.echo(f"worker {name} takes steps again")
        elif not wait:
            click.echo(f"worker {name} drains, for {within} at most")
        else:
            _await_drained(database, name)


def _await_drained(database: Any, name: str) -> None:
    """Print the running steps whenever they change, until there are none."""
    from orchestrator.monitoring import workers

    def load_progress(session: Any) -> Any:
        return workers.drain_progress(session, name)

    printed = None
    while True:
        worker, running = database.run_with_retry(load_progress, within=_RETRY_PERIOD)
        if worker is None:
            return click.echo(f"worker {name} has ended")
        if worker.status == "offline":
            return click.echo(f"worker {name} is offline; what it ran goes on elsewhere soon")
        if worker.drain_by is None and worker.status == "active":
            raise click.ClickException(f"worker {name} does not drain any more")
        if worker.status == "drained" and not running:
            return click.echo(f"worker {name} runs nothing and takes nothing: it is safe to kill")
        lines = [f"  {row.workflow}/{row.key}#{row.number}  run {row.run_id}" for row in running]
        if lines != printed:
            printed = lines
            click.echo("\n".join([f"worker {name} drains; {len(lines)} running", *lines]))
        time.sleep(0.5)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.pass_obj
def doctor(settings: Settings, as_json: bool) -> None:
    """Check the whole system; exit 1 if anything is wrong. Needs the database and Redis."""
    from orchestrator.broker.client import Broker, make_app
    from orchestrator.db.database import Database
    from orchestrator.db.engine import make_engine
    from orchestrator.local import services
    from orchestrator.maintenance.doctor import examine

    redis_url = settings.redis_url or services.running_redis(settings.data_dir.absolute() / "redis")
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
        _print_report(report)
    sys.exit(1 if report.is_broken else 0)


def _print_report(report: "DoctorReport") -> None:
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
    from orchestrator.maintenance.invariants import OVERDUE

    if broken == LOST_MESSAGE:
        return "a scheduler sends it again within seconds, if one runs"
    if broken in OVERDUE:
        return "overdue: a scheduler does it, if one runs"
    return "nothing mends it by itself: please report it"


@click.group()
def audit() -> None:
    """Check the audit log; needs the database itself."""


@audit.command("verify")
@click.pass_obj
def verify_audit(settings: Settings) -> None:
    """Verify every entry, from the first on; exit 1 and name the first broken one of each chain.

    `doctor` verifies the newest ones only.
    """
    from orchestrator.audit import ChainReport, verify
    from orchestrator.maintenance.doctor import UNLINKED_AFTER

    with (
        _transaction(settings) as session,
        click.progressbar(length=0, label="Verifying", file=sys.stderr) as bar,
    ):

        def show(report: ChainReport) -> None:
            bar.length = report.entries
            bar.update(report.verified - bar.pos)

        report = verify(session, patience=UNLINKED_AFTER, limit=sys.maxsize, progress=show)
    counts = f"{report.verified:,} of {report.entries:,} entries in {report.chains:,} chains"
    click.echo(f"{counts} verified")
    for mistake in report.mistakes:
        click.echo(f"Broken: {mistake}.")
    sys.exit(1 if report.mistakes else 0)


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke keys."""


@keys.command("create")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["viewer", "operator", "admin"]),
    default="operator",
    show_default=True,
    help="reads; runs things; defines things and makes keys",
)
@click.option(
    "--kind", type=click.Choice(["key", "oauth_client"]), default="key", show_default=True
)
@click.option("--user", help="whose it is; the name that Basic must give")
@click.option("--scope", "scopes", multiple=True, help="repeatable, like runs or runs:read")
@click.option("--starts-at", help="like 2027-01-01T00:00:00Z")
@click.option("--expires-at", help="like 2027-12-31T00:00:00Z")
@click.pass_obj
def create_key(settings: Settings, /, **options: Any) -> None:
    """Make a key called NAME and print it; it is not shown again."""
    options["scopes"] = list(options["scopes"])
    body = {name: value for name, value in options.items() if value}
    _print_secret(client_of(settings).create_key(**body))


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.pass_obj
def list_keys(settings: Settings, as_json: bool) -> None:
    """List the tenant's keys, without their secrets."""
    all_keys = list(client_of(settings).keys())
    if as_json:
        click.echo(json.dumps(all_keys, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "role", "last used", "ends", box=None)
    table.columns[0].no_wrap = True  # an argument of `revoke`
    for key in all_keys:
        ends = "revoked" if key["revoked_at"] else _to_minute(key["expires_at"])
        table.add_row(key["id"], key["name"], key["role"], _to_minute(key["last_used_at"]), ends)
    Console().print(table)


@keys.command("rotate")
@click.argument("key_id", metavar="ID", type=click.UUID)
@click.option("--grace", help="how long the old one stays good, like 1h; a day unless you say")
@click.pass_obj
def rotate_key(settings: Settings, key_id: UUID, grace: str | None) -> None:
    """Make a new key in place of this one and print it."""
    body = {"grace": grace} if grace else {}
    _print_secret(client_of(settings).rotate_key(str(key_id), **body))


@keys.command("revoke")
@click.argument("key_id", metavar="ID", type=click.UUID)
@click.pass_obj
def revoke_key(settings: Settings, key_id: UUID) -> None:
    """End a key at once."""
    key = client_of(settings).revoke_key(str(key_id))
    click.echo(f"{key['name']} revoked at {key['revoked_at']}")


def _to_minute(timestamp: str | None) -> str:
    return f"{timestamp[:16]}Z" if timestamp else ""


def _print_secret(key: dict[str, Any]) -> None:
    """Print the secret, and nothing else, to stdout: scripts store it."""
    click.echo(f"{key['kind']} {key['id']} {key['name']}", err=True)
    if key["key"]:
        click.echo(key["key"])
    else:
        click.echo(f"client_id={key['client_id']}\nclient_secret={key['client_secret']}")


@contextmanager
def _transaction(settings: Settings) -> Iterator[Any]:
    """A session in one transaction."""
    url = known_database_url(settings)
    with open_database(url) as database, database.transaction() as session:
        yield session


COMMANDS = (tenants, drain, keys, doctor, audit)
