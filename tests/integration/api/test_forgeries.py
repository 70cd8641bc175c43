"""Nothing signed is taken unless it is, byte for byte, what this API has given."""

import random
import time
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
import requests
from itsdangerous import TimestampSigner, URLSafeTimedSerializer

from config.settings import Settings
from orchestrator.access import secrets, signing
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.outputs import artifacts, storage
from orchestrator.sdk.files import FileSpec
from tests.support.factories import KEY, a_claim, a_run, a_tenant, messages_in
from tests.support.forgeries import Lock, locks
from tests.support.http_attacks import ServedApi, serve

FORGERIES = 150  # of each kind; `python -m tests.soak.hostile_redis` makes thousands
KINDS = (
    "address of a file", "trigger", "trigger of Mage", "trigger of Mage by header", "token", "key",
)  # fmt: skip


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[ServedApi]:
    with serve(settings) as served:
        yield served


@pytest.fixture
def files(database: Database, sent: list[Outbound], settings: Settings) -> list[str]:
    """The run, and the ids of two files of its step."""
    run = a_run(database)
    claim = a_claim(database, messages_in(sent)[0].task_id)
    assert claim is not None
    store, limits = storage.store_of(settings), {"limit": 1000, "within": timedelta(seconds=5)}
    saved = [
        artifacts.save(database, store, claim.source, FileSpec(name=name), b"content", **limits).id
        for name in ("one.txt", "another.txt")
    ]
    return [str(run.id), *map(str, saved)]


@pytest.fixture
def opened(api: ServedApi, files: list[str], no_keys_left: None) -> dict[str, Lock]:
    return locks(api.url, KEY, "work", files[0])


@pytest.mark.parametrize("kind", KINDS)
def test_no_forgery_is_taken(opened: dict[str, Lock], kind: str) -> None:
    lock = opened[kind]
    assert all(map(lock.opens, lock.genuine))

    forgeries = lock.forgeries(FORGERIES, random.Random(18))
    assert [each for each in forgeries if lock.opens(each)] == []

    assert all(map(lock.opens, lock.genuine))


def test_every_kind_is_tried(opened: dict[str, Lock]) -> None:
    assert set(opened) == set(KINDS)


class _Past(TimestampSigner):
    def get_timestamp(self) -> int:
        return int(time.time() - signing.ADDRESS_LIFETIME.total_seconds()) - 2


def test_what_was_genuine_is_not_taken_afterwards(
    api: ServedApi,
    files: list[str],
    opened: dict[str, Lock],
    settings: Settings,
    database: Database,
) -> None:
    secret = secrets.secret_key(settings)
    with database.transaction() as session:
        tenant_id = a_tenant(session)
    content = [str(tenant_id), files[1]]
    late = URLSafeTimedSerializer(secret, salt="artifact", signer=_Past).dumps(content)
    of_others = [
        signing.sign_artifact(secret, uuid4(), UUID(files[1])),
        signing.sign_artifact(secret, tenant_id, UUID(files[2])),
        signing.sign_artifact("s" * 32, tenant_id, UUID(files[1])),
        URLSafeTimedSerializer(secret).dumps(content),
    ]
    genuine = signing.sign_artifact(secret, tenant_id, UUID(files[1]))
    assert opened["address of a file"].opens(genuine)
    assert not any(map(opened["address of a file"].opens, [late, *of_others]))

    claims = signing.read_token(secret, opened["token"].genuine[0])
    assert opened["token"].opens(signing.issue_token(secret, claims, timedelta(minutes=1)))
    assert not opened["token"].opens(signing.issue_token(secret, claims, timedelta(seconds=-1)))
    assert not opened["token"].opens(signing.issue_token("s" * 32, claims, timedelta(minutes=1)))

    schedule = api.get("/api/v1/schedules").json()["items"][-1]
    assert opened["trigger"].opens(schedule["token"])
    api.post(f"/api/v1/schedules/{schedule['id']}/rotate-token", {})
    for kind in KINDS[1:4]:
        assert not opened[kind].opens(schedule["token"])


def test_an_address_names_its_token_once(api: ServedApi, opened: dict[str, Lock]) -> None:
    lock = opened["address of a file"]
    (genuine,), path = lock.genuine, urlsplit(lock.ask("x").url).path
    for query in (
        f"token=x&token={genuine}",
        f"token={genuine}&key=x",
        f"Token={genuine}",
        "token",
    ):
        assert requests.get(f"{api.url}{path}?{query}", timeout=30).status_code in (401, 422), query
