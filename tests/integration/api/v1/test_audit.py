"""`/api/v1/audit`: filters, pages, the export and who may read them."""

import hashlib
import json
import logging
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from config import logging as logs
from orchestrator import audit
from orchestrator.db.database import Database
from orchestrator.maintenance import sweeps
from orchestrator.models import AuditEntry
from tests.support.api_keys import a_key, with_key
from tests.support.factories import a_run, a_spec, eventually

AUDIT, V1 = "/api/v1/audit", "/api/v1"


pytestmark = pytest.mark.usefixtures("no_keys_left")


def _listed(client: FlaskClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(AUDIT, query_string=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json["items"]
    return items


def _exported(client: FlaskClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(f"{AUDIT}/export", query_string=query)
    assert answer.status_code == 200, answer.text
    assert answer.mimetype == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def _cancelled(client: FlaskClient, database: Database, **headers: str) -> str:
    run = a_run(database, a_spec(steps=2), window=0)
    path = f"{V1}/runs/{run.id}/cancel"
    answer = client.post(path, json={"reason": "wrong day"}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(run.id)


def test_an_entry_says_who_did_what(client: FlaskClient, database: Database) -> None:
    run_id = _cancelled(client, database, **{"X-Request-Id": "r-1"})

    entry = _listed(client)[0]

    assert {name: entry[name] for name in entry.keys() - {"id", "at", "key_id"}} == {
        "number": None,
        "actor": "key",
        "name": "admin",
        "user": None,
        "contract": "v1",
        "request_id": "r-1",
        "verb": "run.cancel",
        "object_type": "run",
        "object_id": run_id,
        "before": {"state": "pending"},
        "after": {"state": "cancelled", "reason": "wrong day"},
        "hash": None,
    }
    sweeps.link_audit(database)
    linked = _listed(client, object_id=run_id)[0]
    assert linked["number"] >= 1
    assert len(linked["hash"]) == 64


def test_filters_select_entries(client: FlaskClient, database: Database) -> None:
    key = a_key(client, "operator", user="ana")
    other = with_key(client, key["key"])
    by_admin = _cancelled(client, database)
    by_other = _cancelled(other, database, **{"X-Request-Id": "mine"})
    start = _listed(client)[-1]["at"]

    def ids(**query: Any) -> set[str]:
        return {each["object_id"] for each in _listed(client, **query)}

    assert ids(verb="run.cancel") == {by_admin, by_other}
    assert ids(verb=["run.cancel", "key.create"]) >= {by_admin, by_other, key["id"]}
    assert ids(key_id=key["id"]) == {by_other}
    assert ids(user="ana") == {by_other}
    assert ids(object_id=by_admin) == {by_admin}
    assert key["id"] in ids(object_type="key") - {by_admin, by_other}
    assert ids(request_id="mine") == {by_other}
    assert ids(actor="sweep") == set()
    assert ids(**{"from": start}) >= {by_admin, by_other, key["id"]}
    assert ids(to=start) == set()
    assert client.get(AUDIT, query_string={"actor": "nobody"}).status_code == 422
    assert client.get(AUDIT, query_string={"from": "yesterday"}).status_code == 422
    assert client.get(AUDIT, query_string={"colour": "red"}).status_code == 422


def test_pages_go_on_with_a_cursor(client: FlaskClient, database: Database) -> None:
    run_ids = [_cancelled(client, database) for _ in range(5)]

    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(3):
        query = {"limit": 2, "verb": "run.cancel", **cursor}
        body = client.get(AUDIT, query_string=query).json
        seen += [each["object_id"] for each in body["items"]]
        cursor = {"cursor": body["next_cursor"]}

    assert seen == run_ids[::-1]


def test_an_export_proves_its_chain(client: FlaskClient, database: Database) -> None:
    for _ in range(3):
        _cancelled(client, database)
    run = a_run(database, window=0)
    reason = "Zoë said \u2028 no \u0085 \U0001f4a5"
    client.post(f"{V1}/runs/{run.id}/cancel", json={"reason": reason})
    eventually(lambda: not sweeps.link_audit(database))

    lines = _exported(client)

    previous = ""
    for number, line in enumerate(lines, start=1):
        hashed = line.pop("hash")
        assert line["number"] == number
        document = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashed == hashlib.sha256(f"{previous}{document}".encode()).hexdigest()
        previous = hashed
    assert len(lines) >= 4
    assert lines[-1]["after"]["reason"] == reason
    assert [each["number"] for each in _exported(client, after=2)] == [
        each["number"] for each in lines[2:]
    ]
    assert {each["verb"] for each in _exported(client, verb="run.cancel")} == {"run.cancel"}


def test_an_export_of_several_batches_is_whole(client: FlaskClient, database: Database) -> None:
    run = a_run(database, window=0)
    with database.transaction() as session:
        changes = [audit.Change(number, {}, {"n": number}) for number in range(1200)]
        audit.record_all(session, run.tenant_id, "run.change", changes)
    eventually(lambda: not sweeps.link_audit(database))

    numbers = [line["after"]["n"] for line in _exported(client, verb="run.change")]

    assert numbers == list(range(1200))


@pytest.mark.parametrize("path", [AUDIT, f"{AUDIT}/export"])
def test_only_an_admin_with_the_scope_reads_it(client: FlaskClient, path: str) -> None:
    statuses = {
        (role, scope): with_key(
            client, a_key(client, role, **({"scopes": [scope]} if scope else {}))["key"]
        )
        .get(path)
        .status_code
        for role, scope in [
            ("viewer", None), ("operator", None), ("admin", None), ("admin", "runs"),
            ("admin", "audit:read"), ("operator", "audit"),
        ]
    }  # fmt: skip

    assert statuses == {
        ("viewer", None): 403,
        ("operator", None): 403,
        ("admin", None): 200,
        ("admin", "runs"): 403,
        ("admin", "audit:read"): 200,
        ("operator", "audit"): 403,
    }


def test_a_deleted_run_leaves_who_submitted_it(client: FlaskClient, database: Database) -> None:
    a_run(database, window=0)
    made = client.post(f"{V1}/runs", json={"workflow": "work"}).json
    client.post(f"{V1}/runs/{made['id']}/cancel")
    answer = client.delete(f"/api/pipeline_runs/{made['number']}")
    assert "error" not in answer.json

    (entry,) = _listed(client, verb="run.delete")

    assert entry["object_id"] == made["id"]
    assert entry["contract"] == "mage"
    assert entry["before"]["submitted_by"] == "admin"
    assert UUID(entry["before"]["source_id"]) == UUID(entry["key_id"])
    assert entry["before"]["state"] == "cancelled"
    assert entry["after"] == {}


def test_the_url_of_a_webhook_is_not_recorded_with_its_path(client: FlaskClient) -> None:
    secret = "T0/B0/a-token-in-the-path"
    body = {"target": f"https://hooks.example/{secret}?k=1", "events": ["run.failed"]}
    webhook = client.post(f"{V1}/webhooks", json=body).json["id"]
    change = {"target": f"https://hooks.example/{secret}?k=2"}
    client.patch(f"{V1}/webhooks/{webhook}", json=change)
    client.delete(f"{V1}/webhooks/{webhook}")

    deleted, changed, created = _listed(client, object_id=webhook)

    assert created["after"]["target"].startswith("https://hooks.example/… (SHA-256 ")
    assert changed["before"] == {"target": created["after"]["target"]}
    assert changed["after"] == {"target": deleted["before"]["target"]} != changed["before"]
    assert secret not in str([deleted, changed, created])


def test_a_request_id_of_a_wrong_form_is_replaced(client: FlaskClient) -> None:
    sent = {"X-Request-Id": "a b"}

    answers = [
        client.get(f"{V1}/runs", headers=sent),
        client.get("/nothing", headers=sent),
        client.application.test_client().get(f"{V1}/runs", headers=sent),
        client.get("/healthz"),
    ]

    ids = [each.headers["X-Request-Id"] for each in answers]
    assert all(each.startswith("req_") for each in ids)
    assert len(set(ids)) == len(ids)


def test_the_api_may_neither_change_nor_number_entries(
    client: FlaskClient, database: Database, tenant_id: UUID
) -> None:
    _cancelled(client, database)
    api = client.application.extensions["orchestrator"].database
    forged = AuditEntry(
        tenant_id=tenant_id, actor="key", verb="x.y", object_type="x", object_id="1", hash="0"
    )

    for statement in ("UPDATE audit SET verb = 'x'", "DELETE FROM audit", "TRUNCATE audit"):
        with pytest.raises(Exception, match="permission denied"), api.transaction(tenant_id) as s:
            s.connection().exec_driver_sql(statement)
    with pytest.raises(Exception, match="row-level security"), api.transaction(tenant_id) as s:
        s.add(forged)


def test_log_records_of_a_request_name_it(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    formatter = logs._Json()
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: lines.append(formatter.format(record)))
    log = logging.getLogger("api.app")
    monkeypatch.setattr(log, "handlers", [handler])
    client.application.before_request_funcs[None].append(lambda: log.warning("here"))
    try:
        client.get("/healthz", headers={"X-Request-Id": "r-7"})
    finally:
        client.application.before_request_funcs[None].pop()
    log.warning("outside")

    inside, outside = (json.loads(line) for line in lines)
    assert inside["request_id"] == "r-7"
    assert "request_id" not in outside
