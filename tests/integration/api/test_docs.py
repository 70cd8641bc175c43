"""The OpenAPI document, the documentation pages, and the health endpoints."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

from api.app import create_app
from api.contracts import CONTRACTS
from config.settings import Settings
from tests.support.factories import KEY
from tests.support.routes import native

NOWHERE = {
    "database_url": "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
    "redis_url": "redis://127.0.0.1:1/0",
}
VERBS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    """The OpenAPI document."""
    document: dict[str, Any] = client.get("/openapi.json").json
    return document


@pytest.fixture
def client_of(settings: Settings) -> Iterator[Callable[..., FlaskClient]]:
    """Makes an API with some settings changed."""
    with ExitStack() as exits:

        def make(**changes: str) -> FlaskClient:
            return exits.enter_context(_client(replace(settings, **changes)))

        yield make


@contextmanager
def _client(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    app.extensions["orchestrator"].database.engine.dispose()


def _operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every operation by method and address, with the parameters of its path."""
    return {
        (verb.upper(), address): {
            **path[verb],
            "parameters": [*path.get("parameters", []), *path[verb].get("parameters", [])],
        }
        for address, path in document["paths"].items()
        for verb in VERBS
        if verb in path
    }


def _inside(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from _inside(each)


def _resolve(document: dict[str, Any], reference: str) -> Any:
    """The target of a `$ref`."""
    assert reference.startswith("#/"), f"{reference} points to another document"
    target = document
    for part in reference.removeprefix("#/").split("/"):
        target = target[part.replace("~1", "/").replace("~0", "~")]
    return target


class _Page(HTMLParser):
    """The addresses that an HTML page loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value for name, value in attrs if name in ("src", "href") and value]


@pytest.mark.parametrize("path", ["/openapi.json", *(f"/openapi/{c.name}.json" for c in CONTRACTS)])
def test_the_document_is_written_once(client: FlaskClient, path: str) -> None:
    first, start = client.get(path), time.thread_time()
    assert {client.get(path).data for _ in range(50)} == {first.data}
    assert time.thread_time() - start < 1  # it takes a tenth of a second to write


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"].keys() >= {"title", "version"}
    assert document.keys() <= {
        "openapi", "info", "jsonSchemaDialect", "servers", "paths", "webhooks", "components",
        "security", "tags", "externalDocs",
    }  # fmt: skip


def test_every_route_is_documented(client: FlaskClient, document: dict[str, Any]) -> None:
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in native(client.application)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert _operations(document).keys() == served


def test_every_operation_says_what_it_does_takes_and_gives(document: dict[str, Any]) -> None:
    for (method, address), operation in _operations(document).items():
        assert operation["summary"], (method, address)
        assert operation["tags"], (method, address)
        assert any(code.startswith("2") for code in operation["responses"]), (method, address)
        in_path = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", address)), (method, address)
        assert all(
            each["required"] and "schema" in each
            for each in operation["parameters"]
            if each["in"] == "path"
        )
        assert ("requestBody" in operation) == (method not in ("GET", "DELETE")), address


def test_every_response_has_a_description(document: dict[str, Any]) -> None:
    for operation in _operations(document).values():
        for response in operation["responses"].values():
            assert (_resolve(document, response["$ref"]) if "$ref" in response else response)[
                "description"
            ]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = {each["$ref"] for each in _inside(document) if isinstance(each.get("$ref"), str)}

    assert references
    assert all(_resolve(document, reference) for reference in references)


def test_every_schema_is_a_json_schema(document: dict[str, Any]) -> None:
    used = [each["schema"] for each in _inside(document) if isinstance(each.get("schema"), dict)]

    for schema in [*document["components"]["schemas"].values(), *used]:
        Draft202012Validator.check_schema(schema)


def test_every_schema_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    assert [name for name in document["components"]["schemas"] if re.search(r"\d$", name)] == []


def test_every_way_to_send_a_key_is_documented(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]

    named = {name for each in document["security"] for name in each}

    assert named == schemes.keys()
    assert {(each["type"], each.get("scheme"), each.get("name")) for each in schemes.values()} == {
        ("http", "bearer", None),
        ("apiKey", None, "X-API-Key"),
        ("http", "basic", None),
        ("apiKey", None, "orchestrator_key"),
        ("oauth2", None, None),
    }


def test_the_idempotency_key_is_documented(document: dict[str, Any]) -> None:
    parameters = _operations(document)["POST", "/api/v1/runs"]["parameters"]

    assert ("header", "Idempotency-Key") in [(each["in"], each["name"]) for each in parameters]


def test_refusals_are_documented_as_they_are(client: FlaskClient, document: dict[str, Any]) -> None:
    problem = client.post("/api/v1/runs", json={}).json

    for operation in _operations(document).values():
        response = operation["responses"]["default"]
        content = _resolve(document, response["$ref"])["content"]
        assert content.keys() == {"application/problem+json"}
        schema = content["application/problem+json"]["schema"]
        shape = _resolve(document, schema["$ref"]) if "$ref" in schema else schema
        assert shape["properties"].keys() == problem.keys()


def test_what_the_document_promises_is_what_comes(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    spec = {"name": "work", "steps": [{"key": "s1", "uses": "noop"}]}
    replies = {
        ("POST", "/api/v1/workflows"): client.post("/api/v1/workflows", json=spec),
        ("POST", "/api/v1/runs"): client.post("/api/v1/runs", json={"workflow": "work"}),
        ("GET", "/api/v1/runs"): client.get("/api/v1/runs"),
        ("GET", "/api/v1/workflows"): client.get("/api/v1/workflows"),
    }

    for operation, reply in replies.items():
        responses = _operations(document)[operation]["responses"]
        schema = responses[str(reply.status_code)]["content"]["application/json"]["schema"]
        whole = {**schema, "components": document["components"]}
        mistakes = [error.message for error in Draft202012Validator(whole).iter_errors(reply.json)]
        assert mistakes == [], operation


def test_the_pages_load_only_what_this_server_has(client: FlaskClient) -> None:
    page = client.get("/docs/")

    loaded = _Page(page.text).loaded

    assert any(address.endswith("swagger-ui-bundle.js") for address in loaded)
    for address in loaded:
        assert re.match(r"/docs/[\w.-]+$", address), address
        assert client.get(address, buffered=True).status_code == 200
    hosts = set(re.findall(r"https?://([^/\"' ]+)", page.text))
    assert hosts <= {"localhost"}


def test_the_pages_ask_no_other_host_about_the_document(client: FlaskClient) -> None:
    page = client.get("/docs/").text

    match = re.search(r"user_config = ({.*?});", page)
    assert match is not None
    config = json.loads(match[1])

    assert config["urls"][0] == {"url": "/openapi.json", "name": "Orchestrator"}
    assert all(each["url"].startswith("/openapi") for each in config["urls"])
    assert config.get("validatorUrl", "https://validator.swagger.io") in (None, "none")


@pytest.mark.parametrize("address", ["/", "/docs"])
def test_a_browser_finds_the_pages(client: FlaskClient, address: str) -> None:
    reply = client.get(address, follow_redirects=True)

    assert (reply.status_code, reply.request.path) == (200, "/docs/")


def test_a_process_that_answers_is_healthy_whatever_is_away(
    client_of: Callable[..., FlaskClient],
) -> None:
    reply = client_of(**NOWHERE).get("/healthz")

    assert (reply.status_code, reply.json) == (200, {"status": "ok"})


def test_a_process_is_ready_when_all_it_needs_answers(client: FlaskClient) -> None:
    reply = client.get("/readyz")

    assert reply.status_code == 200
    assert reply.json == {"status": "ok", "database": "ok", "broker": "ok"}


@pytest.mark.parametrize(
    ("setting", "checks"),
    [
        ("redis_url", {"database": "ok", "broker": "away"}),
        ("database_url", {"database": "away", "broker": "ok"}),
    ],
)
def test_a_process_that_is_not_ready_names_what_is_away(
    client_of: Callable[..., FlaskClient], setting: str, checks: dict[str, str]
) -> None:
    reply = client_of(**{setting: NOWHERE[setting]}).get("/readyz")

    assert reply.status_code == 503
    assert reply.json == {"status": "not ready", **checks}


def test_without_postgres_a_request_is_told_to_come_back(
    client_of: Callable[..., FlaskClient],
) -> None:
    stranger = client_of(database_url=NOWHERE["database_url"])

    reply = stranger.get("/api/v1/runs", headers={"Authorization": f"Bearer {KEY}"})

    assert (reply.status_code, reply.json["code"]) == (503, "unavailable")
    assert reply.content_type == "application/problem+json"
    assert int(reply.headers["Retry-After"]) > 0
