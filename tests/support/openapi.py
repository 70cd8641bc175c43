"""Answers of the API, and whether they are as its OpenAPI documents say."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from flask import Flask, Response, request, request_finished
from jsonschema import Draft202012Validator

from api.app import create_app
from api.contracts import CONTRACTS, owner
from config.settings import Settings

NAMES = ["native", *(contract.name for contract in CONTRACTS)]
_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")  # of a Flask rule
_NOWHERE: dict[str, Any] = {
    "database_url": "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
    "redis_url": "redis://127.0.0.1:1/0",
}
_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Answer:
    """A response to an operation: `GET /api/v1/runs/{run_id}`."""

    operation: str
    status: int
    mimetype: str
    data: bytes | None  # None: it was streamed

    @property
    def body(self) -> Any:
        """The JSON, or the text."""
        text = (self.data or b"").decode(errors="replace")
        return json.loads(text) if text and self.mimetype.endswith("json") else text


@contextmanager
def recorded() -> Iterator[list[Answer]]:
    """The answers of all applications of this process, as they are given."""
    answers: list[Answer] = []

    def record(_: Flask, response: Response, **__: Any) -> None:
        foreign = request.blueprint in NAMES and owner(CONTRACTS) is None
        if request.url_rule is not None and not foreign:
            address = _PARAMETER.sub(r"{\1}", request.url_rule.rule)
            operation = f"{request.method} {address}"
            streamed = response.is_streamed or response.direct_passthrough
            data = None if streamed else response.get_data()
            answers.append(Answer(operation, response.status_code, response.mimetype, data))

    with request_finished.connected_to(record):
        yield answers


class Documents:
    """The OpenAPI documents of all APIs; neither Postgres nor Redis is needed for them."""

    def __init__(self) -> None:
        client = create_app(Settings(**_NOWHERE)).test_client()
        self.documents: dict[str, Any] = {
            name: client.get(f"/openapi/{name}.json".replace("/native", "")).json for name in NAMES
        }
        self.names = {  # of the document of each operation
            f"{method.upper()} {path}": name
            for name, document in self.documents.items()
            for path, item in document["paths"].items()
            for method in _METHODS
            if method in item
        }
        self._validators: dict[tuple[str, str, str], Draft202012Validator | None] = {}

    def content(self, operation: str, status: int) -> Mapping[str, Any]:
        """What is documented of an answer, by content type; errors have a default."""
        method, path = operation.split(" ")
        document = self.documents[self.names[operation]]
        responses = document["paths"][path][method.lower()]["responses"]
        response = responses.get(str(status)) or (responses["default"] if status >= 400 else {})
        if "$ref" in response:
            response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        content: Mapping[str, Any] = response.get("content", {})
        return content

    def schema(self, operation: str, status: int, mimetype: str) -> Any:
        """The JSON schema of an answer with all that it refers to; None for no such one."""
        content = self.content(operation, status)
        documented = content.get(mimetype) or content.get("*/*")
        if documented is None:
            return None
        components = self.documents[self.names[operation]]["components"]
        return {**documented["schema"], "components": components}

    def mistakes(self, answer: Answer) -> list[str]:
        """What an answer has that its document has not, or otherwise."""
        if answer.operation not in self.names or answer.status in (204, 304):
            return []
        key = answer.operation, str(answer.status), answer.mimetype
        if key not in self._validators:
            schema = self.schema(answer.operation, answer.status, answer.mimetype)
            self._validators[key] = schema and Draft202012Validator(
                schema, format_checker=Draft202012Validator.FORMAT_CHECKER
            )
        validator = self._validators[key]
        if validator is None:
            return [f"{' '.join(key)} is not documented"]
        if answer.data is None:
            return []
        return [
            f"{' '.join(key)} {error.json_path}: {error.message[:300]}"
            for error in validator.iter_errors(answer.body)
        ]


@cache
def documents() -> Documents:
    """The documents, which are made once in a process."""
    return Documents()
