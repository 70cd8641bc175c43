"""Two processes of one API: they share a port, and what one of them changes holds in the other."""

import http.client
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
import requests
from sqlalchemy import Engine, text

from config.settings import Settings
from orchestrator.db.database import Database
from orchestrator.local import processes
from tests.support.factories import KEY, a_run, a_spec, eventually
from tests.support.http_attacks import KeptClient, ServedApi, serve

RUNS = "/api/v1/runs"
WORKFLOWS = "/api/v1/workflows"
PROCESSES, CONNECTIONS, CLIENTS = 2, 5, 24
AUTHENTICATING = 4  # connections of each process besides
_OPEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = :name AND datname = current_database()
"""

Pair = list[KeptClient]


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[ServedApi]:
    """An API of two processes, which also count in Redis."""
    with serve(
        settings, api_processes=PROCESSES, connections=CONNECTIONS, rate_limit=1_000_000
    ) as served:
        yield served


@pytest.fixture
def clients(api: ServedApi, database: Database, no_keys_left: None) -> Iterator[Pair]:
    """One of each process."""
    with api.one_of_each() as clients:
        yield clients


def test_the_master_has_nothing_open_but_the_port(api: ServedApi) -> None:
    """What it had open, all processes would share."""
    master = psutil.Process(api.pid)

    assert len(api.processes) == PROCESSES
    assert [each.status for each in master.net_connections("all")] == [psutil.CONN_LISTEN]
    assert master.num_threads() == 1


def test_clients_that_come_one_after_the_other_are_spread_over_the_processes(
    api: ServedApi,
) -> None:
    with ExitStack() as exits:
        clients = [exits.enter_context(KeptClient(api.port)) for _ in range(CLIENTS)]
        for client in clients:
            assert client.ask("GET", "/healthz")[0] == 200
        counts = Counter(map(api.process_of, clients))

    assert len(counts) == PROCESSES
    assert min(counts.values()) >= CLIENTS / 8  # half of them, unless the machine is busy


def test_a_key_that_one_process_revokes_is_refused_by_the_other_at_once(clients: Pair) -> None:
    first, second = clients
    status, key = first.ask("POST", "/api/v1/keys", {"name": "short", "role": "viewer"})
    assert status == 201
    assert [each.ask("GET", RUNS, key=key["key"])[0] for each in clients] == [200, 200]

    assert first.ask("POST", f"/api/v1/keys/{key['id']}/revoke")[0] == 200

    assert [each.ask("GET", RUNS, key=key["key"])[0] for each in clients] == [401, 401]
    assert second.ask("GET", RUNS)[0] == 200


def test_a_version_that_one_process_registers_is_what_the_other_runs(clients: Pair) -> None:
    first, second = clients
    for version in (1, 2, 3):
        assert first.ask("POST", WORKFLOWS, a_spec("shared", steps=version))[0] in (200, 201)
        for client in (second, first, second):
            status, run = client.ask("POST", RUNS, {"workflow": "shared"})
            assert (status, run["version"], len(run["steps"])) == (201, version, version)


def test_runs_of_both_processes_have_ids_and_numbers_of_their_own(clients: Pair) -> None:
    assert clients[0].ask("POST", WORKFLOWS, a_spec("many"))[0] == 201

    made = [client.ask("POST", RUNS, {"workflow": "many"})[1] for client in clients * 20]

    assert len({run["id"] for run in made}) == len({run["number"] for run in made}) == 40


def test_an_idempotency_key_is_one_for_both_processes(clients: Pair) -> None:
    assert clients[0].ask("POST", WORKFLOWS, a_spec("once"))[0] == 201
    body = {"workflow": "once"}

    first, second = (
        client.ask("POST", RUNS, body, Idempotency_Key="only")[1]["id"] for client in clients
    )

    assert first == second


def test_streams_of_both_processes_get_what_one_of_them_changes(
    api: ServedApi, clients: Pair, database: Database
) -> None:
    run = a_run(database)
    streams = [_stream(client, f"{RUNS}/{run.id}/events") for client in clients]

    with requests.post(f"{api.url}{RUNS}/{run.id}/cancel", headers=_bearer(), timeout=30) as answer:
        assert answer.ok, answer.text

    for stream in streams:  # each ends with the run
        assert b'"run.cancelled"' in stream.read()


def test_both_processes_publish_the_same_documents(clients: Pair) -> None:
    for path in ("/openapi.json", "/openapi/mage.json"):
        first, second = (client.ask("GET", path) for client in clients)
        assert first == second
        assert first[0] == 200


def test_all_processes_together_have_the_connections_of_the_setting(
    api: ServedApi, clients: Pair, engine: Engine
) -> None:
    threads = [threading.Thread(target=api.get, args=(RUNS,)) for _ in range(40)]
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
        for thread in threads:
            thread.start()
        eventually(lambda: _count(engine, "orchestrator-api"), until=lambda count: count >= 2)
        for _ in range(20):
            assert _count(engine, "orchestrator-api") <= CONNECTIONS + PROCESSES - 1
            assert _count(engine, "orchestrator-auth") <= AUTHENTICATING * PROCESSES
    for thread in threads:
        thread.join(40)


def test_a_killed_process_is_replaced_and_its_port_answers_meanwhile(settings: Settings) -> None:
    with serve(settings, api_processes=PROCESSES) as api:
        for _ in range(3):
            before = eventually(lambda: api.processes, until=lambda pids: len(pids) == PROCESSES)
            os.kill(before[0], signal.SIGKILL)
            for _ in range(20):
                assert processes.port_error(api.port)
                eventually(lambda: _answers(api), within=5)
            after = eventually(lambda: api.processes, until=lambda pids: len(pids) == PROCESSES)
            assert before[0] not in after
            assert before[1] in after
        with api.one_of_each() as clients:
            assert [client.ask("GET", RUNS)[0] for client in clients] == [200, 200]


def test_a_stop_answers_what_has_begun_and_closes_the_rest(
    settings: Settings, database: Database
) -> None:
    run = a_run(database)
    with serve(settings, api_processes=PROCESSES) as api, api.one_of_each() as idle:
        with api.one_of_each() as waiting:
            for client in waiting:
                client.request("GET", f"{RUNS}/{run.id}?wait=3", headers=_bearer())
            # What they answer shows that the requests before it have begun.
            assert [client.ask("GET", RUNS)[0] for client in idle] == [200] * PROCESSES
            api.process.terminate()
            assert [client.sock.recv(1) for client in idle] == [b""] * PROCESSES
            answers = [client.getresponse() for client in waiting]
            assert [answer.status for answer in answers] == [200] * PROCESSES
        assert api.process.wait(20) == 0


def _bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


def _stream(client: KeptClient, path: str) -> http.client.HTTPResponse:
    client.request("GET", path, headers={**_bearer(), "Accept": "text/event-stream"})
    answer = client.getresponse()
    assert answer.status == 200
    return answer


def _answers(api: ServedApi) -> Any:
    try:
        return api.get(RUNS).ok
    except requests.ConnectionError:  # of the process that was killed
        return False


def _count(engine: Engine, name: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(_OPEN), {"name": name}).scalar_one())
