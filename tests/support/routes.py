"""The routes of the API, from its URL map."""

from flask import Flask
from werkzeug.routing import Rule

from api.contracts import CONTRACTS


def native(app: Flask) -> list[Rule]:
    """The rules of the native API, without those of the contracts."""
    contracts = {contract.blueprint.name for contract in CONTRACTS}
    return [
        rule
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/") and rule.endpoint.partition(".")[0] not in contracts
    ]
