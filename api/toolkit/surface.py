"""`Contract`: the paths, authentication, parsing and errors of one published API."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from typing import Any

from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from flask import Flask, Response, json
from flask_smorest import Api
from marshmallow import EXCLUDE, Schema, fields
from webargs.core import missing

from api.toolkit import blueprints, request_guards
from api.toolkit.auth import Accepts
from api.toolkit.fields import Duration
from api.toolkit.json_bodies import JsonParser
from api.toolkit.problems import Problem
from api.toolkit.wire import Field, WireSchema
from config.http_statuses import TITLES, code_of
from orchestrator.access.authentication import Principal


def is_below(path: str, *roots: str) -> bool:
    """Whether a path is one of the roots or below one."""
    return any(path == root or path.startswith(f"{root}/") for root in roots)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One published API: routes and formats over the services that all APIs share."""

    name: str  # of its setting, its document and its blueprint
    title: str
    version: str
    owns: Callable[[str], bool]  # whether a path is the API's, also for its 404 and 401
    accepts: Accepts
    # Whether a request to an address below `/api` that no API has is a client's of this one.
    speaks: Callable[[], bool] = field(default=lambda: False)
    render: Callable[[Problem], Response]
    # Of what `render` writes, for the OpenAPI document; a JSON schema if it is no JSON.
    problem: type[Schema] | Mapping[str, Any]
    problem_type: str = "application/json"  # its content type
    blueprint: blueprints.Blueprint
    open: frozenset[str] = frozenset()  # endpoints that need no key
    # The API's own scopes, and those that each includes in a token.
    scopes: Mapping[str, Collection[str]] = field(default_factory=dict)
    # The API's own scopes, and those of the native API that each includes here.
    equivalents: Mapping[str, Collection[str]] = field(default_factory=dict)
    token_scopes: Sequence[str] | None = None  # of a token that was requested without any
    rewrite: Callable[[str], str] | None = None  # normalises a path before routing
    finish: Callable[[Response], Response] = field(default=lambda answer: answer)

    def admit(self, caller: Principal) -> Principal:
        """The caller with the rights that its scopes give in this API."""
        narrow = caller.by_token and caller.scopes is None
        scopes = self.token_scopes if narrow else caller.scopes
        return replace(caller, scopes=scopes, equivalents=self.equivalents)


class _Converter(OpenAPIConverter):
    """Documents what apispec passes over: types of fields, and null as one of an enumeration."""

    def field2type_and_format(self, field: Field, **options: Any) -> dict[str, Any]:
        if isinstance(field, Duration):
            is_answer = isinstance(field.parent, WireSchema)
            return {"type": "string" if is_answer else ["string", "number"]}
        if isinstance(field, fields.Enum):
            return {"type": "string"}
        document: dict[str, Any] = super().field2type_and_format(field, **options)
        return document

    def field2nullable(self, field: Field, ret: dict[str, Any]) -> dict[str, Any]:
        document: dict[str, Any] = super().field2nullable(field, ret)
        if field.allow_none and None not in (words := ret.get("enum", [None])):
            document["enum"] = [*words, None]
        return document


class _Plugin(MarshmallowPlugin):
    Converter = _Converter


class DocumentingApi(Api):
    """Documents every error with a schema and a content type."""

    def __init__(
        self,
        app: Flask,
        problem: type[Schema] | Mapping[str, Any],
        content_type: str,
        spec_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.ERROR_SCHEMA, self._error_type = problem, content_type
        spec = {**(spec_kwargs or {}), "marshmallow_plugin": _Plugin()}
        super().__init__(app, spec_kwargs=spec, **options)

    def _openapi_json(self) -> Response:
        """The document, which is written once: it does not change."""
        return Response(self._document, mimetype="application/json")

    @cached_property
    def _document(self) -> str:
        text: str = json.dumps(self.spec.to_dict(), indent=2, sort_keys=False)
        for status in (each for each in HTTPStatus if each in TITLES):  # Python's own words
            text = text.replace(status.name, code_of(status).upper())
            text = text.replace(status.phrase, TITLES[status])
        return text

    def _register_responses(self) -> None:
        self.DEFAULT_RESPONSE_CONTENT_TYPE = self._error_type
        super()._register_responses()
        del self.DEFAULT_RESPONSE_CONTENT_TYPE


class LenientParser(JsonParser):
    """Accepts JSON bodies of several content types, and ignores unknown members."""

    DEFAULT_UNKNOWN_BY_LOCATION = dict.fromkeys(
        ("json", "query", "headers", "form", "files"), EXCLUDE
    )

    def load_json(self, req: Any, schema: Schema) -> Any:
        body = request_guards.read_json()
        return missing if body is None else body


class LenientBlueprint(blueprints.Blueprint):
    """A blueprint whose requests are read so."""

    ARGUMENTS_PARSER = LenientParser()
