"""Names are nouns and verbs that a reader would search for, not past participles."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("orchestrator", "api", "workers", "config", "examples", "tests")
# Say what it is instead: rows, statement, message, params, output, MAX_….
BANNED = re.compile(
    r"_?(found|asked|told|given|said|heard|wanted|looked|taken|spoke)"
    r"|_?((MOST|LONGEST|LARGEST|DEEPEST|SHORTEST|FEWEST)(_\w+)?|\w+_(MOST|LONGEST|LARGEST))"
    r"|\w+(Asked|Told|Shown|Listed|Made|Said)"
)


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What is defined: functions, classes, parameters, variables, attributes, aliases."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno


def banned(path: Path) -> list[str]:
    """The banned names that a file defines, each with its line."""
    tree = ast.parse(path.read_text())
    return [f"{path}:{line} {name}" for name, line in _names(tree) if BANNED.fullmatch(name)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_is_a_past_participle_or_a_superlative(folder: str) -> None:
    assert [each for path in (ROOT / folder).rglob("*.py") for each in banned(path)] == []
