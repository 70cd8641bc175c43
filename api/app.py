"""The Flask application of the API."""

import base64
import functools
import gc
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Blueprint, Flask, Response, current_app, g, redirect, request
from flask_swagger_ui import get_swaggerui_blueprint

from api import contracts as published
from api import cors, health, oauth, v1
from api.capacity.gate import Gate
from api.capacity.rate_limits import RateLimiter
from api.capacity.turns import Turns
from api.refusals import Refusals
from api.toolkit import (
    auth,
    blueprints,
    downloads,
    problems,
    request_guards,
    transient_retry,
)
from api.toolkit.context import EXTENSION, Services, caller, request_id
from api.toolkit.event_feed import EventFeed
from api.toolkit.json_bodies import JsonProvider, JsonRequest
from api.toolkit.surface import Contract, DocumentingApi
from api.toolkit.wire import ProblemSchema
from api.v1 import schedules
from config import logging
from config.response_headers import CONTENT_POLICY, DEFAULT_HEADERS
from config.settings import Settings
from orchestrator.access import secrets
from orchestrator.broker.client import Broker, make_app
from orchestrator.db import schema
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.db.row_security import API_ROLE
from orchestrator.errors import Unavailable

_OPEN_PREFIXES = ("/healthz", "/readyz", "/openapi", "/docs")  # paths that need no key
_AUTH_CONNECTIONS = 4  # of one process
_MAX_BODIES = 128  # that are received at once with a key, each up to the largest request


def create_app(settings: Settings) -> Flask:
    """The API over the Postgres and Redis of the settings; connects on the first request."""
    app = Flask(__name__)
    app.request_class, app.json = JsonRequest, JsonProvider(app)
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_body + 1,  # one more byte shows that there is more
        API_TITLE="Orchestrator",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH="openapi.json",
        API_SPEC_OPTIONS=auth.security_document(auth.NATIVE),
    )
    app.url_map.merge_slashes = False  # no contract answers with such a redirect
    app.extensions[EXTENSION] = instance = _make_services(settings)
    contracts = published.select(settings.contracts)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(_docs_blueprint(contracts))
    app.register_blueprint(oauth.blueprint)
    app.add_url_rule("/", "root", lambda: redirect("/docs/"))
    app.wsgi_app = Gate(  # type: ignore[method-assign]
        app.wsgi_app,
        Refusals(app, contracts),
        turns=Turns(
            settings.of_one_process(settings.connections), settings.queue_timeout.total_seconds()
        ),
        streams=settings.of_one_process(settings.streams),
        bodies=settings.of_one_process(_MAX_BODIES),
    )
    api = DocumentingApi(app, ProblemSchema, "application/problem+json")
    for blueprint in v1.BLUEPRINTS:
        api.register_blueprint(blueprint, url_prefix=f"/api/v1{blueprint.url_prefix or ''}")
    query_names = request_guards.documented_queries(api.spec.to_dict())
    for contract in contracts:
        published.serve(app, contract)
    guard = functools.partial(_guard, query_names, contracts, _rate_limit(settings))
    app.before_request(lambda: logging.rebind(request_id=request_id()))
    app.teardown_request(lambda _: logging.rebind())
    app.before_request(lambda: cors.preflight(settings.cors_origins))
    app.before_request(lambda: transient_retry.run_read(guard))
    app.after_request(functools.partial(_finish, settings.cors_origins))
    app.wsgi_app = _with_default_headers(app.wsgi_app)  # type: ignore[method-assign]
    # After every Api: each registers a handler for all HTTP errors of the app.
    problems.install_problems(app, _render)
    transient_retry.install_retry(app, instance.database)
    return app


def _docs_blueprint(contracts: Sequence[Contract]) -> Blueprint:
    """Swagger UI at `/docs` for the OpenAPI documents of all APIs."""
    documents = [{"url": "/openapi.json", "name": "Orchestrator"}]
    documents += [{"url": f"/openapi/{each.name}.json", "name": each.title} for each in contracts]
    config = {
        "urls": documents,
        "layout": "StandaloneLayout",
        "validatorUrl": "none",
        "oauth2RedirectUrl": "/docs/oauth2-redirect.html",  # without the request's host
    }
    blueprint: Blueprint = get_swaggerui_blueprint("/docs", "/openapi.json", config)
    blueprint.after_request(_allow_scripts)
    return blueprint


