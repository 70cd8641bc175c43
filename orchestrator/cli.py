"""The command `orchestrator`: start the processes, and speak to a running API."""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from config.settings import PREFIX, Settings
from orchestrator.errors import OrchestratorError


class _Group(click.Group):
    """Shows an error of ours as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from orchestrator.client import ApiError

        try:
            return super().invoke(ctx)
        except (OrchestratorError, ApiError) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group)
@click.version_option(package_name="orchestrator")
@click.pass_context
def main(context: click.Context) -> None:
    """Durable runs on Celery: trigger, watch, cancel, resume."""
    try:
        context.obj = Settings.from_env()
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--port", default=8000, show_default=True, help="of the API")
@click.option("--data-dir", type=click.Path(path_type=Path), help="for Postgres, keys and logs")
@click.option("--workers", default=1, show_default=True, help="worker processes")
@click.option("--concurrency", default=2, show_default=True, help="steps at once, each worker")
@click.option("--flower/--no-flower", default=True, help="Celery's own inspection page")
@click.pass_obj
def up(settings: Settings, /, **asked: Any) -> None:
    """Start everything on this machine and stay until Ctrl-C."""
    from orchestrator.stack import Stack

    with Stack(settings, **asked) as stack:
        click.echo(stack.greeting())
        stack.wait()
        click.echo("\nStopping …")
    click.echo("Stopped.")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
def api(host: str, port: int) -> None:
    """Serve the REST API."""
    _become("gunicorn", "-c", "python:config.gunicorn", "-b", f"{host}:{port}", "api.app:serve()")


@main.command()
@click.option("--queues", default="default", show_default=True, help="a,b,c")
@click.option("--concurrency", default=2, show_default=True, help="steps at once")
@click.option("--pool", type=click.Choice(["prefork", "threads"]), default="prefork")
@click.option("--name", default="worker", show_default=True, help="tells workers of a host apart")
@click.option("--once", is_flag=True, help="do not start again: something else supervises it")
@click.pass_obj
def worker(settings: Settings, /, once: bool, **asked: Any) -> None:
    """Execute steps. It starts again by itself when it ends."""
    from orchestrator import local, stack

    _check_schema(settings)
    command = stack.worker_command(**asked)
    if once:
        os.execv(command[0], command)
    program = local.Program(asked["name"], tuple(command))
    local.supervise(program, settings.data_dir.resolve())


@main.command()
@click.pass_obj
def scheduler(settings: Settings) -> None:
    """Run the sweeps: admit, publish, rescue, wake, expire. Any number may run."""
    _check_schema(settings)
    _become("workers.scheduler")


@main.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Bring the database's schema up to date, and make the first tenant and key."""
    from orchestrator import local, stack

    before, after = stack.prepare(_database_url(settings), local.admin_key(settings))
    click.echo(f"schema {before or 'empty'} → {after}")
    if not settings.admin_key:
        click.echo(f"the admin key is in {settings.data_dir / 'admin.key'}")


@main.command()
@click.option("-f", "--file", "path", required=True, type=click.Path(exists=True, path_type=Path))
@click.pass_obj
def apply(settings: Settings, path: Path) -> None:
    """Register the workflows of a YAML, JSON or Python file."""
    client = _client(settings)
    for spec in _specs(path):
        shown = client.apply(spec)
        click.echo(f"{shown['name']} version {shown['version']}")


@main.command()
@click.argument("workflow")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="repeatable")
@click.option("--priority", type=click.IntRange(0, 9))
@click.option("--version", type=int)
@click.option("--reason")
@click.option("--tag", "tags", multiple=True)
@click.option("--watch", is_flag=True, help="follow it; exit 1 unless it succeeds")
@click.pass_obj
def run(
    settings: Settings, /, workflow: str, params: tuple[str, ...], watch: bool, **asked: Any
) -> None:
    """Submit a run of WORKFLOW."""
    client = _client(settings)
    asked["tags"] = list(asked["tags"])
    given = {name: value for name, value in asked.items() if value is not None}
    submitted = client.submit(workflow, dict(_param(each) for each in params), **given)
    if not watch:
        click.echo(submitted["id"])
        return
    from rich.console import Console

    from orchestrator import display

    ended = display.watch(client.follow(submitted["id"]), Console())
    sys.exit(0 if ended["state"] == "succeeded" else 1)


