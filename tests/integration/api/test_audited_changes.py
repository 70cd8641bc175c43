"""Every route of every API that changes something leaves an entry of the audit log."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, select, text

from api.contracts import CONTRACTS
from orchestrator.db.database import Database
from orchestrator.models import AuditEntry, Run, Schedule, ScheduleType
from tests.contracts.mindzie.helpers import a_job
from tests.contracts.solvexia.helpers import DAY, created, properties, steps_of
from tests.contracts.virtuousai.helpers import a_failed_run
from tests.support.api_keys import a_key
from tests.support.factories import KEY, a_run, a_schedule, a_spec, a_webhook, the_run

V1 = "/api/v1"
REQUEST = "the-change"
API = {"type": ScheduleType.API, "every": None}

# Routes that change nothing, with the reason.
UNCHANGING = {
    "oauth.token": "a token is signed, not stored",
    "mage.make_session": "it gives a key back, or signs a token",
    "opendatadsl.delete": "it refuses",
}


class World:
    """What the requests are about; each call makes a new one."""

    def __init__(self, client: FlaskClient, database: Database) -> None:
        self.client, self._database = client, database

    def run(self, **options: Any) -> Run:
        """A run that waits."""
        return a_run(self._database, a_spec(steps=2), window=0, **options)

    def work(self) -> dict[str, Any]:
        """The body that submits a run."""
        return {"workflow": self.run().workflow}

    def process(self) -> dict[str, Any]:
        """The same in the words of OpenDataDSL."""
        return {"name": self.run().workflow}

    def workflow(self) -> dict[str, Any]:
        """A workflow."""
        answer: dict[str, Any] = self._json(
            self.client.get(f"{V1}/workflows/{self.run().workflow}")
        )
        return answer

    def failed(self) -> Run:
        """A run whose second of three steps failed."""
        return the_run(self._database, a_failed_run(self._database))

    def schedule(self, **fields: Any) -> Schedule:
        """An hourly schedule, unless fields differ."""
        return a_schedule(self._database, **fields)

    def trigger(self) -> dict[str, Any]:
        """A schedule of type api, with its token."""
        return self._json(self.client.get(f"{V1}/schedules/{self.schedule(**API).id}"))

    def project(self) -> str:
        """The id of a project."""
        return str(self._json(self.client.get(f"{V1}/projects"))["items"][0]["id"])

    def jobs(self, run: Run) -> str:
        """The address of a run as a job."""
        return f"/api/{run.tenant_id}/{self.project()}/execution/job/{run.id}"

    def backfill(self) -> str:
        """The id of a backfill."""
        path = f"{V1}/schedules/{self.schedule().id}/backfills"
        return str(self._json(self.client.post(path, json=DAYS))["id"])

    def webhook(self) -> str:
        """The id of a webhook."""
        return str(a_webhook(self._database, "https://hooks.example/in").id)

    def delivery(self) -> str:
        """The id of a delivery."""
        made = self.client.post(f"{V1}/webhooks/{self.webhook()}/test")
        return str(self._json(made)["id"])

    def key(self) -> str:
        """The id of a key."""
        return str(a_key(self.client)["id"])

    def property(self) -> tuple[str, str, Any]:
        """The request that sets a property of a run."""
        load = steps_of(self.client, created(self.client, DAY)["id"])[0]
        day = properties(self.client, load)["day"]
        return "POST", f"{V1}/steps/{load}/properties/{day['id']}", {**day, "value": "2026-02-03"}

    def upload(self) -> tuple[str, str, Any]:
        """The request that uploads a file for a property of a run."""
        load = steps_of(self.client, created(self.client, DAY)["id"])[0]
        file = properties(self.client, load)["source"]["file"]
        return "POST", f"{V1}/files/{file}", {"file": (io.BytesIO(b"x"), "x.csv")}

    def definition(self) -> dict[str, Any]:
        """The body that writes a process of OpenDataDSL."""
        return {"name": "written", "workflow": self.run().workflow}

    @staticmethod
    def _json(answer: Any) -> Any:
        assert answer.status_code < 300, answer.text
        return answer.json


DAYS = {"start_at": "2027-01-01T00:00:00Z", "end_at": "2027-01-02T00:00:00Z"}
HOOK = {"target": "https://hooks.example/in", "events": ["run.failed"]}
PROCESS = "/api/process/v1"
CANCEL = {"pipeline_run": {"status": "cancelled"}}

Request = tuple[str, str, Any]
# For each endpoint: what its entry is called, and a request that changes something.
CHANGES: dict[str, tuple[str, Callable[[World], Request]]] = {
    "backfills.cancel": (
        "backfill.cancel", lambda w: ("POST", f"{V1}/backfills/{w.backfill()}/cancel", {})),
    "deliveries.replay_delivery": (
        "delivery.replay", lambda w: ("POST", f"{V1}/deliveries/{w.delivery()}/replay", {})),
    "keys.create": (
        "key.create", lambda w: ("POST", f"{V1}/keys", {"name": "n", "role": "viewer"})),
    "keys.revoke": ("key.revoke", lambda w: ("POST", f"{V1}/keys/{w.key()}/revoke", {})),
    "keys.rotate": ("key.rotate", lambda w: ("POST", f"{V1}/keys/{w.key()}/rotate", {})),
    "mage.delete_run": (
        "run.delete", lambda w: ("DELETE", f"/api/pipeline_runs/{w.failed().number}", None)),
    "mage.delete_schedule": (
        "schedule.delete",
        lambda w: ("DELETE", f"/api/pipeline_schedules/{w.schedule().number}", None)),
    "mage.make_schedule": (
        "schedule.create",
        lambda w: (
            "POST", f"/api/pipelines/{w.run().workflow}/pipeline_schedules",
            {"pipeline_schedule": {"schedule_type": "api"}})),
    "mage.put_pipeline": (
        "run.cancel",
        lambda w: (
            "PUT", f"/api/pipelines/{w.run().workflow}", {"pipeline": {"status": "cancelled"}})),
    "mage.put_run": (
        "run.cancel", lambda w: ("PUT", f"/api/pipeline_runs/{w.run().number}", CANCEL)),
    "mage.put_schedule": (
        "schedule.change",
        lambda w: (
            "PUT", f"/api/pipeline_schedules/{w.schedule().number}",
            {"pipeline_schedule": {"name": "another"}})),
    "mage.start_run": (
        "run.submit",
        lambda w: (
            "POST", f"/api/pipeline_schedules/{w.schedule().number}/pipeline_runs",
            {"pipeline_run": {}})),
    "mage.trigger_by_bearer": (
        "run.submit",
        lambda w: ("POST", f"/api/pipeline_schedules/{w.schedule(**API).number}/api_trigger", {})),
    "mage.trigger_by_path": (
        "run.submit",
        lambda w: (
            "POST", "/api/pipeline_schedules/{number}/pipeline_runs/{token}".format(**w.trigger()),
            {})),
    "mindzie.cancel": ("run.cancel", lambda w: ("DELETE", w.jobs(w.run()), {})),
    "mindzie.cancel_execution": (
        "run.cancel",
        lambda w: ("DELETE", w.jobs(w.run()).replace("/job/", "/queue/"), None)),
    "mindzie.queue_investigation": (
        "run.submit",
        lambda w: (
            "POST", w.jobs(w.run()).partition("/job/")[0]
            + f"/queue/investigation/{w.workflow()['id']}", None)),
    "mindzie.queue_notebook": (
        "run.submit",
        lambda w: (
            "POST", w.jobs(w.run()).partition("/job/")[0]
            + f"/queue/notebook/{w.workflow()['id']}", None)),
    "mindzie.retry": ("run.retry", lambda w: ("POST", f"{w.jobs(w.failed())}/retry", {})),
    "mindzie.submit": (
        "run.submit", lambda w: ("POST", w.jobs(w.run()).rpartition("/")[0], a_job())),
    "opendatadsl.private_rename": (
        "workflow.register",
        lambda w: ("PUT", f"{PROCESS}/private/{w.run().workflow}", {"_id": "#Renamed: b"})),
    "opendatadsl.private_tag": (
        "workflow.tag", lambda w: ("PUT", f"{PROCESS}/private/{w.run().workflow}/1/prod", None)),
    "opendatadsl.private_write": (
        "workflow.register", lambda w: ("POST", f"{PROCESS}/private", w.definition())),
    "opendatadsl.rename": (
        "workflow.register",
        lambda w: ("PUT", f"{PROCESS}/{w.run().workflow}", {"_id": "#Renamed: a"})),
    "opendatadsl.tag": (
        "workflow.tag", lambda w: ("PUT", f"{PROCESS}/{w.run().workflow}/1/live", None)),
    "opendatadsl.write": ("workflow.register", lambda w: ("POST", PROCESS, w.definition())),
    "opendatadsl.write_at_root": (
        "workflow.register", lambda w: ("POST", "/api/process", w.definition())),
    "opendatadsl.private_trigger": (
        "run.submit", lambda w: ("POST", "/api/process-exec/v1/private", w.process())),
    "opendatadsl.trigger": (
        "run.submit", lambda w: ("POST", "/api/process-exec/v1", w.process())),
    "opendatadsl.trigger_at_root": (
        "run.submit", lambda w: ("POST", "/api/process-exec", w.process())),
    "projects.create": ("project.create", lambda w: ("POST", f"{V1}/projects", {"name": "p"})),
    "projects.rename": (
        "project.rename", lambda w: ("PATCH", f"{V1}/projects/{w.project()}", {"name": "q"})),
    "runs.cancel": ("run.cancel", lambda w: ("POST", f"{V1}/runs/{w.run().id}/cancel", {})),
    "runs.cancel_many": (
        "run.cancel",
        lambda w: ("POST", f"{V1}/runs/bulk/cancel", {"filter": {"workflow": [w.run().workflow]}})),
    "runs.change": ("run.change", lambda w: ("PATCH", f"{V1}/runs/{w.run().id}", {"priority": 9})),
    "runs.restart": (
        "run.retry", lambda w: ("POST", f"{V1}/runs/{w.failed().id}/steps/s2/restart", {})),
    "runs.retry": ("run.retry", lambda w: ("POST", f"{V1}/runs/{w.failed().id}/retry", {})),
    "runs.start": (
        "run.start", lambda w: ("POST", f"{V1}/runs/{w.run(start=False).id}/start", {})),
    "runs.submit": ("run.submit", lambda w: ("POST", f"{V1}/runs", w.work())),
    "runs.submit_batch": (
        "run.submit_batch", lambda w: ("POST", f"{V1}/runs/batch", {"runs": [w.work()] * 3})),
    "schedules.begin_backfill": (
        "backfill.create",
        lambda w: ("POST", f"{V1}/schedules/{w.schedule().id}/backfills", DAYS)),
    "schedules.change": (
        "schedule.change",
        lambda w: ("PATCH", f"{V1}/schedules/{w.schedule().id}", {"active": False})),
    "schedules.create": (
        "schedule.create",
        lambda w: ("POST", f"{V1}/schedules", {"workflow": w.run().workflow, "type": "api"})),
    "schedules.delete": (
        "schedule.delete", lambda w: ("DELETE", f"{V1}/schedules/{w.schedule().id}", None)),
    "schedules.rotate_token": (
        "schedule.rotate_token",
        lambda w: ("POST", f"{V1}/schedules/{w.schedule(**API).id}/rotate-token", {})),
    "schedules.trigger": (
        "run.submit", lambda w: ("POST", f"{V1}/schedules/{w.schedule().id}/trigger", {})),
    "schedules.trigger_by_token": (
        "run.submit",
        lambda w: ("POST", "{0}/schedules/{id}/trigger/{token}".format(V1, **w.trigger()), {})),
    "solvexia.cancel": (
        "run.cancel", lambda w: ("POST", f"{V1}/processruns/pr-{w.run().number}/cancel", None)),
    "solvexia.change_property": ("run.amend", World.property),
    "solvexia.command": (
        "run.cancel",
        lambda w: (
            "POST", f"{V1}/requests",
            {"request": "ProcessRun_CancelRq", "processRunId": f"pr-{w.run().number}"})),
    "solvexia.create_run": (
        "run.submit",
        lambda w: ("POST", f"{V1}/processes/p-{w.workflow()['number']}/processruns", None)),
    "solvexia.restart": (
        "run.retry",
        lambda w: (
            "POST", "{0}/processruns/pr-{run.number}/steps/as-{run.steps[1].number}/restartfromhere"
            .format(V1, run=w.failed()), None)),
    "solvexia.start": (
        "run.start",
        lambda w: ("POST", f"{V1}/processruns/pr-{w.run(start=False).number}/start", None)),
    "solvexia.upload": ("run.amend", World.upload),
    "tenants.change": (
        "tenant.change",
        lambda w: ("PATCH", f"{V1}/tenants/{w.run().tenant_id}", {"settings": {"colour": "red"}})),
    "virtuousai.cancel": (
        "run.cancel", lambda w: ("POST", f"{V1}/automation-runs/{w.run().id}/cancel", None)),
    "virtuousai.change": (
        "workflow.register",
        lambda w: (
            "PUT", f"{V1}/automations/{w.workflow()['id']}",
            {"config": {"steps": [{"key": "changed", "uses": "noop"}]}})),
    "virtuousai.make_token": (
        "key.create", lambda w: ("POST", f"{V1}/access-tokens", {"name": "n"})),
    "virtuousai.revoke_token": (
        "key.revoke", lambda w: ("DELETE", f"{V1}/access-tokens/{w.key()}", None)),
    "virtuousai.make": (
        "workflow.register",
        lambda w: (
            "POST", f"{V1}/automations",
            {"name": "made", "config": {"steps": [{"key": "s", "uses": "noop"}]}})),
    "virtuousai.retry": (
        "run.retry",
        lambda w: ("POST", f"{V1}/automation-runs/{w.failed().id}/retry", {"mode": "full"})),
    "virtuousai.trigger": (
        "run.submit",
        lambda w: ("POST", f"{V1}/automations/{w.workflow()['id']}/runs", {})),
    "webhooks.change": (
        "webhook.change",
        lambda w: ("PATCH", f"{V1}/webhooks/{w.webhook()}", {"active": False})),
    "webhooks.create": ("webhook.create", lambda w: ("POST", f"{V1}/webhooks", HOOK)),
    "webhooks.delete": (
        "webhook.delete", lambda w: ("DELETE", f"{V1}/webhooks/{w.webhook()}", None)),
    "webhooks.rotate": (
        "webhook.rotate_secret",
        lambda w: ("POST", f"{V1}/webhooks/{w.webhook()}/rotate-secret", {})),
    "webhooks.send_test": (
        "webhook.test", lambda w: ("POST", f"{V1}/webhooks/{w.webhook()}/test", {})),
    "workflows.register": (
        "workflow.register", lambda w: ("POST", f"{V1}/workflows", a_spec("registered"))),
}  # fmt: skip
BY_TOKEN = {"schedules.trigger_by_token", "mage.trigger_by_path", "mage.trigger_by_bearer"}


@pytest.fixture
def restored(engine: Engine, no_keys_left: None) -> Iterator[None]:
    """Undo what lasts longer than a test: projects, and the tenant's settings."""
    yield
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM projects WHERE name = 'p'"))
        connection.execute(text("UPDATE projects SET name = 'default' WHERE name = 'q'"))
        connection.execute(text("UPDATE tenants SET settings = '{}'"))