def _allow_scripts(response: Response) -> Response:
    """Let the pages of Swagger UI load what this server has, and the scripts within them."""
    if response.mimetype == "text/html":
        scripts = "" if response.direct_passthrough else response.get_data(as_text=True)
        hashes = (
            base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()
            for each in re.findall(r"<script>(.*?)</script>", scripts, re.DOTALL)
        )
        sources = " ".join(["'self'", *(f"'sha256-{each}'" for each in hashes)])
        response.headers["Content-Security-Policy"] = (
            f"{CONTENT_POLICY}; script-src {sources}; style-src 'self'; img-src 'self' data:;"
            " connect-src 'self'"
        )
    return response


def _make_services(settings: Settings) -> Services:
    broker = Broker(make_app(settings.redis_url, publisher=True))
    connect = functools.partial(make_engine, settings.database_url, pre_ping=False)
    connections = settings.of_one_process(settings.connections)
    engine = connect(pool_size=connections, name="orchestrator-api", role=API_ROLE)
    # Authentication is one query: these connections run in autocommit.
    auth_engine = connect(pool_size=_AUTH_CONNECTIONS, name="orchestrator-auth", alone=True)
    unscoped_database = Database(auth_engine, broker.deliver)
    return Services(
        settings=settings,
        database=Database(engine, broker.deliver),
        unscoped_database=unscoped_database,
        feed=EventFeed(unscoped_database),
        broker=broker,
        secret_key=secrets.secret_key(settings),
    )


def serve() -> Flask:
    """The application for gunicorn, which forks its processes after it; no connection is open.

    Exits with one line for a database of no use here.
    """
    settings = Settings.from_env()
    logging.configure(settings.log_level)
    engine = make_engine(settings.database_url, pool_size=1)
    try:
        schema.check_schema(engine)
    except Unavailable as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(3)
    engine.dispose()
    app = create_app(settings)
    # What is imported now stays: keep it out of garbage collections, which would also write to
    # the memory that the processes share.
    gc.collect()
    gc.freeze()
    return app


def _rate_limit(settings: Settings) -> Callable[[], None]:
    """Counts a request of the caller. Raises TooManyRequests."""
    if not settings.rate_limit:
        return lambda: None
    limiter = RateLimiter(settings.redis_url, settings.rate_limit)
    return lambda: limiter.count(str(caller().key_id))


def _guard(
    query_names: Mapping[str, frozenset[str]],
    contracts: Sequence[Contract],
    count: Callable[[], None],
) -> Response | None:
    """Check address, key, rate limit, rights, query and body before the view runs."""
    contract = g.contract = published.owner(contracts)
    request_guards.check_address()
    if contract is not None:
        if request.endpoint not in contract.open:
            auth.authenticate(contract.accepts)
            g.caller = contract.admit(g.caller)
            count()
            _check_rights()
        return None
    if request.path == "/" or request.path.startswith(_OPEN_PREFIXES) or oauth.owns(request.path):
        return None
    if schedules.has_trigger_token():
        request_guards.check_query(query_names)
        return None  # the view checks the token, then the body
    if not downloads.has_signed_address():
        auth.authenticate()
        count()
        _check_rights()
    request_guards.check_query(query_names)
    request_guards.check_json()
    return None


def _check_rights() -> None:
    """Raises Forbidden unless the caller may do what the request does."""
    if request.blueprint is not None:
        blueprint = current_app.blueprints[request.blueprint]
        assert isinstance(blueprint, blueprints.Blueprint)  # every other one is open
        blueprint.check_rights()


def _finish(origins: Sequence[str], response: Response) -> Response:
    contract: Contract | None = g.get("contract")  # set by `_guard`
    if contract is not None:
        response = contract.finish(response)
    response.headers.extend(g.get("rate", {}))  # set by `rate_limits`
    cors.allow_origin(response, origins)
    response.headers["X-Request-Id"] = request_id()
    return response


def _with_default_headers(inner: Any) -> Callable[..., Any]:
    """WSGI middleware that adds the default headers; in Flask's own objects it takes ten times."""

    defaults = [(name.lower(), (name, value)) for name, value in DEFAULT_HEADERS.items()]

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            present = {name.lower() for name, _ in headers}
            headers += [header for name, header in defaults if name not in present]
            return start_response(status, headers, *error)

        return inner(environ, start)

    return application


def _render(problem: problems.Problem) -> Response:
    """An error in the format of the API that owns the address."""
    if oauth.owns(request.path):
        return oauth.render(problem)
    contract: Contract | None = g.get("contract")
    return contract.render(problem) if contract else problems.problem_json(problem)
