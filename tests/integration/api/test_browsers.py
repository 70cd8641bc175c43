"""What browsers are told: headers of every response, pages of other origins, the pages' scripts."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import flask_swagger_ui
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from config.response_headers import DEFAULT_HEADERS
from config.settings import Settings
from orchestrator.db.database import Database
from tests.support.factories import KEY, a_spec

RUNS = "/api/v1/runs"
OURS = "https://app.example.com"
ASK = {"Origin": OURS, "Access-Control-Request-Method": "POST"}
# Answers of every kind: of the native API and of contracts, with data, errors, redirects, pages.
PATHS = [
    RUNS, "/api/v1/keys", "/healthz", "/readyz", "/", "/docs", "/docs/", "/docs/swagger-ui.css",
    "/docs/swagger-ui-bundle.js", "/docs/nope", "/openapi.json", "/openapi/mage.json", "/nope",
    "/api/v1/nope", f"{RUNS}/nope", f"{RUNS}?limit=x", "/api/process-exec", "/api/process/nope",
    "/api/pipelines", "/api/v1/processes", "/api/v1/automations", "/oauth/token", "/oauth/nope",
    f"{RUNS}?x=%00",
]  # fmt: skip


@pytest.fixture
def client_of(settings: Settings, database: Database) -> Iterator[Callable[..., FlaskClient]]:
    """Makes an API with other settings."""
    with ExitStack() as exits:

        def make(**changes: Any) -> FlaskClient:
            app = create_app(replace(settings, **changes))
            services = app.extensions["orchestrator"]
            for each in (services.database, services.unscoped_database):
                exits.callback(each.engine.dispose)
            return app.test_client()

        yield make


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("key", [KEY, "wrong"])
def test_every_response_has_the_headers(
    client: FlaskClient, path: str, method: str, key: str
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    reply = client.open(path, method=method, headers=headers, buffered=True)

    assert set(DEFAULT_HEADERS) <= set(reply.headers.keys())
    for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy"):
        assert reply.headers.getlist(name) == [DEFAULT_HEADERS[name]]
    (policy,) = reply.headers.getlist("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    is_cacheable = (
        (reply.status_code, method in ("GET", "HEAD")) == (200, True)
        and path.startswith("/docs/")
        and path != "/docs/"
    )
    assert reply.headers["Cache-Control"] == ("no-cache" if is_cacheable else "no-store")


def test_an_error_of_ours_has_the_headers(client_of: Callable[..., FlaskClient]) -> None:
    client = client_of(database_url="postgresql+psycopg2://nobody@127.0.0.1:1/nothing")

    reply = client.get(RUNS, headers={"Authorization": f"Bearer {KEY}"})

    assert reply.status_code == 503
    assert {name: reply.headers[name] for name in DEFAULT_HEADERS} == DEFAULT_HEADERS


class _Page(HTMLParser):
    """What a page loads, its scripts, and what a strict policy would refuse."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.scripts: list[str] = []
        self.inline: list[str] = []
        self._is_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value for name, value in attrs if name in ("src", "href") and value]
        self._is_script = tag == "script" and "src" not in dict(attrs)
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag in ("style", "base", "form", "iframe") else []

    def handle_data(self, data: str) -> None:
        if self._is_script:
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False


def _sources(reply: TestResponse) -> dict[str, list[str]]:
    policy = reply.headers["Content-Security-Policy"]
    directives = [each.split() for each in policy.split(";")]
    return {name: values for name, *values in directives}


def test_the_pages_may_run_their_scripts_and_no_other(client: FlaskClient) -> None:
    reply = client.get("/docs/", headers={"Host": "a.example"})
    page, sources = _Page(reply.text), _sources(reply)

    assert len(page.scripts) == 1
    digest = hashlib.sha256(page.scripts[0].encode()).digest()
    assert sources["script-src"] == ["'self'", f"'sha256-{base64.b64encode(digest).decode()}'"]
    assert page.inline == []
    assert all(each.startswith("/docs/") for each in page.loaded)
    assert "a.example" not in reply.text  # a header of the request is in no script
    assert sources["style-src"] == sources["connect-src"] == ["'self'"]
    assert sources["img-src"] == ["'self'", "data:"]


def test_the_scripts_of_the_pages_need_nothing_else() -> None:
    folder = Path(flask_swagger_ui.__file__).parent / "dist"
    for name in ("swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"):
        script = (folder / name).read_text()
        for word in ('createElement("style")', "insertRule", "eval(", "new Worker", "<style>"):
            assert word not in script, name
        # Two old ways around what browsers have had for years, `globalThis` and `bind`.
        assert set(re.findall(r'(?<![\w$])Function\(("[^"]+")', script)) == {
            '"return this"', '"binder"'
        }  # fmt: skip


