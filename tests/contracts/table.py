"""The table of rows: what each test shows of each API, and which fields the golden files compare.

`python -m tests.contracts.table` writes docs/contracts/rows.md from the markers `row` of tests, and
from the golden files.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from api.contracts import CONTRACTS
from tests.contracts import goldens
from tests.support.openapi import NAMES, documents

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "contracts" / "rows.md"
ALL = "all"
TITLES = {
    **{contract.name: contract.title for contract in CONTRACTS},
    "native": "The native API",
    ALL: "Every API",
}
_HEAD = """# What each API answers, row by row

`make rows` writes this page from the tests: a row for each marker `row`, and one for each answer
that a [golden file](../../tests/contracts/golden) has, with the fields that are compared. *OK* is
as published. [contracts.md](../contracts.md) has the APIs themselves.
"""


class Row(NamedTuple):
    """What a marker says of the test that has it."""

    api: str
    text: str
    test: str
    otherwise: str | None


def rows() -> list[Row]:
    """The rows of all tests, in the order of their files."""
    paths = [path for path in sorted(TESTS.rglob("test_*.py")) if "node_modules" not in path.parts]
    return [row for path in paths for row in _rows_of(path)]


def _rows_of(path: Path) -> Iterator[Row]:
    text = path.read_text()
    if "mark.row(" not in text:
        return
    place = path.relative_to(TESTS).with_suffix("")
    for part in ast.parse(text).body:
        name = f"{place}::{part.name}" if isinstance(part, ast.FunctionDef) else str(place)
        for call in (each for each in ast.walk(part) if isinstance(each, ast.Call)):
            if ast.unparse(call.func) == "pytest.mark.row":
                options = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
                says = ast.literal_eval(call.args[0])
                yield Row(_api_of(place), says, name, options.get("otherwise"))


def _api_of(place: Path) -> str:
    """The API that a file of tests is about, by its folder or its name."""
    words = {*place.parts, *place.name.split("_")}
    return next((name for name in NAMES if name in words), ALL)


def page() -> str:
    """The page, as it should be."""
    marked, compared = rows(), _compared()
    parts = [_HEAD]
    for name, title in TITLES.items():
        shown = [_shown(row) for row in marked if row.api == name]
        fields = compared.get(name, [])
        if shown or fields:
            parts.append(f"\n## {title}\n")
        if shown:
            parts.append("\n| row | | proved by |\n|---|---|---|\n" + "".join(shown))
        if fields:
            parts.append("\n| answer | fields | compared by |\n|---|---|---|\n" + "".join(fields))
    return "".join(parts)


def _shown(row: Row) -> str:
    reason = (row.otherwise or "").removeprefix("because ")
    verdict = f"*chosen otherwise, because {reason}*" if reason else "OK"
    return f"| {_cell(row.text)} | {_cell(verdict)} | `{row.test}` |\n"


def _compared() -> dict[str, list[str]]:
    """The rows of the golden files by API, one for each operation and status."""
    members: dict[tuple[str, int], dict[str, None]] = {}
    tests: dict[tuple[str, int], dict[str, None]] = {}
    for entry in goldens.index().values():
        key = entry.operation, entry.status
        members.setdefault(key, {})
        tests.setdefault(key, {})[f"`contracts/{entry.test.replace('.py', '')}`"] = None
    for body in goldens.bodies():
        key = body.entry.operation, body.entry.status
        members[key] |= dict.fromkeys(f"`{each}`" for each in goldens.members(body))
    compared: dict[str, list[str]] = {}
    for key, names in members.items():
        fields = ", ".join(names) or "the whole body"
        line = f"| `{key[0]}` {key[1]} | {_cell(fields)} | {', '.join(tests[key])} |\n"
        compared.setdefault(documents().names[key[0]], []).append(line)
    return compared


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
