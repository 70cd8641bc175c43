"""The pages for contributors name what exists, and their walks through the code go forward."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
NAME = re.compile(r"`([\w/]+\.py)::([\w.]+)`")
PATH = re.compile(r"`((?:orchestrator|api|workers|config|tests|docs|examples)/[\w/.-]*)[`:]")


def _page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def _defined(module: str) -> frozenset[str]:
    """The functions, classes, methods and constants of a module: `Database.transaction`."""
    names = set()
    for node in ast.parse(_page(module)).body:
        match node:
            case ast.FunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name, body=body):
                methods = [each for each in body if isinstance(each, ast.FunctionDef)]
                names |= {name, *(f"{name}.{method.name}" for method in methods)}
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return frozenset(names)


@pytest.mark.parametrize(
    ("module", "name"), sorted({pair for page in PAGES for pair in NAME.findall(_page(page))})
)
def test_every_function_that_a_page_names_exists(module: str, name: str) -> None:
    assert name in _defined(module)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_folder_that_a_page_names_exists(page: str) -> None:
    paths = [path for path in PATH.findall(_page(page)) if not (ROOT / path).exists()]

    assert paths == []


class Walk(NamedTuple):
    """A walk through the code: its heading, its picture, and its list of files."""

    heading: str
    picture: str
    stops: str


def _walks() -> list[Walk]:
    sections = [section.partition("\n") for section in _page(PAGES[0]).split("\n## ")]
    parts = [(heading, body.partition("```mermaid\n")[2]) for heading, _, body in sections]
    return [
        Walk(heading, picture, stops)
        for heading, after in parts
        for picture, _, stops in [after.partition("\n```\n")]
        if picture
    ]


WALKS = pytest.mark.parametrize("walk", _walks(), ids=lambda walk: walk.heading)


@WALKS
def test_a_picture_names_only_functions_of_its_walk(walk: Walk) -> None:
    functions = {name.rpartition(".")[2] for _, name in NAME.findall(walk.stops)}
    drawn = set(re.findall(r"\b(\w+)\(\)", walk.picture))

    assert drawn
    assert drawn - functions == set()


@WALKS
def test_a_walk_comes_to_no_file_twice(walk: Walk) -> None:
    items = re.findall(r"^\d+\. .*", walk.stops, re.MULTILINE)
    stops = re.findall(r"^\d+\. `([\w/]+\.py)::", walk.stops, re.MULTILINE)

    assert len(stops) == len(items) > 5
    assert len(stops) == len(set(stops))


def test_there_is_a_walk_for_a_run_a_cancel_and_a_retry() -> None:
    assert [walk.heading for walk in _walks()] == [
        f"The life of a {word}" for word in ("run", "cancel", "retry")
    ]


def test_the_glossary_has_each_word_once_and_in_order() -> None:
    words = re.findall(r"^\| \*\*([\w -]+)\*\* \|", _page("docs/glossary.md"), re.MULTILINE)
    needed = re.findall(r"\*\*([\w -]+)\*\*", _page("README.md").partition("## Words")[2])

    assert words == sorted(set(words))
    assert len(needed) == 10
    assert set(needed) <= set(words)


def test_every_test_that_the_page_of_contracts_names_exists() -> None:
    _, *sections = _page("docs/contracts.md").split("\n### ")

    for name, _, text in (section.partition("\n") for section in sections):
        proofs = re.findall(r"`(test_\w+)::(test_\w+)`", text)
        assert len(proofs) >= 10
        for module, test in proofs:
            assert test in _defined(f"tests/contracts/{name.lower()}/{module}.py")
