"""The command `orchestrator`, also as `python -m orchestrator`."""

import sys

from orchestrator.cli.shadowing import refuse_shadowing


def main() -> None:
    """Run the command line, once it is known which `config` it would import."""
    refuse_shadowing("config", path=sys.path)
    from orchestrator.cli.main import main as command

    command(prog_name="orchestrator")


if __name__ == "__main__":
    main()
