"""Access control: keys, roles and the isolation of tenants."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, delete
from sqlalchemy.orm import Session
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from orchestrator.db.database import Database
from orchestrator.models import Key, Project, Role, Tenant
from tests.support.factories import KEY, a_run, a_spec, a_tenant
from tests.support.routes import native

RUNS = "/api/v1/runs"
WORKFLOWS = "/api/v1/workflows"
WORK = f"{WORKFLOWS}/work"
OPEN = ("/healthz", "/readyz", "/openapi.json", "/docs", "/")

OURS = {
    "a-viewer": {"role": Role.VIEWER},
    "an-operator": {"role": Role.OPERATOR},
    "an-expired-key": {"role": Role.ADMIN, "expires_at": datetime.now(UTC) - timedelta(days=1)},
    "a-revoked-key": {"role": Role.ADMIN, "revoked_at": datetime.now(UTC)},
    "a-lasting-key": {"role": Role.ADMIN, "expires_at": datetime.now(UTC) + timedelta(days=1)},
}
THEIRS = "the-other-tenants-admin"


def _key(tenant: Tenant | None, secret: str, **options: Any) -> Key:
    hashed = hashlib.sha256(secret.encode()).hexdigest()
    return Key(
        tenant_id=tenant.id if tenant else None,
        name=secret,
        prefix=secret[:6],
        hash=hashed,
        **options,
    )


@pytest.fixture(scope="module", autouse=True)
def _keys(engine: Engine) -> Iterator[None]:
    """More keys of our tenant, and another tenant with an admin."""
    with Session(engine) as session, session.begin():
        ours = session.get_one(Tenant, a_tenant(session))
        theirs = Tenant(name="the other tenant")
        session.add(theirs)
        session.flush()
        made: list[Any] = [_key(ours, secret, **options) for secret, options in OURS.items()]
        made += [
            _key(theirs, THEIRS, role=Role.ADMIN),
            Project(tenant_id=theirs.id, name="default"),
        ]
        session.add_all(made)
        session.flush()
        tenant, keys = theirs.id, [each.id for each in made if isinstance(each, Key)]
    yield
    with Session(engine) as session, session.begin():
        session.execute(delete(Key).where(Key.id.in_(keys)))
        session.execute(delete(Project).where(Project.tenant_id == tenant))
        session.execute(delete(Tenant).where(Tenant.id == tenant))


def _as(client: FlaskClient, secret: str | None) -> FlaskClient:
    """The same API with another key or none."""
    other = client.application.test_client()
    if secret is not None:
        other.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return other


def _rules(client: FlaskClient) -> list[tuple[str, str]]:
    """Every method and address that needs a key."""
    return [
        (method, _address(rule))
        for rule in native(client.application)
        for method in sorted(rule.methods or ())
    ]


def _address(rule: Rule) -> str:
    values = dict.fromkeys(rule.arguments, "x")
    if "run_id" in values:
        values["run_id"] = "01890000-0000-7000-8000-000000000000"
    built = rule.rule
    for name, value in values.items():
        for kind in ("uuid:", "path:", ""):
            built = built.replace(f"<{kind}{name}>", value)
    return built


def _is_problem(reply: TestResponse, status: int, code: str) -> bool:
    body = reply.json or {}
    actual = (reply.status_code, reply.content_type, body.get("status"), body.get("code"))
    return actual == (status, "application/problem+json", status, code)


@pytest.mark.parametrize(
    "secret", [None, "", "nope", KEY[:-1], f"{KEY}x", "é", "\x00", KEY.upper()]
)
def test_every_route_refuses_who_has_no_key(client: FlaskClient, secret: str | None) -> None:
    stranger = _as(client, secret)

    replies = {
        rule: stranger.open(rule[1], method=rule[0]) for rule in _rules(client) if rule[0] != "HEAD"
    }

    assert len(replies) > 15
    wrong = {
        rule: reply.status_code
        for rule, reply in replies.items()
        if not _is_problem(reply, 401, "unauthenticated")
    }
    assert wrong == {}
    challenges = {reply.headers["WWW-Authenticate"] for reply in replies.values()}
    assert challenges == {'Bearer realm="orchestrator"'}


@pytest.mark.parametrize("address", OPEN)
def test_what_tells_about_the_service_needs_no_key(client: FlaskClient, address: str) -> None:
    reply = _as(client, None).get(address, follow_redirects=True)

    assert reply.status_code == 200


def test_a_stranger_does_not_learn_which_addresses_there_are(client: FlaskClient) -> None:
    stranger = _as(client, None)

    for address in ("/nope", "/api/v1/nope", f"{RUNS}/nope", f"{WORKFLOWS}/"):
        assert stranger.get(address).status_code == 401
        assert stranger.delete(address).status_code == 401


def test_a_strangers_body_is_not_read(client: FlaskClient) -> None:
    reply = _as(client, None).post(RUNS, data=b"{", content_type="application/json")

    assert reply.status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY} "},
        {"X-API-Key": KEY},
        {"X-API-Key": KEY, "Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer a-lasting-key"},
    ],
)
def test_a_key_comes_in_either_header(client: FlaskClient, headers: dict[str, str]) -> None:
    assert _as(client, None).get(RUNS, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nope", "X-API-Key": "nope"},
        {"X-API-Key": ""},
        {"Cookie": f"key={KEY}"},
    ],
)
def test_a_key_in_another_form_is_none(client: FlaskClient, headers: dict[str, str]) -> None:
    assert _as(client, None).get(RUNS, headers=headers).status_code == 401


def test_a_key_in_the_query_is_none(client: FlaskClient) -> None:
    assert _as(client, None).get(f"{RUNS}?key={KEY}&api_key={KEY}").status_code == 401


@pytest.mark.parametrize("secret", ["an-expired-key", "a-revoked-key"])
def test_a_key_that_is_over_opens_nothing(client: FlaskClient, secret: str) -> None:
    assert _as(client, secret).get(RUNS).status_code == 401


def test_a_viewer_reads_everything(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    viewer = _as(client, "a-viewer")

    addresses = [
        RUNS, f"{RUNS}/{run.id}", f"{RUNS}/{run.id}/steps", f"{RUNS}/{run.id}/steps/s1",
        f"{RUNS}/{run.id}/steps/s1/attempts", f"{RUNS}/{run.id}/events",
        WORKFLOWS, WORK, f"{WORK}/versions",
    ]  # fmt: skip

    assert {viewer.get(address).status_code for address in addresses} == {200}


def test_a_viewer_changes_nothing(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    before = client.get(f"{RUNS}/{run.id}").json
    viewer = _as(client, "a-viewer")

    replies = [
        viewer.post(WORKFLOWS, json=a_spec("another")),
        viewer.post(RUNS, json={"workflow": "work"}),
        viewer.patch(f"{RUNS}/{run.id}", json={"priority": 9}),
        viewer.post(f"{RUNS}/{run.id}/cancel"),
        viewer.post(f"{RUNS}/{run.id}/retry"),
        viewer.post(f"{RUNS}/{run.id}/steps/s1/restart"),
    ]

    assert all(_is_problem(reply, 403, "forbidden") for reply in replies)
    assert client.get(f"{RUNS}/{run.id}").json == before
    assert [each["id"] for each in client.get(RUNS).json["items"]] == [str(run.id)]
    assert [each["name"] for each in client.get(WORKFLOWS).json["items"]] == ["work"]


def test_an_operator_runs_workflows_but_registers_none(
    client: FlaskClient, database: Database
) -> None:
    a_run(database)
    operator = _as(client, "an-operator")

    run = operator.post(RUNS, json={"workflow": "work"})
    cancelled = operator.post(f"{RUNS}/{run.json['id']}/cancel")
    registered = operator.post(WORKFLOWS, json=a_spec(steps=2))

    assert (run.status_code, run.json["submitted_by"]) == (201, "an-operator")
    assert cancelled.status_code == 200
    assert _is_problem(registered, 403, "forbidden")
    assert client.get(WORK).json["version"] == 1


def test_another_tenants_things_are_not_found(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    before = client.get(f"{RUNS}/{run.id}").json
    stranger = _as(client, THEIRS)
    address = f"{RUNS}/{run.id}"

    replies = [
        stranger.get(address),
        stranger.get(f"{address}/steps"),
        stranger.get(f"{address}/steps/s1"),
        stranger.get(f"{address}/steps/s1/attempts"),
        stranger.get(f"{address}/events"),
        stranger.patch(address, json={"priority": 9, "tags": ["mine"]}),
        stranger.post(f"{address}/cancel"),
        stranger.post(f"{address}/retry", json={"mode": "full"}),
        stranger.post(f"{address}/steps/s1/restart"),
        stranger.post(RUNS, json={"workflow": "work"}),
        stranger.get(WORK),
        stranger.get(f"{WORK}/versions"),
    ]

    assert all(_is_problem(reply, 404, "not_found") for reply in replies)
    assert client.get(address).json == before


def test_another_tenants_run_looks_like_one_that_is_not_there(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database)
    nobody = "01890000-0000-7000-8000-000000000000"
    stranger = _as(client, THEIRS)

    theirs = stranger.get(f"{RUNS}/{run.id}").json
    missing = stranger.get(f"{RUNS}/{nobody}").json

    assert theirs["detail"].replace(str(run.id), nobody) == missing["detail"]


def test_lists_show_a_tenant_only_its_own(client: FlaskClient, database: Database) -> None:
    a_run(database, tags=["t"])
    stranger = _as(client, THEIRS)
    stranger.post(WORKFLOWS, json=a_spec("theirs"))
    run = stranger.post(RUNS, json={"workflow": "theirs"}).json

    queries = ({}, {"state": "queued"}, {"workflow": ["work", "theirs"]}, {"sort": "priority"})
    lists = [stranger.get(RUNS, query_string=query).json["items"] for query in queries]

    assert [[each["id"] for each in items] for items in lists] == [[run["id"]]] * 4
    assert [each["name"] for each in stranger.get(WORKFLOWS).json["items"]] == ["theirs"]
    assert [each["workflow"] for each in client.get(RUNS).json["items"]] == ["work"]
    assert [each["name"] for each in client.get(WORKFLOWS).json["items"]] == ["work"]


def test_two_tenants_may_use_the_same_names(client: FlaskClient, database: Database) -> None:
    a_run(database)

    theirs = _as(client, THEIRS).post(WORKFLOWS, json=a_spec(steps=2))

    assert (theirs.status_code, theirs.json["version"]) == (201, 1)
    assert client.get(WORK).json["spec"] == a_spec()


def test_an_idempotency_key_belongs_to_one_tenant(client: FlaskClient) -> None:
    callers = [client, _as(client, THEIRS)]

    runs = []
    for caller in callers:
        caller.post(WORKFLOWS, json=a_spec())
        headers = {"Idempotency-Key": "same"}
        runs.append(caller.post(RUNS, json={"workflow": "work"}, headers=headers))

    assert [run.status_code for run in runs] == [201, 201]
    assert runs[0].json["id"] != runs[1].json["id"]
