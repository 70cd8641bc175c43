"""Commands about workflows and runs: apply, run, runs, show, explain, cancel, retry."""

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from config.settings import Settings
from orchestrator.cli.connection import client_of
from orchestrator.errors import Invalid

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("-f", "--file", "path", required=True, type=_FILE)
@click.option("--project", help="where they go; the tenant's first unless they have one")
@click.pass_obj
def apply(settings: Settings, path: Path, project: str | None) -> None:
    """Register the workflows of a YAML, JSON or Python file."""
    client = client_of(settings)
    query = {"project": project} if project else {}
    for spec in _specs(path):
        workflow = client.apply(spec, **query)
        click.echo(f"{workflow['name']} version {workflow['version']}")


@click.command()
@click.argument("workflow")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="repeatable")
@click.option("--priority", type=click.IntRange(0, 9), help="higher goes first")
@click.option("--version", type=int, help="of the workflow; the latest unless you say")
@click.option("--reason", help="why it is started")
@click.option("--tag", "tags", multiple=True, help="repeatable")
@click.option("--watch", is_flag=True, help="follow it; exit 1 unless it succeeds")
@click.pass_obj
def run(
    settings: Settings, /, workflow: str, params: tuple[str, ...], watch: bool, **options: Any
) -> None:
    """Submit a run of WORKFLOW."""
    client = client_of(settings)
    options["tags"] = list(options["tags"])
    body = {name: value for name, value in options.items() if value is not None}
    submitted = client.submit(workflow, _params(params), **body)
    if not watch:
        click.echo(submitted["id"])
        return
    from rich.console import Console

    from orchestrator.cli import display

    click.echo(f"run {submitted['id']}", err=True)  # to find it again after Ctrl-C
    ended = display.watch(client.follow(submitted["id"]), Console())
    sys.exit(0 if ended["state"] == "succeeded" else 1)


@click.command()
@click.option("--workflow", multiple=True, help="repeatable")
@click.option("--state", multiple=True, help="repeatable")
@click.option("--limit", default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.pass_obj
def runs(settings: Settings, /, as_json: bool, **query: Any) -> None:
    """List runs, the latest first."""
    from rich.console import Console

    from orchestrator.cli import display

    items = client_of(settings).runs(**query)["items"]
    if as_json:
        click.echo(json.dumps(items, indent=2))
    else:
        display.table(items, Console())


@click.command()
@click.argument("run_id", metavar="ID", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.pass_obj
def show(settings: Settings, run_id: UUID, as_json: bool) -> None:
    """Show a run and its steps."""
    _print_run(client_of(settings).run(str(run_id)), as_json)


@click.command()
@click.argument("run_id", metavar="ID", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.pass_obj
def explain(settings: Settings, run_id: UUID, as_json: bool) -> None:
    """Explain why a run, and each of its steps, does not go on."""
    explanation = client_of(settings).explain(str(run_id))
    if as_json:
        click.echo(json.dumps(explanation, indent=2))
        return
    click.echo(f"{explanation['state']}: {explanation['cause']['text']}")
    for step in explanation["steps"]:
        click.echo(f"  {step['key']} {step['state']}: {step['cause']['text']}")


@click.command()
@click.argument("run_id", metavar="ID", type=click.UUID)
@click.option("--reason", help="why")
@click.option("--force", is_flag=True, help="kill what runs at once")
@click.option("--grace", help="what running steps get, like 10s")
@click.pass_obj
def cancel(settings: Settings, /, run_id: UUID, **options: Any) -> None:
    """Cancel a run."""
    body = {name: value for name, value in options.items() if value}
    _print_run(client_of(settings).cancel(str(run_id), **body))


@click.command()
@click.argument("run_id", metavar="ID", type=click.UUID)
@click.option("--mode", type=click.Choice(["from_failed", "full", "from_step"]))
@click.option("--step", help="with --mode from_step")
@click.option("--as", "as_", type=click.Choice(["same", "new"]), help="run it is done in")
@click.pass_obj
def retry(settings: Settings, /, run_id: UUID, as_: str | None, **options: Any) -> None:
    """Run again what failed, everything, or from one step on."""
    body = {name: value for name, value in {**options, "as": as_}.items() if value}
    _print_run(client_of(settings).retry(str(run_id), **body))


def _params(words: tuple[str, ...]) -> dict[str, Any]:
    """Parse each `name=value`; the value is JSON, else text."""
    from orchestrator.cli.documents import NotJson, parse_json

    params: dict[str, Any] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not name or not separator:
            raise click.BadParameter(f"{word!r}: write it as name=value")
        if name in params:
            raise click.BadParameter(f"{word!r}: {name} is here twice")
        try:
            params[name] = parse_json(value)
        except json.JSONDecodeError:
            params[name] = value
        except NotJson as error:
            raise click.BadParameter(f"{name}: {error}; a text is written {name}='\"…\"'") from None
        except RecursionError:
            raise click.BadParameter(f"{name}: it is nested too deeply") from None
    return params


def _specs(path: Path) -> list[dict[str, Any]]:
    """The specs in a file: YAML documents, JSON, or the workflows of a Python module."""
    from orchestrator.cli.documents import read_documents

    specs = _specs_of_module(path) if path.suffix == ".py" else read_documents(path)
    if not specs:
        raise click.ClickException(f"{path} has no workflow")
    for spec in specs:
        if not isinstance(spec, dict):
            raise click.ClickException(f"{path}: a workflow is an object with `name` and `steps`")
    return specs


def _specs_of_module(path: Path) -> list[dict[str, Any]]:
    """The specs of a module's workflows. Raises ClickException if it cannot be imported."""
    from orchestrator import Workflow

    # The name by which a worker imports it: from here, or from the folder that it is in.
    path = path.resolve()
    root = Path.cwd() if path.is_relative_to(Path.cwd()) else path.parent
    sys.path.insert(0, str(root))
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    try:
        module = importlib.import_module(name)
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}"
        raise click.ClickException(f"{place}: {error.msg}") from None
    except Invalid as error:
        mistakes = [f"\n  {each.pointer}: {each.detail}" for each in error.mistakes]
        raise click.ClickException(f"{path}: {error}{''.join(mistakes)}") from None
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename}, line {frame.lineno}"
        raise click.ClickException(f"{place}: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(str(root))
    if module.__file__ is None or not path.samefile(module.__file__):
        raise click.ClickException(
            f"{path} cannot be imported: {name} is another module; rename the file"
        )
    return [each.spec for each in vars(module).values() if isinstance(each, Workflow)]


def _print_run(run: dict[str, Any], as_json: bool = False) -> None:
    from rich.console import Console

    from orchestrator.cli import display

    if as_json:
        click.echo(json.dumps(run, indent=2))
    else:
        display.show(run, Console())


COMMANDS = (apply, run, runs, show, explain, cancel, retry)
