"""Beyond its capacity the API refuses early, and whom it refuses is fair."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import pytest
import requests
from sqlalchemy import Engine, text

from config.settings import Settings
from orchestrator.db.database import Database
from tests.support.factories import KEY, a_run, eventually
from tests.support.http_attacks import ServedApi, head, serve, status_of

RUNS = "/api/v1/runs"
KEYS = "/api/v1/keys"
STREAMS = 20
SOON = 8.0  # seconds, on a machine that others use, too; it was 15
CONTRACTS = {
    "native": RUNS,
    "opendatadsl": "/api/process-exec/v1",
    "solvexia": "/api/v1/processes",
    "mage": "/api/pipeline_runs",
    "mindzie": f"/api/{uuid4()}/{uuid4()}/execution/jobs",
    "virtuousai": "/api/v1/automation-runs",
}


@pytest.fixture(scope="module", params=[1, 2])
def api(settings: Settings, request: pytest.FixtureRequest) -> Iterator[ServedApi]:
    """An API whose processes have four connections to Postgres each."""
    with serve(
        settings,
        api_processes=request.param,
        connections=4 * request.param,
        streams=STREAMS * request.param,
        queue_timeout=Settings().queue_timeout,
    ) as served:
        yield served


@pytest.fixture
def viewer(api: ServedApi, database: Database, no_keys_left: None) -> str:
    """A key of the same tenant, which was used."""
    key: str = api.post(KEYS, {"name": "viewer", "role": "viewer"}).json()["key"]
    assert api.get(RUNS, key).status_code == 200
    return key


@contextmanager
def _streams(api: ServedApi, path: str, key: str) -> Iterator[list[requests.Response]]:
    """As many streams as the key gets, and the refusal, which is the last."""
    with ExitStack() as exits:
        responses = []
        while not responses or responses[-1].ok:
            assert len(responses) <= STREAMS * len(api.processes)
            headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
            response = requests.get(f"{api.url}{path}", headers=headers, stream=True, timeout=30)
            responses.append(exits.enter_context(response))
        yield responses


@contextmanager
def _requests(
    api: ServedApi, count: int, path: str, key: str, engine: Engine | None = None
) -> Iterator[list[Any]]:
    """So many requests at once; the responses until now, each with its seconds.

    With an engine, whoever reads runs waits until the end of the block.
    """
    responses: list[Any] = []

    def ask() -> None:
        began = time.monotonic()
        responses.append((api.get(path, key), time.monotonic() - began))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    with ExitStack() as lock:
        if engine is not None:
            connection = lock.enter_context(engine.begin())
            connection.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
        for thread in threads:
            thread.start()
        yield responses
    for thread in threads:
        thread.join(40)


def test_a_request_that_waits_for_a_run_is_not_in_work(
    api: ServedApi, viewer: str, database: Database
) -> None:
    run = a_run(database)
    count = 6 * len(api.processes)
    with _requests(api, count, f"{RUNS}/{run.id}?wait=8", viewer) as responses:
        for _ in range(5):
            eventually(lambda: api.get(RUNS, viewer).ok)
        assert not [each for each, _ in responses if each.ok]
    assert sum(each.ok for each, _ in responses) >= 2  # the key has two turns


def test_streams_of_one_key_leave_some_for_others(
    api: ServedApi, viewer: str, database: Database
) -> None:
    with _streams(api, f"{RUNS}/events", viewer) as streams:
        refusal, shares = streams[-1], (STREAMS / 2, STREAMS / 2 * len(api.processes))
        assert shares[0] <= len(streams) - 1 <= shares[1]  # of the process that refuses, and of all
        assert (refusal.status_code, refusal.json()["code"]) == (429, "too_many_requests")
        assert int(refusal.headers["Retry-After"]) >= 1
        with _streams(api, f"{RUNS}/events", KEY) as others:
            assert len(others) > 3
        assert api.get(RUNS, viewer).status_code == 200


def test_a_stream_of_a_contract_is_refused_in_its_own_format(
    api: ServedApi, viewer: str, database: Database
) -> None:
    run = a_run(database)
    with _streams(api, f"/api/v1/automation-runs/{run.id}/events", viewer) as streams:
        assert streams[-1].status_code == 429
        assert list(streams[-1].json()) == ["detail"]
        assert int(streams[-1].headers["Retry-After"]) >= 1


def test_a_request_that_waits_for_its_body_is_not_in_work(
    api: ServedApi, database: Database
) -> None:
    authorization = {"Authorization": f"Bearer {KEY}", "Content_Type": "application/json"}
    body = b'{"workflow": "nothing"}'
    start = head("POST", RUNS, Content_Length=str(len(body)), **authorization)
    with api.many(30, start) as clients:
        eventually(lambda: api.get(RUNS).status_code, until=lambda status: status == 200)
        for client in clients:
            client.sendall(body)
        statuses = [status_of(client) for client in clients]
        assert statuses.count(404) > 10  # there is no such workflow
        assert {*statuses} <= {404, 429, 503}


def test_a_flood_is_refused_early_and_another_key_is_served(
    api: ServedApi, viewer: str, database: Database, engine: Engine
) -> None:
    in_work = 2 * len(api.processes)
    with _requests(api, 60, RUNS, viewer, engine) as responses:
        refused = eventually(lambda: list(responses), until=lambda each: len(each) >= 60 - in_work)

        assert {each.status_code for each, _ in refused} <= {429, 503}
        assert all(int(each.headers["Retry-After"]) >= 1 for each, _ in refused)
        assert max(seconds for _, seconds in refused) < SOON
        assert api.seconds_to_answer() < SOON
        assert api.seconds_to_answer(KEYS) < SOON  # of another key, which needs no run


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_refusal_has_the_format_of_its_api(
    api: ServedApi, viewer: str, database: Database, engine: Engine, contract: str
) -> None:
    unauthenticated = api.get(CONTRACTS[contract], "wrong")
    with _requests(api, 8 * len(api.processes), RUNS, viewer, engine):
        refusal = eventually(
            lambda: api.get(CONTRACTS[contract], viewer),
            until=lambda each: each.status_code in (429, 503),
        )
        assert int(refusal.headers["Retry-After"]) >= 1
    assert refusal.headers["Content-Type"] == unauthenticated.headers["Content-Type"]
    if "json" in refusal.headers["Content-Type"]:
        assert refusal.json().keys() == unauthenticated.json().keys()


def test_refusals_are_alike_but_for_the_id_of_the_request(
    api: ServedApi, viewer: str, database: Database, engine: Engine
) -> None:
    """The first one is rendered, and kept for the next ones."""
    with _requests(api, 8 * len(api.processes), RUNS, viewer, engine):

        def refuse(method: str = "GET", **headers: str) -> requests.Response:
            headers = {"Authorization": f"Bearer {viewer}", **headers}
            url = f"{api.url}{RUNS}"
            return eventually(
                lambda: requests.request(method, url, headers=headers, timeout=30),
                until=lambda each: each.status_code == 429,
            )

        refused = [refuse() for _ in range(3 * len(api.processes))]
        named, head = refuse(**{"X-Request-Id": "mine"}), refuse("HEAD")
        foreign = refuse(Origin="https://elsewhere.example")

    assert len({each.headers["X-Request-Id"] for each in refused}) == len(refused)
    assert named.headers["X-Request-Id"] == "mine"
    assert {each.content for each in [*refused, named, foreign]} == {refused[0].content}
    assert head.content == b""
    for each in [*refused, named, head, foreign]:
        assert _headers(each) == _headers(refused[0])


def _headers(response: requests.Response) -> dict[str, str]:
    changing = ("X-Request-Id", "Date")
    return {name: text for name, text in response.headers.items() if name not in changing}
