"""The reference tenant, and an API asked with its key."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from tests import reference
from tests.conftest import empty

GOLDEN = Path(__file__).parent / "golden"
Golden = Callable[[str, Any], None]


@pytest.fixture
def reference_api(engine: Engine, app: Flask) -> Iterator[FlaskClient]:
    """An API without credentials, whose database has the reference tenant and nothing else."""
    with engine.begin() as connection:
        reference.write(connection)
    yield app.test_client()
    with engine.begin() as connection:
        empty(connection)
        reference.remove(connection)


@pytest.fixture
def golden() -> Golden:
    """Compare with a golden file; `GOLDEN=write` makes it anew, to be read before it is kept."""

    def compare(name: str, found: Any) -> None:
        path = GOLDEN / f"{name}.json"
        if os.environ.get("GOLDEN") == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        assert found == json.loads(path.read_text())

    return compare