def test_no_page_of_another_origin_may_call_by_default(client: FlaskClient) -> None:
    for reply in (client.options(RUNS, headers=ASK), client.get(RUNS, headers={"Origin": OURS})):
        assert not [name for name, _ in reply.headers if name.startswith("Access-Control")]
    assert client.application.test_client().options(RUNS, headers=ASK).status_code == 401


@pytest.mark.parametrize(
    "path", [RUNS, "/api/process-exec", "/api/pipelines/x", "/oauth/token", "/healthz", "/nope"]
)
def test_the_question_of_a_browser_is_answered_without_a_key(
    client_of: Callable[..., FlaskClient], path: str
) -> None:
    names = "authorization,content-type,idempotency-key"
    headers = {**ASK, "Access-Control-Request-Headers": names}

    reply = client_of(cors_origins=(OURS,)).options(path, headers=headers)

    assert (reply.status_code, reply.data) == (204, b"")
    assert reply.headers["Access-Control-Allow-Origin"] == OURS
    assert reply.headers["Access-Control-Allow-Credentials"] == "true"
    assert reply.headers["Access-Control-Allow-Headers"] == names
    assert {"GET", "POST", "PUT", "PATCH", "DELETE"} <= set(
        reply.headers["Access-Control-Allow-Methods"].split(", ")
    )
    assert "Origin" in reply.headers["Vary"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "", "http://app.example.com", "https://app.example.com.evil",
        "https://app.example.com:444", "https://xapp.example.com", "https://app.example.com/", "*",
        "HTTPS://APP.EXAMPLE.COM", f"{OURS}, https://evil.example",
    ],
)  # fmt: skip
def test_another_origin_is_allowed_nothing(
    client_of: Callable[..., FlaskClient], origin: str
) -> None:
    client = client_of(cors_origins=(OURS, "http://localhost:3000"))
    key = {"Authorization": f"Bearer {KEY}"}

    asked_first = client.options(RUNS, headers={**ASK, "Origin": origin})
    reply = client.get(RUNS, headers={**key, "Origin": origin})

    assert asked_first.status_code == 401
    for each in (asked_first, reply):
        assert "Access-Control-Allow-Origin" not in each.headers
        assert "Origin" in each.headers["Vary"]


def test_a_page_of_an_allowed_origin_reads_answers_and_errors(
    client_of: Callable[..., FlaskClient],
) -> None:
    client = client_of(cors_origins=("http://localhost:3000", OURS), rate_limit=100)
    key = {"Authorization": f"Bearer {KEY}"}
    client.post("/api/v1/workflows", json=a_spec(), headers=key)
    made = client.post(RUNS, json={"workflow": "work"}, headers={**key, "Origin": OURS})
    refused = client.get(RUNS, headers={"Origin": OURS})

    assert (made.status_code, refused.status_code) == (201, 401)
    for reply in (made, refused):
        assert reply.headers["Access-Control-Allow-Origin"] == OURS
        assert reply.headers["Access-Control-Allow-Credentials"] == "true"
    assert {"Location", "X-RateLimit-Remaining"} <= set(
        made.headers["Access-Control-Expose-Headers"].split(", ")
    )


def test_with_a_star_every_origin_may_call_but_without_cookies(
    client_of: Callable[..., FlaskClient],
) -> None:
    client = client_of(cors_origins=("*",))

    for reply in (client.options(RUNS, headers=ASK), client.get(RUNS, headers={"Origin": OURS})):
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in reply.headers
    assert "Access-Control-Allow-Origin" not in client.get(RUNS).headers


def test_a_page_of_an_allowed_origin_changes_nothing_by_cookie(
    client_of: Callable[..., FlaskClient],
) -> None:
    client = client_of(cors_origins=(OURS,))
    client.set_cookie("orchestrator_key", KEY)
    headers = {"Origin": OURS, "Sec-Fetch-Site": "cross-site"}

    assert client.get(RUNS, headers=headers).status_code == 200
    assert client.post(RUNS, json={"workflow": "work"}, headers=headers).status_code == 401


@pytest.mark.parametrize("names", ["x\r\ny", "a b", ",", "é", "a;b", "<"])
def test_names_of_headers_that_are_none_are_not_repeated(
    client_of: Callable[..., FlaskClient], names: str
) -> None:
    headers = {**ASK, "Access-Control-Request-Headers": names.replace("\r\n", " ")}

    reply = client_of(cors_origins=(OURS,)).options(RUNS, headers=headers)

    assert reply.status_code == 204
    assert "Access-Control-Allow-Headers" not in reply.headers
