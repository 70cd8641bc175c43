"""`/api/v1/keys`: make keys and OAuth clients, rotate and revoke them."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import url_for
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import caller, tenant, transaction
from api.toolkit.fields import Duration, ResponseSchema, Timestamp
from api.toolkit.requests import PageQuery, StrictSchema, name_field, one_line
from orchestrator.access import authentication, keys
from orchestrator.models import Key, KeyKind, Role

blueprint = Blueprint("keys", __name__, url_prefix="/api/v1/keys", description="Keys")
_GRACE = timedelta(days=1)


def _scope(text: str) -> None:
    if not authentication.is_scope(text):
        raise ValidationError("letters, digits and _ . : / -, at most 100")


class KeyAsked(StrictSchema):
    """Which key to make; without `scopes` it may do all that its role may."""

    name = name_field()
    role = fields.Enum(Role, by_value=True, required=True)
    kind = fields.Enum(KeyKind, by_value=True, load_default=KeyKind.KEY)
    user = fields.String(
        validate=[
            *one_line(200),
            validate.ContainsNoneOf(":", error="no colon: Basic puts one after the user"),
        ],
        allow_none=True,
    )
    scopes = fields.List(
        fields.String(validate=_scope), validate=validate.Length(1, 50), allow_none=True
    )
    starts_at = Timestamp(allow_none=True)
    expires_at = Timestamp(allow_none=True)


class RotateAsked(StrictSchema):
    """How long the old key stays good, and when the new one ends: when the old one would have."""

    grace = Duration(load_default=_GRACE)
    expires_at = Timestamp(allow_none=True)


class RevokeAsked(StrictSchema):
    """Nothing: a revoked key is over at once."""


class KeyShown(ResponseSchema):
    """One key, without its secret."""

    id = fields.UUID()
    name = fields.String()
    kind = fields.String()
    prefix = fields.String(metadata={"description": "how its secret begins"})
    client_id = fields.String(allow_none=True)
    role = fields.String()
    user = fields.String(allow_none=True)
    scopes = fields.List(fields.String(), allow_none=True)
    created_at = Timestamp()
    starts_at = Timestamp(allow_none=True)
    expires_at = Timestamp(allow_none=True)
    last_used_at = Timestamp(allow_none=True, metadata={"description": "to the minute"})
    revoked_at = Timestamp(allow_none=True)
    replaced_by = fields.UUID(allow_none=True)


class KeyMade(KeyShown):
    """One key with its secret, which is never shown again."""

    key = fields.String(allow_none=True)
    client_secret = fields.String(allow_none=True)


class KeyPage(Schema):
    """One page of keys; `next_cursor` is null on the last one."""

    items = fields.List(fields.Nested(KeyShown))
    next_cursor = fields.String(allow_none=True)


@blueprint.route("", methods=["POST"])
@blueprint.arguments(KeyAsked)
@blueprint.response(201, KeyMade)
def create(body: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make a key or an OAuth client

    The answer has its secret, as `key` or as `client_id` and `client_secret`; it is not kept and
    cannot be asked for again.
    """
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        made = keys.create_key(session, caller(), keys.NewKey(**body))
    return _made(*made)


@blueprint.route("")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, KeyPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List keys, the oldest first"""
    caller().must_be(Role.ADMIN)
    (after,) = paging.decode(query.get("cursor"), UUID) or (None,)
    limit = query["limit"]
    with transaction() as session:
        found = keys.page_of_keys(session, tenant(), after=after, limit=limit + 1)
    return paging.page(found, limit, lambda last: (last.id,))


@blueprint.route("/<uuid:key_id>")
@blueprint.response(200, KeyShown)
def show(key_id: UUID) -> Key:
    """Get a key"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        return keys.get_key(session, tenant(), key_id)


@blueprint.route("/<uuid:key_id>/rotate", methods=["POST"])
@blueprint.arguments(RotateAsked, required=False)
@blueprint.response(201, KeyMade)
def rotate(body: dict[str, Any], key_id: UUID) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make a new key in place of this one

    The old one stays good for `grace`, so that both are live while its users change over.
    """
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        made = keys.rotate_key(session, caller(), key_id, **body)
    return _made(*made)


@blueprint.route("/<uuid:key_id>/revoke", methods=["POST"])
@blueprint.arguments(RevokeAsked, required=False)
@blueprint.response(200, KeyShown)
def revoke(body: dict[str, Any], key_id: UUID) -> Key:
    """End a key at once

    Tokens of an OAuth client end with it. The key you ask with can only be revoked with another.
    """
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        return keys.revoke_key(session, caller(), key_id, **body)


def _made(key: Key, secret: str) -> tuple[dict[str, Any], int, dict[str, str]]:
    is_key = key.kind == KeyKind.KEY
    shown = {
        **vars(key),
        "key": secret if is_key else None,
        "client_secret": None if is_key else secret,
    }
    address = url_for("keys.show", key_id=key.id)
    return shown, 201, {"Location": address, "Cache-Control": "no-store"}
