"""`make demo`: the whole system on this machine, and one run of the example over HTTP."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console

from config.settings import Settings
from orchestrator.cli import display
from orchestrator.client import Client
from orchestrator.local import processes
from orchestrator.local.stack import Stack

EXAMPLE = Path(__file__).parent / "ecb_fx"
DAY = "2021-07-01"


@click.command()
@click.option("--date", default=DAY, show_default=True, help="a day of the ECB's reference rates")
@click.option("--data-dir", default=".orchestrator/demo", type=click.Path(path_type=Path))
def main(date: str, data_dir: Path) -> None:
    """Load one day of the ECB's reference rates through real worker processes."""
    console = Console()
    settings = replace(Settings.from_env(), steps=("examples.ecb_fx.steps",))
    console.print("Starting Postgres, Redis, the API, a scheduler and a worker …")
    with Stack(settings, port=processes.free_port(), data_dir=data_dir, flower=False) as stack:
        client = Client(stack.url, stack.key)
        spec = yaml.safe_load((EXAMPLE / "workflow.yaml").read_text())
        workflow = client.apply(spec)
        console.print(f"Applied workflow {workflow['name']} version {workflow['version']}.")
        run = client.submit(spec["name"], {"date": date})
        request = f"POST {stack.url}/api/v1/runs → 201, run {run['number']} ({run['id']})\n"
        console.print(request, soft_wrap=True)
        ended = display.watch(client.follow(run["id"]), console)
        succeeded = ended["state"] == "succeeded"
        if succeeded:
            loaded = ended["steps"][-1]["result"]
            where = stack.environ["ORCHESTRATOR_DATABASE_URL"]
            console.print(f"\nStored in table {loaded['table']} of {where}", soft_wrap=True)
            _show_files(client, ended, console)
        console.print("Stopping everything …")
    if succeeded:
        console.print(f"[bold green]{loaded['message']}[/]")
    sys.exit(0 if succeeded else 1)


def _show_files(client: Client, run: dict[str, Any], console: Console) -> None:
    console.print("Files of the run, at addresses that need no key while the API runs:")
    for each in client.artifacts(run["id"]):
        line = f"  {each['name']}  {each['media_type']}, {each['size']:,} bytes"
        console.print(f"{line}\n  {client.url}{each['url']}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
