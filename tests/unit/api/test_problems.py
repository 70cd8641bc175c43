"""The status, detail and mistakes of the response to each error."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from sqlalchemy.exc import OperationalError, ProgrammingError, TimeoutError
from werkzeug.exceptions import UnprocessableEntity, default_exceptions

from api.toolkit import problems
from config.http_statuses import TITLES, code_of
from orchestrator import errors
from orchestrator.errors import Mistake, OrchestratorError

STATUS = {
    errors.NotFound: 404,
    errors.InvalidTransition: 409,
    errors.LeaseLost: 409,
    errors.InvalidSpec: 422,
    errors.InvalidParams: 422,
    errors.IdempotencyMismatch: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.Unavailable: 503,
}


def family(kind: type[OrchestratorError]) -> list[type[OrchestratorError]]:
    """An error class of the core and its subclasses, without those of contracts."""
    inner = [each for child in kind.__subclasses__() for each in family(child)]
    return [each for each in (kind, *inner) if each.__module__.startswith("orchestrator.")]


def mistakes_in(messages: Any) -> list[tuple[str, str]]:
    error = UnprocessableEntity()
    error.data = {"messages": messages}  # type: ignore[attr-defined]
    return [(each.pointer, each.detail) for each in problems.problem_of_http(error).mistakes]


@pytest.fixture
def client() -> Callable[[Exception], FlaskClient]:
    """A client of an application whose only address, `/`, raises this error."""

    def client(error: Exception) -> FlaskClient:
        def view() -> str:
            raise error

        app = Flask(__name__)
        app.add_url_rule("/", view_func=view)
        problems.install_problems(app)
        return app.test_client()

    return client


@pytest.mark.parametrize(("kind", "status"), STATUS.items())
def test_each_error_of_the_core_has_its_status(kind: type[OrchestratorError], status: int) -> None:
    problem = problems.problem_of(kind("what is wrong"))

    assert problem.status == status
    assert problem.code == kind.code
    assert problem.detail == "what is wrong"


def test_no_error_of_the_core_is_forgotten() -> None:
    leaves = {kind for kind in family(OrchestratorError) if not kind.__subclasses__()}

    assert {problems.problem_of(kind("")).status for kind in leaves} == set(
        problems.STATUS_OF_ERROR.values()
    )


def test_every_error_of_the_core_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in family(OrchestratorError)]

    assert len(set(codes)) == len(codes)


def test_whoever_has_no_key_is_told_how_to_show_one() -> None:
    problem = problems.problem_of(errors.Unauthenticated("no key"))

    assert problem.headers == {"WWW-Authenticate": 'Bearer realm="orchestrator"'}


def test_whoever_meets_no_database_is_told_when_to_come_again() -> None:
    assert problems.problem_of(errors.Unavailable("away")).headers == {"Retry-After": "2"}


@pytest.mark.parametrize(
    ("messages", "mistakes"),
    [
        ({"json": {"name": ["Missing."]}}, [("/name", "Missing.")]),
        ({"json": {"tags": {0: ["Too long."]}}}, [("/tags/0", "Too long.")]),
        ({"json": {"a/b~c": ["Unknown."]}}, [("/a~1b~0c", "Unknown.")]),
        ({"json": {"x": ["One.", "Two."]}}, [("/x", "One."), ("/x", "Two.")]),
        ({"json": {"_schema": ["Not an object."]}}, [("/", "Not an object.")]),
        ({"json": ["Not JSON."]}, [("/", "Not JSON.")]),
        ({"query": {"limit": ["Too many."]}}, [("/query/limit", "Too many.")]),
        ({"headers": {"X": ["Missing."]}}, [("/headers/X", "Missing.")]),
        ({}, []),
    ],
)
def test_what_a_body_or_query_lacks_is_named_with_its_place(
    messages: Any, mistakes: list[tuple[str, str]]
) -> None:
    assert mistakes_in(messages) == mistakes


def test_a_member_named_like_a_location_is_named_too() -> None:
    assert mistakes_in({"json": {"json": ["Unknown."]}}) == [("/json", "Unknown.")]


def test_an_error_is_answered_as_a_problem(client: Callable[[Exception], FlaskClient]) -> None:
    error = errors.InvalidSpec("not a workflow", Mistake("/steps/0", "no key"), Mistake("/", "x"))

    answer = client(error).get("/")

    assert answer.status_code == 422
    assert answer.content_type == "application/problem+json"
    assert answer.json == {
        "type": "urn:orchestrator:problem:invalid_spec",
        "title": "Unprocessable Entity",
        "status": 422,
        "code": "invalid_spec",
        "detail": "not a workflow",
        "errors": [{"pointer": "/steps/0", "detail": "no key"}, {"pointer": "/", "detail": "x"}],
    }


def test_an_unexpected_error_is_ours_and_tells_nothing_of_itself(
    client: Callable[[Exception], FlaskClient],
) -> None:
    answer = client(ValueError("hush")).get("/")

    assert answer.status_code == 500
    assert answer.json is not None
    assert answer.json["code"] == "internal"
    assert "hush" not in answer.text
    assert answer.json["detail"] == "this is a mistake of ours; nothing was written"


def test_an_unexpected_error_after_a_commit_does_not_deny_it(
    client: Callable[[Exception], FlaskClient],
) -> None:
    failing = client(ValueError("hush"))
    failing.application.before_request(lambda: setattr(g, "committed", True))

    answer = failing.get("/")

    assert answer.json is not None
    assert answer.json["detail"] == "this is a mistake of ours"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("SELECT 'hush'", {}, Exception("hush")), 503),
        (TimeoutError("hush"), 503),
        (ProgrammingError("SELECT 'hush'", {}, Exception("hush")), 500),
        (RecursionError("hush"), 400),
    ],
    ids=["postgres away", "no free connection", "wrong SQL", "too deep"],
)
def test_an_error_from_below_has_the_status_of_what_it_means(
    client: Callable[[Exception], FlaskClient], error: Exception, status: int
) -> None:
    answer = client(error).get("/")

    assert answer.status_code == status
    assert "hush" not in answer.text


def test_what_flask_refuses_is_a_problem_too(client: Callable[[Exception], FlaskClient]) -> None:
    one = client(ValueError())

    missing, refused = one.get("/nowhere"), one.delete("/")

    assert (missing.status_code, refused.status_code) == (404, 405)
    assert {missing.content_type, refused.content_type} == {"application/problem+json"}
    assert "GET" in refused.headers["Allow"]


@pytest.mark.row("codes and titles of errors: the same on every Python")
@pytest.mark.parametrize(
    ("status", "code", "title"),
    [
        (404, "not_found", "Not Found"),
        (413, "request_entity_too_large", "Request Entity Too Large"),
        (414, "request_uri_too_long", "Request-URI Too Long"),
        (416, "requested_range_not_satisfiable", "Requested Range Not Satisfiable"),
        (422, "unprocessable_entity", "Unprocessable Entity"),
    ],
)
def test_codes_and_titles_change_with_no_python(
    client: Callable[[Exception], FlaskClient], status: int, code: str, title: str
) -> None:
    answer = client(default_exceptions[status]("no")).get("/").json

    assert answer is not None
    assert (answer["status"], answer["code"], answer["title"]) == (status, code, title)


def test_every_status_of_an_error_has_a_code_and_a_title() -> None:
    assert TITLES.keys() >= {each.value for each in HTTPStatus if each >= 400}
    assert all(code_of(each).replace("_", "").isalpha() for each in TITLES)
