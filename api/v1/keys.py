"""`/api/v1/keys`: create, rotate and revoke API keys and OAuth clients."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from marshmallow import ValidationError, fields, validate

from api.toolkit.blueprints import Blueprint, Created, created
from api.toolkit.context import caller, tenant, transaction
from api.toolkit.fields import (
    BoundedList,
    Duration,
    Empty,
    StrictSchema,
    Timestamp,
    name_field,
    one_line,
)
from api.toolkit.wire import WireSchema, columns, inserted
from orchestrator.access import authentication, keys
from orchestrator.models import Key, KeyKind, Role

blueprint = Blueprint("keys", __name__, url_prefix="/keys", description="Keys")


_NO_COLON = validate.ContainsNoneOf(":", error="no colon: Basic puts one after the user")


def _check_scope(text: str) -> None:
    if not authentication.is_scope(text):
        raise ValidationError("letters, digits and _ . : / -, at most 100")


class KeyRequest(StrictSchema):
    """A key to create; without `scopes` it has all permissions of its role."""

    name = name_field()
    role = fields.Enum(Role, by_value=True, required=True)
    kind = fields.Enum(KeyKind, by_value=True, load_default=KeyKind.KEY)
    user = fields.String(validate=[*one_line(200), _NO_COLON], allow_none=True)
    scopes = BoundedList(
        fields.String(validate=_check_scope), validate=validate.Length(1, 50), allow_none=True
    )
    starts_at = Timestamp(allow_none=True)
    expires_at = Timestamp(allow_none=True)


class RotateKeyRequest(StrictSchema):
    """How long the old key stays valid, and when the new one expires: by default as the old one."""

    grace = Duration(load_default=timedelta(days=1))
    expires_at = Timestamp(allow_none=True)


class KeySchema(WireSchema):
    """One key, without its secret."""

    class Meta:
        include = columns(
            Key,
            "id name kind prefix client_id role user scopes created_at starts_at expires_at "
            "last_used_at revoked_at replaced_by",
            prefix="how its secret begins",
            last_used_at="to the minute",
        )


class KeyWithSecretSchema(KeySchema):
    """One key with its secret, which cannot be read again."""

    key = fields.String(allow_none=True)
    client_secret = fields.String(allow_none=True)


@blueprint.route("", methods=["POST"])
@blueprint.arguments(KeyRequest)
@blueprint.response(201, KeyWithSecretSchema)
def create(body: dict[str, Any]) -> Created:
    """Make a key or an OAuth client

    The answer has its secret, as `key` or as `client_id` and `client_secret`; only a hash of it is
    stored, so it cannot be read again.
    """
    with transaction() as session:
        key, secret = keys.create_key(session, caller(), keys.NewKey(**body))
    return _with_secret(key, secret)


@blueprint.route("")
@blueprint.paginated(KeySchema, "id", UUID)
def page(query: dict[str, Any]) -> Sequence[Key]:
    """List keys, the oldest first"""
    with transaction() as session:
        return keys.page_of_keys(session, tenant(), **query)


@blueprint.route("/<uuid:key_id>")
@blueprint.response(200, KeySchema)
def show(key_id: UUID) -> Key:
    """Get a key"""
    with transaction() as session:
        return keys.get_key(session, tenant(), key_id)


@blueprint.route("/<uuid:key_id>/rotate", methods=["POST"])
@blueprint.arguments(RotateKeyRequest, required=False)
@blueprint.response(201, KeyWithSecretSchema)
def rotate(body: dict[str, Any], key_id: UUID) -> Created:
    """Make a new key in place of this one

    The old one stays good for `grace`, so that both are live while its users change over.
    """
    with transaction() as session:
        key, secret = keys.rotate_key(session, caller(), key_id, **body)
    return _with_secret(key, secret)


@blueprint.route("/<uuid:key_id>/revoke", methods=["POST"])
@blueprint.arguments(Empty, required=False)
@blueprint.response(200, KeySchema)
def revoke(body: dict[str, Any], key_id: UUID) -> Key:
    """End a key at once

    Tokens of an OAuth client end with it. A key cannot revoke itself.
    """
    with transaction() as session:
        return keys.revoke_key(session, caller(), key_id)


def _with_secret(key: Key, secret: str) -> Created:
    name = "key" if key.kind == KeyKind.KEY else "client_secret"
    view = inserted(key, **{"key": None, "client_secret": None, name: secret})
    view, status, headers = created(view, "keys.show", key_id=key.id)
    return view, status, {**headers, "Cache-Control": "no-store"}
