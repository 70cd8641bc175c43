"""The addresses of access tokens: keys of the tenant, made with the rights of the caller."""

from datetime import timedelta
from typing import Any

from api.contracts.virtuousai.requests import TokenBody, TokensQuery
from api.contracts.virtuousai.responses import NewToken, Token, TokenList
from api.contracts.virtuousai.surface import TOKENS, answers, blueprint, path_id
from api.contracts.virtuousai.vocabulary import TOKEN
from api.toolkit.context import caller, tenant, transaction
from orchestrator.access import keys
from orchestrator.db import lookups
from orchestrator.models import Key, KeyKind

_ONE = f"{TOKENS}/<token_id>"


@blueprint.route(TOKENS, resources="keys")
@blueprint.arguments(TokensQuery, location="query")
@answers(TokenList, 403)
def list_tokens(query: dict[str, Any]) -> dict[str, Any]:
    """List access tokens

    The oldest first. `cursor` is the `nextCursor` of the page before.
    """
    limit = query.pop("limit")
    if query.pop("token_type", TOKEN) != TOKEN:
        return {"items": [], "next_cursor": None}
    with transaction() as session:
        rows = keys.page_of_keys(session, tenant(), kind=KeyKind.KEY, limit=limit + 1, **query)
    more = rows[limit - 1].id if len(rows) > limit else None
    return {"items": rows[:limit], "next_cursor": more}


@blueprint.route(TOKENS, methods=["POST"], resources="keys")
@blueprint.arguments(TokenBody)
@answers(NewToken, 403)
def make_token(body: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make an access token

    It has the rights of the key of the request. `plaintext` cannot be read again.
    """
    days, who = body["expires_in_days"], caller()
    with transaction() as session:
        end = lookups.database_now(session) + timedelta(days=days) if days else None
        new = keys.NewKey(
            name=body["name"], role=who.role, scopes=who.scopes, user=who.user, expires_at=end
        )
        key, secret = keys.create_key(session, who, new)
    return {"plaintext": secret, "token": key}, 200, {"Cache-Control": "no-store"}


@blueprint.route(_ONE, resources="keys")
@answers(Token, 403, 404)
def show_token(token_id: str) -> Key:
    """Get an access token"""
    with transaction() as session:
        return keys.get_key(session, tenant(), path_id(token_id, "token_id"))


@blueprint.route(_ONE, methods=["DELETE"], resources="keys")
@answers(Token, 403, 404, 409)
def revoke_token(token_id: str) -> Key:
    """Revoke an access token

    At once and for good. The one of the request cannot revoke itself.
    """
    with transaction() as session:
        return keys.revoke_key(session, caller(), path_id(token_id, "token_id"))
