"""`/api/v1/audit`: who changed what."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from flask import Response
from marshmallow import RAISE, fields, validate

from api.toolkit.blueprints import Blueprint
from api.toolkit.context import services, tenant, transaction
from api.toolkit.fields import PageQuery, StrictSchema, Timestamp
from api.toolkit.wire import WireSchema, columns
from orchestrator import audit
from orchestrator.audit import AuditFilter
from orchestrator.db.database import Database
from orchestrator.models import ActorKind, AuditEntry

blueprint = Blueprint("audit", __name__, url_prefix="/audit", description="The audit log")

_BATCH = 500  # entries of one transaction of an export
_TEXT = validate.Length(1, 200)


class AuditFilterQuery(StrictSchema):
    """Filters of entries: any of several verbs or actors."""

    verb = fields.List(fields.String(validate=_TEXT), metadata={"description": "like run.cancel"})
    actor = fields.List(fields.Enum(ActorKind, by_value=True))
    key_id = fields.UUID()
    user = fields.String(validate=_TEXT)
    object_type = fields.String(validate=_TEXT, metadata={"description": "like run"})
    object_id = fields.String(validate=_TEXT)
    request_id = fields.String(validate=_TEXT)
    since = Timestamp(data_key="from")
    until = Timestamp(data_key="to", metadata={"description": "before it"})


class AuditListQuery(AuditFilterQuery, PageQuery):
    """Filters and page of a list of entries."""


class AuditExportQuery(AuditFilterQuery):
    """Filters of an export, and where it goes on."""

    after = fields.Integer(
        load_default=0,
        validate=validate.Range(0, 2**63 - 1),
        metadata={"description": "the number of the last entry of the export before"},
    )


class AuditEntrySchema(WireSchema):
    """One change."""

    class Meta:
        include = columns(
            AuditEntry,
            "id number at actor name key_id user contract request_id verb object_type object_id "
            "before after hash",
            number="in the order of the chain, without gaps; null for a moment",
            name="of the key, the schedule, the sweep, or the user who gave a command",
            user="that came with the key",
            contract="the API of the request",
            before="only what changed; of `params` and `annotations` only names",
            hash="SHA-256 of the hash before and this entry",
        )


@blueprint.route("")
@blueprint.paginated(AuditEntrySchema, "id", UUID, bound="before", query=AuditListQuery)
def page(query: dict[str, Any]) -> list[AuditEntry]:
    """List changes, newest first

    By callers of every API, by sweeps and by commands.
    """
    before, limit = query.pop("before", None), query.pop("limit")
    with transaction() as session:
        return audit.page(session, tenant(), AuditFilter(**query), before=before, limit=limit)


@blueprint.route("/export")
@blueprint.arguments(AuditExportQuery, location="query", unknown=RAISE)
@blueprint.response(200, {"type": "string"}, content_type="application/x-ndjson")
def export(query: dict[str, Any]) -> Response:
    """Export changes, oldest first, one line of JSON each

    Without filters the lines are the chain itself: a line's `hash` is the SHA-256 of the hash of
    the line before it and of the line without `hash`, with sorted members and no spaces. What was
    changed in the last seconds may not have a number yet, and follows in the next export.
    """
    after = query.pop("after")
    lines = _lines(services().database, tenant(), AuditFilter(**query), after)
    return Response(lines, content_type="application/x-ndjson")


def _lines(database: Database, tenant_id: UUID, which: AuditFilter, after: int) -> Iterator[str]:
    """The entries, one transaction per batch: a slow client keeps no transaction open."""
    while True:
        with database.transaction(tenant_id) as session:
            rows = audit.linked_entries(session, tenant_id, which, after=after, limit=_BATCH)
        for entry in rows:
            line = {**audit.document(entry), "hash": entry.hash}
            # In ASCII: some readers take U+2028 for the end of a line.
            yield json.dumps(line, separators=(",", ":")) + "\n"
        if len(rows) < _BATCH:
            return
        after = rows[-1].number or after
