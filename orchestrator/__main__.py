"""`python -m orchestrator` is the command `orchestrator`."""

from orchestrator.cli.main import main

main(prog_name="orchestrator")
