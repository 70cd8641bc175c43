"""A client for the adapters of the published APIs, over HTTP to a stack."""

from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Engine
from werkzeug.exceptions import NotFound
from werkzeug.middleware.http_proxy import ProxyMiddleware
from werkzeug.test import Client, TestResponse

from orchestrator.db.database import Database
from orchestrator.local.stack import Stack
from orchestrator.states import FINAL_RUNS, RunState
from tests.contracts.adapter import Adapter
from tests.support.factories import a_tenant, eventually

WITHIN = 30  # seconds


class ContractClient(Client):
    """A test client whose requests go to the stack, with the contract's credentials."""

    def __init__(
        self,
        adapter: Adapter,
        stack: Stack,
        engine: Engine,
        *,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
    ) -> None:
        server = {"target": stack.url, "host": urlsplit(stack.url).netloc}
        proxy = ProxyMiddleware(NotFound(), {"api": server}, timeout=WITHIN)
        database = Database(engine, lambda _: None)
        proxy.extensions = {
            "orchestrator": SimpleNamespace(unscoped_database=database)
        }  # for the adapters
        super().__init__(proxy)
        self.adapter, self.url = adapter, stack.url
        self.headers = adapter.credentials(stack.key) if headers is None else headers
        self._query = query or {}
        with database.transaction() as session:
            self.tenant_id = a_tenant(session)

    def open(
        self, *args: Any, headers: Any = None, query_string: Any = None, **kwargs: Any
    ) -> TestResponse:
        """Send a request with the default headers and query."""
        kwargs["headers"] = {**self.headers, **(headers or {})}
        kwargs["query_string"] = {**self._query, **(query_string or {})} or None
        return super().open(*args, **kwargs)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The JSON of a response with status 200."""
        response = self.open(path, method=method, json=body, query_string=query)
        assert response.status_code == 200, response.text
        return response.json

    def submit(self, workflow: str) -> str:
        """Submit a run; returns its wire id."""
        return self.adapter.submitted_id(self.adapter.submit(self, self.tenant_id, workflow))

    def state(self, wire_id: str) -> str:
        """The wire state of a run."""
        return self.adapter.state_in(self.adapter.read(self, self.tenant_id, wire_id))

    def final_state(self, wire_id: str) -> str:
        """The first wire state of a run that is not one of an unfinished run only."""
        words = self.adapter.states
        unfinished = {words[state] for state in RunState if state not in FINAL_RUNS}
        unfinished -= {words[state] for state in FINAL_RUNS}
        return eventually(
            lambda: self.state(wire_id), within=WITHIN, until=lambda word: word not in unfinished
        )
