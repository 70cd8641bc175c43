"""Puts the API together."""

import gc
from collections.abc import Mapping, Sequence

from flask import Blueprint, Flask, Response, g, redirect, request
from flask_smorest import Api
from flask_swagger_ui import get_swaggerui_blueprint

from api import contracts as published
from api import health, oauth
from api.toolkit import auth, downloads, problems, rate_limits, request_guards, transient_retry
from api.toolkit.context import Services, install_services
from api.toolkit.event_feed import EventFeed
from api.toolkit.problems import ProblemSchema
from api.toolkit.surface import Contract
from api.v1 import (
    artifacts,
    backfills,
    events,
    keys,
    runs,
    schedules,
    system,
    tenants,
    webhooks,
    workflows,
)
from api.v1 import logs as v1_logs
from api.v1 import runs as _many_runs  # noqa: F401 - more of what `runs` serves
from config import logging as logs
from config.settings import Settings
from orchestrator.access import secrets
from orchestrator.broker.client import Broker, make_app
from orchestrator.db import schema
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.db.row_security import API_ROLE

# These need no key.
_OPEN = ("/healthz", "/readyz", "/openapi", "/docs")
_DOORS = 4  # connections that look up keys


class _Api(Api):
    """Documents every refusal as the problem that it is."""

    ERROR_SCHEMA = ProblemSchema

    def _register_responses(self) -> None:
        self.DEFAULT_RESPONSE_CONTENT_TYPE = "application/problem+json"
        super()._register_responses()
        del self.DEFAULT_RESPONSE_CONTENT_TYPE


def create_app(settings: Settings) -> Flask:
    """The API over this deployment's Postgres and Redis; nothing connects before a request."""
    app = Flask(__name__)
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_body + 1,  # one more byte shows that there is more
        API_TITLE="Orchestrator",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH="openapi.json",
        API_SPEC_OPTIONS=auth.security_document(auth.NATIVE),
    )
    app.url_map.merge_slashes = False  # a redirect is no answer of any contract
    app.json.sort_keys = False  # type: ignore[attr-defined]
    parts = _parts(settings)
    install_services(app, parts)
    contracts = published.chosen(settings.contracts)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(_pages(contracts))
    app.register_blueprint(oauth.blueprint)
    app.add_url_rule("/", "root", lambda: redirect("/docs/"))
    api = _Api(app)
    api.register_blueprint(workflows.blueprint)
    api.register_blueprint(runs.blueprint)
    api.register_blueprint(schedules.blueprint)
    api.register_blueprint(backfills.blueprint)
    api.register_blueprint(v1_logs.blueprint)
    api.register_blueprint(artifacts.blueprint)
    api.register_blueprint(system.blueprint)
    api.register_blueprint(tenants.blueprint)
    api.register_blueprint(tenants.projects)
    api.register_blueprint(keys.blueprint)
    api.register_blueprint(events.blueprint)
    api.register_blueprint(webhooks.blueprint)
    api.register_blueprint(webhooks.deliveries_blueprint)
    known = request_guards.documented_queries(api.spec.to_dict())
    for contract in contracts:
        published.serve(app, contract)
    limit = (
        rate_limits.RateLimiter(settings.redis_url, settings.rate_limit)
        if settings.rate_limit
        else None
    )
    app.before_request(lambda: transient_retry.run_read(lambda: _admit(known, contracts, limit)))
    app.after_request(_finish)
    # After every Api, which claims every HTTP error for itself.
    problems.install_problems(app, _render)
    transient_retry.install_retry(app, parts.database)
    return app


def _pages(contracts: Sequence[Contract]) -> Blueprint:
    """`/docs`: the documents of all APIs, to choose from."""
    documents = [{"url": "/openapi.json", "name": "Orchestrator"}]
    documents += [{"url": f"/openapi/{each.name}.json", "name": each.title} for each in contracts]
    config = {"urls": documents, "layout": "StandaloneLayout", "validatorUrl": "none"}
    pages: Blueprint = get_swaggerui_blueprint("/docs", "/openapi.json", config)
    return pages


def _parts(settings: Settings) -> Services:
    broker = Broker(make_app(settings.redis_url, publisher=True))
    engine = make_engine(
        settings.database_url,
        pool_size=settings.connections,
        name="orchestrator-api",
        pre_ping=False,
        role=API_ROLE,
    )
    # Who asks is one question: it needs no transaction around it.
    entrance = make_engine(
        settings.database_url,
        pool_size=_DOORS,
        name="orchestrator-doors",
        pre_ping=False,
        alone=True,
    )
    doors = Database(entrance, broker.deliver)
    return Services(
        settings=settings,
        database=Database(engine, broker.deliver),
        doors=doors,
        feed=EventFeed(doors, settings.streams),
        broker=broker,
        secret_key=secrets.secret_key(settings),
    )


def serve() -> Flask:
    """The API as gunicorn starts it. Raises Unavailable on a schema that is not up to date."""
    settings = Settings.from_env()
    logs.configure(settings.log_level)
    engine = make_engine(settings.database_url, pool_size=1)
    schema.check_schema(engine)
    engine.dispose()
    app = create_app(settings)
    # What is there now stays: a collection need not look at it again, in the middle of an answer.
    gc.collect()
    gc.freeze()
    return app


def _admit(
    known_query: Mapping[str, frozenset[str]],
    contracts: Sequence[Contract],
    limit: rate_limits.RateLimiter | None,
) -> Response | None:
    """Let a request in if it can be read and, unless it goes to an open address, has a key."""
    contract = g.contract = published.owner(contracts, request.path)
    request_guards.check_address()
    if contract is not None:
        if request.endpoint not in contract.open:
            auth.authenticate(contract.accepts)
            _count(limit)
            contract.check()
        return None
    if request.path == "/" or request.path.startswith(_OPEN) or oauth.owns(request.path):
        return None
    if (
        schedules.has_trigger_token()
    ):  # the view checks the body once it knows that the token is right
        request_guards.check_query(known_query)
        return None
    if not downloads.has_signed_address():
        auth.authenticate()
        _count(limit)
        auth.check_scope()
    request_guards.check_query(known_query)
    request_guards.check_json()
    return None


def _count(limit: rate_limits.RateLimiter | None) -> None:
    if limit is not None:
        limit.count()


def _finish(answer: Response) -> Response:
    contract = _contract()
    return rate_limits.add_rate_headers(contract.finish(answer) if contract else answer)


def _render(problem: problems.Problem) -> Response:
    """An error as the API speaks at whose address it happened."""
    if oauth.owns(request.path):
        return oauth.render(problem)
    contract = _contract()
    return contract.render(problem) if contract else problems.problem_json(problem)


def _contract() -> Contract | None:
    """The contract at whose address the request is, if it is one's."""
    found: Contract | None = g.get("contract")
    return found
