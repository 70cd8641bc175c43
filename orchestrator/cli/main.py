"""The command `orchestrator`: starts the processes, and calls a running API."""

import errno
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from config import settings as config
from config.settings import Settings
from orchestrator.cli import admin, runs
from orchestrator.cli.connection import database_url, open_database
from orchestrator.cli.shadowing import refuse_shadowing
from orchestrator.errors import OrchestratorError
from orchestrator.spec.model import QUEUE_NAME

_AT_LEAST_1 = click.IntRange(min=1)

_PORT = click.IntRange(1, 65535)


class _Group(click.Group):
    """Prints expected errors as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            from sqlalchemy.exc import ArgumentError, DBAPIError

            from orchestrator.client import ApiError
            from orchestrator.db.database import CommitInDoubt

            if isinstance(error, DBAPIError):
                message = "the database: " + str(error.orig).strip().partition("\n")[0]
                if isinstance(error, CommitInDoubt):
                    message += "; this may have been done: look before you ask again"
            elif isinstance(error, OrchestratorError | ApiError | ArgumentError):
                message = str(error)
            elif isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
                message = ": ".join(str(each) for each in (error.filename, error.strerror) if each)
            else:
                raise
            raise click.ClickException(message) from None


@click.group(cls=_Group)
@click.version_option(package_name="orchestrator")
@click.pass_context
def main(context: click.Context) -> None:
    """Durable runs on Celery: trigger, watch, cancel, resume."""
    if context.invoked_subcommand in ("up", "api", "worker", "scheduler"):
        # What these start has the current folder first on its path.
        refuse_shadowing("api", "config", "workers", path=[os.getcwd(), *sys.path])
    try:
        context.obj = Settings.from_env()
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--port", type=_PORT, default=8000, show_default=True, help="of the API")
@click.option("--data-dir", type=click.Path(path_type=Path), help="for Postgres, keys and logs")
@click.option("--workers", type=_AT_LEAST_1, default=1, show_default=True, help="worker processes")
@click.option(
    "--concurrency",
    type=_AT_LEAST_1,
    default=2,
    show_default=True,
    help="steps at once, each worker",
)
@click.option("--flower/--no-flower", default=True, help="Celery's own inspection page")
@click.pass_obj
def up(settings: Settings, /, **options: Any) -> None:
    """Start everything on this machine and stay until Ctrl-C."""
    if config.split_environ(os.environ)[1]:
        # It stays, and what its steps run could read the secrets in its environment.
        config.execute([sys.executable, *sys.orig_argv[1:]])
    from orchestrator.local.stack import Stack

    if config.variable_of("api_processes") not in os.environ:
        settings = replace(settings, api_processes=0)
    with Stack(settings, **options) as stack:
        click.echo(stack.greeting())
        stack.wait()
        click.echo("\nStopping …")
    click.echo("Stopped.")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=_PORT, default=8000, show_default=True)
@click.pass_obj
def api(settings: Settings, host: str, port: int) -> None:
    """Serve the REST API."""
    database_url(settings)  # there is one
    gunicorn = ("gunicorn", "-c", "python:config.gunicorn", "-b", f"{host}:{port}")
    _exec_module("api", *gunicorn, "api.app:serve()")


def _queues(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """The names of queues, once each and without spaces around them."""
    names = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not re.match(QUEUE_NAME, name):
            raise click.BadParameter(
                f"{name!r} is no name of a queue: up to 32 letters, digits, '_', '.' and '-';"
                " several are separated by commas, like a,b"
            )
    if not names:
        raise click.BadParameter("it must name a queue, or several, like a,b")
    return ",".join(names)


def _worker_name(_context: click.Context, _option: click.Parameter, name: str) -> str:
    """A name that Celery takes as a part of the node's name."""
    if not re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII):
        raise click.BadParameter(f"{name!r} must be letters, digits, '_', '.' and '-'")
    return name


@main.command()
@click.option("--queues", default="default", show_default=True, callback=_queues, help="a,b,c")
@click.option("--concurrency", type=_AT_LEAST_1, default=2, show_default=True, help="steps at once")
@click.option("--pool", type=click.Choice(["prefork", "threads"]), default="prefork")
@click.option(
    "--name", default="worker", show_default=True, callback=_worker_name, help="unique on a host"
)
@click.option("--once", is_flag=True, help="do not start again: something else supervises it")
@click.pass_obj
def worker(settings: Settings, /, once: bool, **options: Any) -> None:
    """Execute steps. It starts again by itself when it ends."""
    from orchestrator.local import supervisor
    from orchestrator.local.stack import worker_command, worker_program

    with open_database(database_url(settings)):
        pass  # its schema is good
    command = worker_command(**options)
    if once:
        config.execute(command, "worker")
    program = worker_program(options["name"], command, settings.drain_grace)
    supervisor.exec_supervised(program, settings.data_dir.absolute())


@main.command()
@click.pass_obj
def scheduler(settings: Settings) -> None:
    """Run the sweeps: admit, publish, rescue, wake, expire. Any number may run."""
    database_url(settings)  # there is one
    _exec_module("scheduler", "workers.scheduler.main")


@main.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Bring the database's schema up to date, and make the first tenant and key."""
    from orchestrator.access import secrets
    from orchestrator.db import schema
    from orchestrator.local.stack import prepare_database

    url, key = database_url(settings), secrets.admin_key(settings)
    migrated = prepare_database(url, key, only=bool(settings.admin_key))
    if migrated is None:
        click.echo(f"schema {schema.latest_version()} is up to date")
    else:
        click.echo(f"schema {migrated.before or 'empty'} → {migrated.after}")
        # A new schema is created with row-level security.
        for each in migrated.repaired if migrated.before else ():
            click.echo(f"row-level security was repaired: {each}")
    if not settings.admin_key:
        click.echo(f"the admin key is in {settings.data_dir / 'admin.key'}")


def _exec_module(process: str, module: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals reach the program itself."""
    config.execute([sys.executable, "-m", module, *arguments], process)


for command in (*runs.COMMANDS, *admin.COMMANDS):
    main.add_command(command)
