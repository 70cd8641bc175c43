"""Retry a request after a transient database error, if repeating it is safe.

It is safe for reads, before the first COMMIT was sent, and with an idempotency key. Any other
request may have been done and is answered as in doubt.
"""

import functools
import logging
import random
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from flask import Flask, g, has_request_context, request
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, TimeoutError

from api.toolkit.auth import READS
from orchestrator.db import round_trips
from orchestrator.db.database import Database
from orchestrator.db.engine import is_transient
from orchestrator.errors import InDoubt

_MAX_TRIES = 5
_MAX_SECONDS = 5.0  # no retry later than this, as after a lock timeout
_PAUSE = 0.1  # seconds before the second try, at most; it grows with each try
_IN_DOUBT = "the database failed meanwhile: this may have been done; look before you ask again"

RetryArguments = ParamSpec("RetryArguments")
Value = TypeVar("Value")

_log = logging.getLogger(__name__)


def install_retry(app: Flask, database: Database) -> None:
    """Wrap all views of an application in retries; `database` runs their transactions."""
    event.listen(database.engine, "before_cursor_execute", _note_commit)
    views: dict[str, Any] = app.view_functions
    for endpoint, view in views.items():
        views[endpoint] = _retried(view, is_request=True)


def run_read(work: Callable[[], Value]) -> Value:
    """Do work that only reads or is idempotent, and retry it after transient errors."""
    return _retried(work, is_request=False)()


def allow_retry() -> None:
    """Declare the current request idempotent: it may be retried after a COMMIT was sent."""
    g.repeatable = True


def _note_commit(_: Connection, __: Any, statement: str, *___: Any) -> None:
    """Set `g.committed` before a COMMIT is sent: after it the outcome may be unknown."""
    if round_trips.is_commit(statement) and has_request_context():
        g.committed = True


def _retried(
    work: Callable[RetryArguments, Value], *, is_request: bool
) -> Callable[RetryArguments, Value]:
    """The work with retries; with `is_request` it is a whole request, which may be in doubt."""

    @functools.wraps(work)
    def retried(*args: RetryArguments.args, **kwargs: RetryArguments.kwargs) -> Value:
        start, tries = time.monotonic(), 0
        while True:
            try:
                return work(*args, **kwargs)
            except (DBAPIError, TimeoutError) as error:
                tries += 1
                if not is_transient(error):
                    raise
                in_doubt = is_request and request.method not in READS and g.get("committed")
                give_up = tries == _MAX_TRIES or time.monotonic() - start > _MAX_SECONDS
                if in_doubt and (give_up or not g.get("repeatable")):
                    raise InDoubt(_IN_DOUBT) from error
                if give_up:
                    raise
                _log.warning("request retried", extra={"error": str(error)})
                time.sleep(_PAUSE * tries * random.uniform(0.2, 1))

    return retried
