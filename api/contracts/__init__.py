"""The published run APIs, over the same services as the native one."""

from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask, request
from werkzeug.exceptions import NotFound

from api.contracts import mage, mindzie, opendatadsl, solvexia, virtuousai
from api.toolkit.auth import security_document
from api.toolkit.surface import Contract, DocumentingApi, is_below

CONTRACTS: Sequence[Contract] = [
    package.CONTRACT for package in (opendatadsl, solvexia, mage, mindzie, virtuousai)
]


def select(names: Sequence[str]) -> list[Contract]:
    """The contracts of the setting, `all` of them or by name. Raises ValueError."""
    known = {contract.name: contract for contract in CONTRACTS}
    if unknown := sorted({*names} - {*known, "all"}):
        message = f"unknown contract {unknown[0]!r}; there are all, {', '.join(known)}"
        raise ValueError(f"ORCHESTRATOR_CONTRACTS: {message}")
    return [contract for name, contract in known.items() if name in names or "all" in names]


def owner(contracts: Sequence[Contract]) -> Contract | None:
    """The contract of the request's path; of an unknown one the contract whose client asks."""
    path = request.path
    for contract in contracts:
        if contract.owns(path):
            return contract
    if not isinstance(request.routing_exception, NotFound) or not is_below(path, "/api"):
        return None
    is_native = is_below(path, "/api/v1")
    return next((each for each in contracts if not is_native and each.speaks()), None)


def serve(app: Flask, contract: Contract) -> None:
    """Register the routes of a contract, with an OpenAPI document of its own."""
    prefix = contract.name.upper()
    app.config[f"{prefix}_OPENAPI_URL_PREFIX"] = "/openapi"
    app.config[f"{prefix}_OPENAPI_JSON_PATH"] = f"{contract.name}.json"
    info = {"title": contract.title, "version": contract.version, "openapi_version": "3.1.0"}
    options = security_document(contract.accepts) | info
    errors = contract.problem, contract.problem_type
    api = DocumentingApi(app, *errors, spec_kwargs=options, config_prefix=prefix)
    api.register_blueprint(contract.blueprint)
    if contract.rewrite is not None:
        app.wsgi_app = _rewriting(app.wsgi_app, contract.rewrite)  # type: ignore[method-assign]


def _rewriting(inner: Any, rewrite: Callable[[str], str]) -> Callable[..., Any]:
    """WSGI middleware that rewrites paths before routing."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ["PATH_INFO"] = rewrite(environ.get("PATH_INFO", ""))
        return inner(environ, start_response)

    return application
