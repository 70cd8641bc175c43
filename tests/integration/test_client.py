"""The client retries while that is safe, repeats nothing, and reports what is in doubt."""

import pytest

from orchestrator.client import ApiError, Client
from orchestrator.local import processes
from tests.support.webhook_receivers import Receiver, answering

DOUBT = "this may have been done; look before you ask again"


def _client(receiver: Receiver, patience: float = 10) -> Client:
    return Client(receiver.url.removesuffix("/hook"), "key", patience=patience)


def test_a_transient_failure_is_retried_under_the_same_key() -> None:
    with answering(503, 502, 504, 429, 422) as api, pytest.raises(ApiError) as refused:
        _client(api).submit("work", {})

    assert refused.value.status == 422
    assert refused.value.heard_before
    assert len(api.requests) == 5
    assert len({each.headers["idempotency-key"] for each in api.requests}) == 1
    assert {each.path for each in api.requests} == {"/api/v1/runs"}


def test_two_requests_have_two_keys() -> None:
    with answering(422) as api:
        for _ in range(2):
            with pytest.raises(ApiError):
                _client(api).submit("work", {})

    assert len({each.headers["idempotency-key"] for each in api.requests}) == 2


def test_a_client_that_gives_up_reports_doubt() -> None:
    with answering(502) as api, pytest.raises(ApiError, match=DOUBT) as refused:
        _client(api, patience=0.3).submit("work", {})

    assert refused.value.problem["code"] == "in_doubt"
    assert len(api.requests) > 1


def test_a_request_for_a_key_is_not_retried() -> None:
    with answering(502) as api, pytest.raises(ApiError, match=DOUBT):
        _client(api).create_key(name="ci")

    assert len(api.requests) == 1


def test_what_was_refused_was_not_done() -> None:
    later = {"Retry-After": "3600"}
    with answering(429, headers=later) as api, pytest.raises(ApiError) as refused:
        _client(api).submit("work", {})

    assert len(api.requests) == 1
    assert DOUBT not in str(refused.value)


def test_a_refused_connection_leaves_no_doubt() -> None:
    client = Client(f"http://127.0.0.1:{processes.free_port()}", "key", patience=0.2)

    with pytest.raises(ApiError, match=r"nobody answers at .*; start it with: orchestrator up$"):
        client.submit("work", {})


def test_another_server_is_not_taken_for_ours() -> None:
    with answering(200) as other, pytest.raises(ApiError, match="is no orchestrator's API"):
        _client(other).submit("work", {})


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ApiError, match="cannot ask localhost:8000: "):
        Client("localhost:8000", "key").runs()
