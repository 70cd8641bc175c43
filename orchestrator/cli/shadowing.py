"""Refuses to start where a module of the user hides one of this project's top-level packages.

Their names are common, and the current folder comes first on the path of what `python -m` starts.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def refuse_shadowing(*packages: str, path: Sequence[str]) -> None:
    """End with status 1 and one line if a package would be imported from elsewhere."""
    for name in packages:
        spec = PathFinder.find_spec(name, path)
        ours = _ROOT / name / "__init__.py"
        if spec and spec.origin and not ours.samefile(spec.origin):
            sys.exit(
                f"Error: {spec.origin} hides the package {name!r} of orchestrator;"
                " rename it, or start from another folder"
            )
