"""What views use of the application and the request: transactions, settings, the caller."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from flask import current_app, g, request
from sqlalchemy.orm import Session

from api.toolkit.event_feed import EventFeed
from config.settings import Settings
from orchestrator.access import signing
from orchestrator.access.authentication import Principal
from orchestrator.access.permissions import Verb
from orchestrator.broker.client import Broker
from orchestrator.db.database import Database
from orchestrator.models import Actor, ActorKind, Schedule
from orchestrator.monitoring.workers import Alias, real_name

_REQUEST_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
EXTENSION = "orchestrator"  # of a Flask application, which has its `Services`


@dataclass(frozen=True)
class Services:
    """The resources of the application."""

    settings: Settings
    database: Database  # with row-level security: one tenant per transaction
    unscoped_database: Database  # autocommit, all tenants: for queries that name their tenant
    feed: EventFeed
    broker: Broker
    secret_key: str


def services() -> Services:
    """The resources of the current application."""
    instance: Services = current_app.extensions[EXTENSION]
    return instance


def settings() -> Settings:
    """The settings of this deployment."""
    return services().settings


def transaction(*, snapshot: bool = False) -> AbstractContextManager[Session]:
    """One transaction for the caller's tenant; it cannot see another tenant's rows."""
    database = services().database.acting(_actor(caller()))
    return database.transaction(tenant(), snapshot=snapshot)


def trigger_transaction(schedule: Schedule) -> AbstractContextManager[Session]:
    """One transaction for the tenant of a schedule whose token authenticates the request."""
    actor = Actor(actor=ActorKind.TRIGGER, name=schedule.name, **_request())
    return services().database.acting(actor).transaction(schedule.tenant_id)


def request_id() -> str:
    """The id of this request: as sent by the client in `X-Request-Id`, else generated."""
    if "request_id" not in g:
        g.request_id = id_of_request(request.headers.get("X-Request-Id", ""))
    return str(g.request_id)


def id_of_request(header: str) -> str:
    """The header, if it is an id, else a new one."""
    return header if _REQUEST_ID.fullmatch(header) else f"req_{uuid4().hex[:12]}"


def caller() -> Principal:
    """The authenticated caller, set by `auth` before the view runs."""
    principal: Principal = g.caller
    return principal


def must_lend(user: str | None, resource: str) -> None:
    """Raises Forbidden if another user's rights are used and the caller may not lend them."""
    if user not in (None, caller().submitter):
        caller().must(resource, Verb.LEND)


def worker_alias() -> Alias:
    """What the caller sees in place of a name of a worker or a host: itself, or an opaque one."""
    who: Principal | None = g.get("caller")  # None: with the token of a trigger
    if who is not None and who.may("system", Verb.IDENTIFY):
        return real_name
    return partial(signing.alias, services().secret_key)


def shown_worker(name: str | None) -> str | None:
    """The name of a worker, if there is one, as the caller sees it."""
    return name and worker_alias()("worker", name)


def tenant() -> UUID:
    """The tenant of the caller."""
    return caller().tenant_id


def _actor(principal: Principal) -> Actor:
    """The caller, as the audit log names it."""
    return Actor(
        actor=ActorKind.TOKEN if principal.by_token else ActorKind.KEY,
        name=principal.name,
        key_id=principal.key_id,
        user=principal.user,
        **_request(),
    )


def _request() -> dict[str, Any]:
    contract = g.get("contract")  # set by the guard of the application; None: the native API
    return {"contract": contract.name if contract else "v1", "request_id": request_id()}
