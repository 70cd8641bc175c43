"""flask-smorest's blueprint, whose schemas are made once."""

from collections.abc import Callable
from typing import Any

import flask_smorest
from marshmallow import Schema


class Blueprint(flask_smorest.Blueprint):
    """Reads what is asked with one schema for all requests: each made one of its own, slowly."""

    def arguments(
        self, schema: Schema | type[Schema], **options: Any
    ) -> Callable[..., Callable[..., Any]]:
        """As flask-smorest does it."""
        made = schema() if isinstance(schema, type) else schema
        decorator: Callable[..., Callable[..., Any]] = super().arguments(made, **options)
        return decorator
