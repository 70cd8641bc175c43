"""Statements that are each a transaction of their own, without SQLAlchemy's session and results.

For the functions that are called for each step: those layers took as long as the functions.
"""

from typing import Any

from psycopg2 import Error
from psycopg2.extras import NamedTupleCursor
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orchestrator.db import round_trips

# A cached plan from before a migration; a read-only server after a failover.
CONNECTION_CODES = ("0A000", "25006")


class Autocommit:
    """Executes statements as a session does: `statements.rows` and the unit of work take both."""

    def __init__(self, engine: Engine) -> None:
        self.info: dict[str, Any] = {}
        self._engine = engine
        self._settings = round_trips.settings_of(engine)

    def rows(self, statement: str, params: tuple[Any, ...]) -> list[Any]:
        """Execute a statement that returns rows. Raises what SQLAlchemy would raise."""
        connection = self._connect()
        try:
            with connection.cursor(cursor_factory=NamedTupleCursor) as cursor:
                cursor.execute(f"{self._settings}{statement}", params)
                rows: list[Any] = cursor.fetchall()
        except Error as error:
            wrapped = self._wrap(error, connection.driver_connection)
            if wrapped.connection_invalidated:
                connection.invalidate(error)
            else:
                connection.close()
            raise wrapped from error
        except BaseException:  # perhaps in the middle of a response
            connection.invalidate()
            raise
        connection.close()  # to the pool
        return rows

    def _connect(self) -> Any:
        try:
            return self._engine.raw_connection()
        except Error as error:
            raise self._wrap(error) from error

    def _wrap(self, error: Error, connection: Any = None) -> DBAPIError:
        dialect: Any = self._engine.dialect
        is_lost = error.pgcode in CONNECTION_CODES or dialect.is_disconnect(error, connection, None)
        wrapped = DBAPIError.instance(
            None, None, error, Error, connection_invalidated=is_lost, dialect=dialect
        )
        assert isinstance(wrapped, DBAPIError)
        return wrapped


AnySession = Session | Autocommit