def test_every_route_that_changes_something_is_tried(app: Flask) -> None:
    routes = {
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
    }

    left = routes - CHANGES.keys() - UNCHANGING.keys()
    assert left == set(), "record what it changes, and add a request to CHANGES"
    assert CHANGES.keys() <= routes


@pytest.mark.parametrize("endpoint", CHANGES)
@pytest.mark.usefixtures("restored")
def test_a_change_is_recorded_with_its_caller_and_request(
    client: FlaskClient, database: Database, endpoint: str
) -> None:
    verb, make = CHANGES[endpoint]
    method, path, body = make(World(client, database))
    headers = {"X-Request-Id": REQUEST}
    if endpoint == "mage.trigger_by_bearer":
        trigger = client.get(f"{V1}/schedules").json["items"][0]
        headers["Authorization"] = f"Bearer {trigger['token']}"

    sent = {"data": body} if endpoint == "solvexia.upload" else {"json": body}
    answer = client.open(path, method=method, headers=headers, **sent)

    assert answer.status_code < 300, answer.text
    assert answer.status_code == 204 or not answer.json.get("error"), answer.text
    assert answer.headers["X-Request-Id"] == REQUEST
    with database.transaction() as session:
        entries = list(session.scalars(select(AuditEntry).filter_by(request_id=REQUEST)))
    assert verb in {each.verb for each in entries}
    owner = endpoint.partition(".")[0]
    contract = owner if owner in {each.name for each in CONTRACTS} else "v1"
    by = "trigger" if endpoint in BY_TOKEN else "key"
    assert {(each.contract, each.actor.value) for each in entries} == {(contract, by)}
    if by == "key":
        assert {each.name for each in entries} == {"admin"}
        assert all(each.key_id for each in entries)
    assert all(each.before != each.after or each.verb.endswith("replay") for each in entries)
    recorded = " ".join(str([each.before, each.after]) for each in entries)
    assert KEY not in recorded
    assert "ok_" not in recorded


def test_a_request_that_is_refused_leaves_no_entry(client: FlaskClient, database: Database) -> None:
    run = World(client, database).failed()
    headers = {"X-Request-Id": REQUEST}

    answers = [
        client.post(f"{V1}/runs/{run.id}/cancel", headers=headers),
        client.patch(f"{V1}/runs/{run.id}", json={"priority": 1}, headers=headers),
        client.put(f"/api/pipeline_runs/{run.number}", json=CANCEL, headers=headers),
        client.post(f"{V1}/keys", json={"name": "admin", "role": "viewer"}, headers=headers),
        client.post(f"{V1}/workflows", json=a_spec(steps=3), headers=headers),  # as it is already
    ]

    assert [each.status_code for each in answers] == [409, 409, 200, 422, 200]
    with database.transaction() as session:
        assert session.scalars(select(AuditEntry).filter_by(request_id=REQUEST)).all() == []