@main.command()
@click.option("--workflow", multiple=True)
@click.option("--state", multiple=True)
@click.option("--limit", default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def runs(settings: Settings, /, as_json: bool, **query: Any) -> None:
    """List runs, the latest first."""
    from rich.console import Console

    from orchestrator import display

    found = _client(settings).runs(**query)["items"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        display.table(found, Console())


@main.command()
@click.argument("run_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def show(settings: Settings, run_id: str, as_json: bool) -> None:
    """Show a run and its steps."""
    _print_run(_client(settings).run(run_id), as_json)


@main.command()
@click.argument("run_id", metavar="ID")
@click.option("--reason")
@click.option("--force", is_flag=True, help="kill what runs at once")
@click.option("--grace", help="what running steps get, like 10s")
@click.pass_obj
def cancel(settings: Settings, /, run_id: str, **asked: Any) -> None:
    """Cancel a run."""
    given = {name: value for name, value in asked.items() if value}
    _print_run(_client(settings).cancel(run_id, **given))


@main.command()
@click.argument("run_id", metavar="ID")
@click.option("--mode", type=click.Choice(["from_failed", "full", "from_step"]))
@click.option("--step", help="with --mode from_step")
@click.option("--as", "as_", type=click.Choice(["same", "new"]), help="run it is done in")
@click.pass_obj
def retry(settings: Settings, /, run_id: str, as_: str | None, **asked: Any) -> None:
    """Run again what failed, everything, or from one step on."""
    given = {name: value for name, value in {**asked, "as": as_}.items() if value}
    _print_run(_client(settings).retry(run_id, **given))


def _become(module: str, *arguments: str) -> NoReturn:
    """Replace this process: signals reach the program itself."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def _client(settings: Settings) -> Any:
    from orchestrator import local
    from orchestrator.client import Client

    written = settings.data_dir / "url"
    url = settings.url or (written.read_text() if written.exists() else "http://127.0.0.1:8000")
    return Client(url, settings.key or local.admin_key(settings))


def _database_url(settings: Settings) -> str:
    if not settings.database_url:
        raise click.ClickException(
            f"set {PREFIX}DATABASE_URL; only `orchestrator up` brings a Postgres of its own"
        )
    return settings.database_url


def _check_schema(settings: Settings) -> None:
    """Refuse to start on an old schema, with the command that mends it."""
    from orchestrator import schema
    from orchestrator.db import make_engine

    engine = make_engine(_database_url(settings), pool_size=1)
    schema.check(engine)
    engine.dispose()


def _param(text: str) -> tuple[str, Any]:
    """`name=value`, the value JSON if it is that, else text."""
    name, found, value = text.partition("=")
    if not found:
        raise click.BadParameter(f"{text!r}: write it as name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _specs(path: Path) -> list[dict[str, Any]]:
    """The specs in a file: YAML documents, JSON, or the workflows of a Python module."""
    import yaml

    if path.suffix == ".py":
        from orchestrator import Workflow

        sys.path.insert(0, str(Path.cwd()))
        relative = path.resolve().relative_to(Path.cwd())
        module = importlib.import_module(".".join(relative.with_suffix("").parts))
        found = [each.spec for each in vars(module).values() if isinstance(each, Workflow)]
    else:
        try:
            found = [each for each in yaml.safe_load_all(path.read_text()) if each is not None]
        except yaml.YAMLError as error:
            raise click.ClickException(f"{path} is not YAML: {error}") from None
    if not found:
        raise click.ClickException(f"{path} has no workflow")
    return found


def _print_run(run: dict[str, Any], as_json: bool = False) -> None:
    from rich.console import Console

    from orchestrator import display

    if as_json:
        click.echo(json.dumps(run, indent=2))
    else:
        display.show(run, Console())
