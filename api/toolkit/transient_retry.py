"""A request that Postgres cut short begins again where that is safe: the one place for it.

Safe is whatever only reads, what has sent no commit yet, and what an idempotency key protects.
Anything else may have been done, and the answer says so.
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

_TRIES = 5
_WITHIN = 5.0  # seconds: who has waited so long for a lock is told to come again instead
_PAUSE = 0.1  # seconds before the second try, at most; each time more
_IN_DOUBT = "the database failed meanwhile: this may have been done; look before you ask again"

RetryArguments = ParamSpec("RetryArguments")
Value = TypeVar("Value")

_log = logging.getLogger(__name__)


def install_retry(app: Flask, database: Database) -> None:
    """Repeat the views of an application, over the transactions of its callers."""
    event.listen(database.engine, "before_cursor_execute", _note)
    views: dict[str, Any] = app.view_functions
    for endpoint, view in views.items():
        views[endpoint] = _repeated(view, is_whole=True)


def run_read(work: Callable[[], Value]) -> Value:
    """Do work that only reads, or is harmless to do twice; again when Postgres cut it short."""
    return _repeated(work, is_whole=False)()


def allow_retry() -> None:
    """What this request asks for is done once, however often it begins again."""
    g.repeatable = True


def _note(_: Connection, __: Any, statement: str, *___: Any) -> None:
    """When a commit goes out: from here on nobody knows that nothing was done."""
    if round_trips.is_commit(statement) and has_request_context():
        g.committed = True


def _may_have_been_done() -> bool:
    return request.method not in READS and bool(g.get("committed"))


def _repeated(
    work: Callable[RetryArguments, Value], *, is_whole: bool
) -> Callable[RetryArguments, Value]:
    """The work, done again and again for a while; `is_whole` is all that a request asks for."""

    @functools.wraps(work)
    def repeated(*args: RetryArguments.args, **kwargs: RetryArguments.kwargs) -> Value:
        begun, tried = time.monotonic(), 0
        while True:
            try:
                return work(*args, **kwargs)
            except (DBAPIError, TimeoutError) as error:
                tried += 1
                if not is_transient(error):
                    raise
                in_doubt = is_whole and _may_have_been_done()
                over = tried == _TRIES or time.monotonic() - begun > _WITHIN
                if in_doubt and (over or not g.get("repeatable")):
                    raise InDoubt(_IN_DOUBT) from error
                if over:
                    raise
                _log.warning("a request begins again", extra={"error": str(error)})
                time.sleep(_PAUSE * tried * random.uniform(0.2, 1))

    return repeated
