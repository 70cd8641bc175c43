"""Puts the API together."""

import gc
from collections.abc import Mapping, Sequence

from flask import Blueprint, Flask, Response, g, redirect, request
from flask_smorest import Api
from flask_swagger_ui import get_swaggerui_blueprint

from api import (
    artifacts,
    auth,
    backfills,
    bodies,
    deliveries,
    events,
    keys,
    oauth,
    ops,
    outputs,
    problems,
    rates,
    repeats,
    runs,
    schedules,
    system,
    tenants,
    triggers,
    webhooks,
    workflows,
)
from api import bulk as _many_runs  # noqa: F401 - more of what `runs` serves
from api import contracts as published
from api.context import Parts, hold
from api.contract import Contract
from api.feed import Feed
from api.schemas import ProblemShown
from config import logging as logs
from config.settings import Settings
from orchestrator import kept, schema
from orchestrator.broker import Broker, make_app
from orchestrator.db import Database, make_engine
from orchestrator.row_security import API_ROLE

# These need no key.
_OPEN = ("/healthz", "/readyz", "/openapi", "/docs")
_DOORS = 4  # connections that look up keys


class _Api(Api):
    """Documents every refusal as the problem that it is."""

    ERROR_SCHEMA = ProblemShown

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
        API_SPEC_OPTIONS=auth.documented(auth.NATIVE),
    )
    app.url_map.merge_slashes = False  # a redirect is no answer of any contract
    app.json.sort_keys = False  # type: ignore[attr-defined]
    parts = _parts(settings)
    hold(app, parts)
    contracts = published.chosen(settings.contracts)
    app.register_blueprint(ops.blueprint)
    app.register_blueprint(_pages(contracts))
    app.register_blueprint(oauth.blueprint)
    app.add_url_rule("/", "root", lambda: redirect("/docs/"))
    api = _Api(app)
    api.register_blueprint(workflows.blueprint)
    api.register_blueprint(runs.blueprint)
    api.register_blueprint(schedules.blueprint)
    api.register_blueprint(backfills.blueprint)
    api.register_blueprint(outputs.blueprint)
    api.register_blueprint(artifacts.blueprint)
    api.register_blueprint(system.blueprint)
    api.register_blueprint(tenants.blueprint)
    api.register_blueprint(tenants.projects)
    api.register_blueprint(keys.blueprint)
    api.register_blueprint(events.blueprint)
    api.register_blueprint(webhooks.blueprint)
    api.register_blueprint(deliveries.blueprint)
    known = bodies.documented_query(api.spec.to_dict())
    for contract in contracts:
        published.serve(app, contract)
    limit = rates.Rates(settings.redis_url, settings.rate_limit) if settings.rate_limit else None
    app.before_request(lambda: repeats.read(lambda: _admit(known, contracts, limit)))
    app.after_request(_finish)
    # After every Api, which claims every HTTP error for itself.
    problems.install(app, _render)
    repeats.install(app, parts.database)
    return app


def _pages(contracts: Sequence[Contract]) -> Blueprint:
    """`/docs`: the documents of all APIs, to choose from."""
    documents = [{"url": "/openapi.json", "name": "Orchestrator"}]
    documents += [{"url": f"/openapi/{each.name}.json", "name": each.title} for each in contracts]
    config = {"urls": documents, "layout": "StandaloneLayout", "validatorUrl": "none"}
    pages: Blueprint = get_swaggerui_blueprint("/docs", "/openapi.json", config)
    return pages


def _parts(settings: Settings) -> Parts:
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
    return Parts(
        settings=settings,
        database=Database(engine, broker.deliver),
        doors=doors,
        feed=Feed(doors, settings.streams),
        broker=broker,
        secret_key=kept.secret_key(settings),
    )


def serve() -> Flask:
    """The API as gunicorn starts it. Raises Unavailable on a schema that is not up to date."""
    settings = Settings.from_env()
    logs.configure(settings.log_level)
    engine = make_engine(settings.database_url, pool_size=1)
    schema.check(engine)
    engine.dispose()
    app = create_app(settings)
    # What is there now stays: a collection need not look at it again, in the middle of an answer.
    gc.collect()
    gc.freeze()
    return app


def _admit(
    known_query: Mapping[str, frozenset[str]],
    contracts: Sequence[Contract],
    limit: rates.Rates | None,
) -> Response | None:
    """Let a request in if it can be read and, unless it goes to an open address, has a key."""
    contract = g.contract = published.owner(contracts, request.path)
    bodies.check_address()
    if contract is not None:
        if request.endpoint not in contract.open:
            auth.authenticate(contract.accepts)
            _count(limit)
            contract.check()
        return None
    if request.path == "/" or request.path.startswith(_OPEN) or oauth.owns(request.path):
        return None
    if triggers.has_token():  # the view checks the body once it knows that the token is right
        bodies.check_query(known_query)
        return None
    if not artifacts.is_signed():
        auth.authenticate()
        _count(limit)
        auth.check_scope()
    bodies.check_query(known_query)
    bodies.check_json()
    return None


def _count(limit: rates.Rates | None) -> None:
    if limit is not None:
        limit.count()


def _finish(answer: Response) -> Response:
    contract = _contract()
    return rates.tell(contract.finish(answer) if contract else answer)


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
