"""Puts the API together."""

from collections.abc import Mapping
from typing import Any

from flask import Flask, redirect, request
from flask_smorest import Api
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.wrappers import Response

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
    runs,
    schedules,
    system,
    tenants,
    triggers,
    webhooks,
    workflows,
)
from api.context import Parts, hold
from api.feed import Feed
from api.schemas import ProblemShown
from config import logging as logs
from config.settings import Settings
from orchestrator import kept, schema
from orchestrator.broker import Broker, make_app
from orchestrator.db import API_ROLE, Database, make_engine

# These need no key.
_OPEN = ("/healthz", "/readyz", "/openapi.json", "/docs", "/oauth/token")
_DOORS = 4  # connections that look up keys
_SECURITY: dict[str, Any] = {
    "components": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "basic": {"type": "http", "scheme": "basic", "description": "user:key"},
            "cookie": {
                "type": "apiKey",
                "in": "cookie",
                "name": auth.NATIVE.cookie,
                "description": "only reads",
            },
            "oauth": {
                "type": "oauth2",
                "flows": {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {}}},
            },
        }
    },
    "security": [{"bearer": []}, {"key": []}, {"basic": []}, {"cookie": []}, {"oauth": []}],
}


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
        API_SPEC_OPTIONS=_SECURITY,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    hold(app, _parts(settings))
    app.register_blueprint(ops.blueprint)
    app.register_blueprint(
        get_swaggerui_blueprint("/docs", "/openapi.json", {"validatorUrl": "none"})
    )
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
    app.before_request(lambda: _admit(known))
    problems.install(app)  # after Api, which claims every HTTP error for itself
    return app


def _parts(settings: Settings) -> Parts:
    broker = Broker(make_app(settings.redis_url, publisher=True))
    engine = make_engine(
        settings.database_url,
        pool_size=settings.connections,
        name="orchestrator-api",
        role=API_ROLE,
    )
    doors = Database(
        make_engine(settings.database_url, pool_size=_DOORS, name="orchestrator-doors"),
        broker.deliver,
    )
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
    return create_app(settings)


def _admit(known_query: Mapping[str, frozenset[str]]) -> Response | None:
    """Let a request in if it can be read and, unless it goes to an open address, has a key."""
    bodies.check_address()
    open_address = request.path == "/" or request.path.startswith(_OPEN)
    if not open_address:
        if not (artifacts.is_signed() or triggers.has_token()):
            auth.authenticate()
            auth.check_scope()
        bodies.check_query(known_query)
        bodies.check_json()
    return None
