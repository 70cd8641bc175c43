"""Clients generated from the six documents, in Python and TypeScript, read every golden body."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.contracts.goldens import Body, bodies
from tests.support import node
from tests.support.openapi import NAMES, documents

# Its parameters `status` and `status[]` get one name in Python: the generator passes it over.
PASSED_OVER = {
    "GET /api/pipeline_runs",
    "GET /api/pipeline_schedules/{pk}/pipeline_runs",
}
_MODEL = re.compile(r"#/components/schemas/(\w+)")
_ADDRESS = re.compile(r'"method": "(\w+)",\s+"url": "([^"]+)"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the six documents."""
    folder = tmp_path_factory.mktemp("documents")
    for name in NAMES:
        (folder / f"{name}.json").write_text(json.dumps(documents().documents[name]))
    return folder


def _generate(folder: Path, name: str) -> str:
    """The name of the Python package that is generated from a document."""
    package = f"{name}_client"
    config = folder / "config.yaml"
    config.write_text("post_hooks: []\n")
    words = ["--path", folder / f"{name}.json", "--output-path", folder / package]
    options = ["--meta", "none", "--config", config]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", *words, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return package


def _endpoints(folder: Path, package: str) -> Iterator[tuple[str, ModuleType]]:
    """The modules of a package by the operation that each calls."""
    for path in (folder / package / "api").rglob("*.py"):
        if address := _ADDRESS.search(path.read_text()):
            module = ".".join(path.relative_to(folder).with_suffix("").parts)
            yield f"{address[1].upper()} {address[2]}", importlib.import_module(module)


def _shape(value: Any) -> Any:
    """A body without the texts: a client writes the same times in another form."""
    if isinstance(value, dict):
        return {name: _shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return "text" if isinstance(value, str) else value


def _written(parsed: Any) -> Any:
    """What a client read, written again."""
    if isinstance(parsed, list):
        return [_written(each) for each in parsed]
    return parsed.to_dict() if hasattr(parsed, "to_dict") else parsed


def _content(body: Body) -> Any:
    return documents().content(body.entry.operation, body.entry.status)


def _is_read(model: Any, value: Any) -> bool:
    try:
        return bool(_shape(model.from_dict(value).to_dict()) == _shape(value))
    except (KeyError, TypeError, ValueError):
        return False


@pytest.mark.row("every golden body: clients of openapi-python-client read it")
@pytest.mark.parametrize("name", NAMES)
def test_a_python_client_reads_every_golden_body(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    package = _generate(folder, name)
    endpoints = dict(_endpoints(folder, package))
    client = importlib.import_module(package).Client(
        base_url="http://127.0.0.1", raise_on_unexpected_status=True
    )

    operations = {each for each, document in documents().names.items() if document == name}
    assert endpoints.keys() == operations - PASSED_OVER
    models = importlib.import_module(f"{package}.models")
    for body in (each for each in bodies() if each.entry.operation in operations & PASSED_OVER):
        kinds = [getattr(models, each) for each in _MODEL.findall(json.dumps(_content(body)))]
        assert any(_is_read(kind, body.value) for kind in kinds), body.name
    for body in (each for each in bodies() if each.entry.operation in endpoints):
        answer = httpx.Response(body.entry.status, json=body.value)
        parsed = endpoints[body.entry.operation]._parse_response(client=client, response=answer)
        assert _shape(_written(parsed)) == _shape(body.value), body.name


def _assignment(number: int, body: Body) -> str:
    """The line of TypeScript that gives a golden body the type of its operation."""
    method, path = body.entry.operation.split(" ")
    name = documents().names[body.entry.operation]
    responses = documents().documents[name]["paths"][path][method.lower()]["responses"]
    status = body.entry.status if str(body.entry.status) in responses else '"default"'
    keys = json.dumps(path), json.dumps(method.lower()), '"responses"', status, '"content"'
    type_ = f"{name}{''.join(f'[{key}]' for key in (*keys, json.dumps(body.entry.mimetype)))}"
    return f"// {body.name}\nexport const body{number}: {type_} = {json.dumps(body.value)};\n"


@node.needed
@pytest.mark.row("every golden body: it has the type that openapi-typescript says (`tsc --strict`)")
def test_typescript_clients_read_every_golden_body(folder: Path) -> None:
    node.run("generate.mjs", folder, *NAMES)
    imports = [f'import type {{ paths as {name} }} from "./{name}";\n' for name in NAMES]
    lines = [_assignment(number, body) for number, body in enumerate(bodies())]
    (folder / "bodies.ts").write_text("".join(imports + lines))

    compiler = node.PACKAGES / "typescript" / "bin" / "tsc"
    options = "--strict --noEmit --module esnext --moduleResolution bundler --target es2022"
    node.run(compiler, *options.split(), folder / "bodies.ts")
