"""`http`: one HTTP request as a step, to checked addresses only and within one deadline."""

import json
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from http.client import HTTPException
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from orchestrator import FailStep, RetryStep, StepContext
from orchestrator.notifications import targets
from orchestrator.notifications.connections import (
    AnswerTooLong,
    DeadlineSocket,
    connect,
    exchange,
    seconds_left,
)
from orchestrator.notifications.targets import Resolve, TargetRefused
from orchestrator.sdk.steps import Handler
from orchestrator.spec.durations import parse_duration

_SETTING = "ORCHESTRATOR_HTTP_PRIVATE_TARGETS"
_MAX_BODY = 200 * 1024  # bytes of a decoded response body; more fails the step
_MAX_ANSWER = 4 * 1024 * 1024  # bytes of one response as they are sent, with its head
_MAX_REDIRECTS = 10
_MAX_URL = 64 * 1024  # characters
_TIMEOUT = 30  # seconds
_NETWORK_ERRORS = (OSError, HTTPException, urllib3.exceptions.HTTPError)
_RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_METHOD = re.compile(r"(?!connect$)[a-z]{1,20}", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_FRAMING = ("connection", "content-length", "transfer-encoding")  # headers that the body decides
# Headers that are not sent on to another host, beside those that `requests` leaves out.
_SECRET_HEADER = re.compile(r"auth|cookie|key|password|secret|token", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Network:
    """How hosts are reached; the defaults are those of a worker."""

    allow_private: bool = False
    resolve: Resolve | None = None
    trust: ssl.SSLContext | None = None


def http_handler(
    *,
    allow_private: bool = False,
    resolve: Resolve | None = None,
    trust: ssl.SSLContext | None = None,
) -> Handler:
    """The handler; `allow_private` lets it call private, loopback and link-local addresses."""
    network = _Network(allow_private=allow_private, resolve=resolve, trust=trust)
    return Handler(lambda context: _http(context, network), "http")


def _http(context: StepContext, network: _Network) -> dict[str, Any]:
    """Send `method` (GET) to `url` with `headers`, `query`, `json` or `body`, within `timeout`.

    The result has `status`, `headers` and `json` or `text`. A status of 400 or more fails the
    step, after retries where they may help; `expect` lists the statuses that succeed instead.
    The step's idempotency key is sent in the header `Idempotency-Key`.
    """
    args = {name: value for name, value in context.args.items() if value is not None}
    seconds, expected = _timeout(args), _expected(args)
    end = time.monotonic() + seconds
    with _Session(_CheckedAdapter(network, end)) as session:
        request = _prepare(session, args, context.idempotency_key)
        try:
            response = session.send(request, stream=True)
            body = response.raw.read(_MAX_BODY + 1, decode_content=True)
        except TimeoutError:
            _end_late(seconds)
        except (OSError, ValueError, HTTPException, urllib3.exceptions.HTTPError) as error:
            if time.monotonic() >= end:
                _end_late(seconds)
            _end_early(error)
    _check_status(response, expected)
    return {
        "status": response.status_code,
        "headers": dict(response.headers),
        **_content(response, body),
    }


def _end_late(seconds: float) -> NoReturn:
    text = f"no answer within {seconds:g} s"
    raise RetryStep(text) from requests.Timeout(text)  # which a policy of retries may name


def _end_early(error: Exception) -> NoReturn:
    """Raises what an error of a request means for the step, without the URLs in its text."""
    match error:
        case TargetRefused():
            raise FailStep(f"the request is refused: {error}") from None
        case requests.TooManyRedirects():
            raise FailStep(f"more than {_MAX_REDIRECTS} redirects") from None
        case urllib3.exceptions.DecodeError():
            raise FailStep("the answer is not encoded as it says") from None
    if isinstance(error, AnswerTooLong) or isinstance(error.__cause__, AnswerTooLong):
        raise FailStep(f"the answer has more than {_MAX_ANSWER:,} bytes") from None
    if isinstance(error, requests.RequestException) or not isinstance(error, _NETWORK_ERRORS):
        raise FailStep("the answer redirects to what is not an http or https address") from None
    raise RetryStep(f"no answer: {error}") from requests.ConnectionError(str(error))


class _Session(requests.Session):
    """Follows redirects as `requests` does; nothing in the environment has an effect.

    A proxy would resolve names and connect by itself, to addresses that nobody checked; a .netrc
    has the passwords of whoever runs the worker.
    """

    def __init__(self, adapter: requests.adapters.BaseAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = _MAX_REDIRECTS
        self.headers["Connection"] = "close"
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Leave out what identifies the sender on the way to another host."""
        headers = prepared_request.headers
        urls = str(response.request.url), str(prepared_request.url)
        if self.should_strip_auth(*urls):  # type: ignore[no-untyped-call]
            for name in list(headers):
                if _SECRET_HEADER.search(name) and name.lower() != "idempotency-key":
                    del headers[name]


class _CheckedAdapter(requests.adapters.HTTPAdapter):
    """Sends each request, also that of a redirect, over a connection to a checked address."""

    def __init__(self, network: _Network, end: float) -> None:
        super().__init__()
        self._network, self._end = network, end
        self._connected: socket.socket | None = None

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Send it. Raises TargetRefused, and OSError or HTTPException without an answer."""
        self.close()
        network = self._network
        url, body = _without_credentials(str(request.url)), request.body
        target = targets.check_url(
            url, allow_private=network.allow_private, setting=_SETTING, max_length=_MAX_URL
        )
        addresses = targets.resolve_public(
            target,
            allow_private=network.allow_private,
            resolve=network.resolve,
            within=seconds_left(self._end),
        )
        self._connected = connect(target, addresses, network.trust or _default_trust(), self._end)
        raw = exchange(
            DeadlineSocket(self._connected, self._end, _MAX_ANSWER),
            target,
            str(request.method),
            request.headers,
            body.encode() if isinstance(body, str) else body,
        )
        response = self.build_response(
            request,
            urllib3.HTTPResponse(
                raw,
                urllib3.HTTPHeaderDict(raw.headers.items()),
                raw.status,
                raw.version,
                reason=raw.reason,
                preload_content=False,
                original_response=raw,
                request_method=request.method,
            ),
        )
        if response.is_redirect:
            response.close()  # `requests` would read its whole body
        return response

    def close(self) -> None:
        """Close the connection."""
        if self._connected is not None:
            self._connected.close()


@cache
def _default_trust() -> ssl.SSLContext:
    """The certificates that `requests` trusts."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    bundle = next(filter(None, map(os.environ.get, names)), DEFAULT_CA_BUNDLE_PATH)
    if os.path.isdir(bundle):
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def _prepare(
    session: requests.Session, args: Mapping[str, Any], idempotency_key: str
) -> requests.PreparedRequest:
    """The request of the step's arguments. Raises FailStep."""
    method, url = args.get("method", "GET"), args.get("url")
    form, query = args.get("body", ""), args.get("query", "")
    if not isinstance(url, str):
        raise FailStep("with.url must be the address to call")
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise FailStep("with.method must be a method of HTTP, such as GET or POST")
    if not (isinstance(form, str) or _is_flat(form)):
        raise FailStep("with.body must be a text, or an object of the members of a form")
    if not (isinstance(query, str) or _is_flat(query)):
        raise FailStep("with.query must be an object of names and values, or a text")
    headers = {"Idempotency-Key": idempotency_key, **_headers(args)}
    request = requests.Request(
        method.upper(), url, params=query, headers=headers, json=args.get("json"), data=form
    )
    try:
        prepared = session.prepare_request(request)
        session.get_adapter(str(prepared.url))  # another scheme has none
    except (requests.RequestException, ValueError):  # their texts have the whole URL
        raise FailStep(
            "the request cannot be sent: with.url must be like https://host[:port]/path"
        ) from None
    return prepared


def _headers(args: Mapping[str, Any]) -> dict[str, str | None]:
    """The headers of the step; null leaves out one that is sent by default. Raises FailStep."""
    headers = args.get("headers", {})
    if not isinstance(headers, Mapping):
        raise FailStep("with.headers must be an object of names and texts")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _FRAMING:
            raise FailStep(f"with.headers: {name!r} cannot be set")
        if value is not None and not (isinstance(value, str) and _HEADER_VALUE.fullmatch(value)):
            raise FailStep(f"with.headers.{name} must be a text of one line, in Latin-1")
    return dict(headers)


def _timeout(args: Mapping[str, Any]) -> float:
    """The seconds that the whole call may take. Raises FailStep."""
    try:
        seconds = parse_duration(args.get("timeout", _TIMEOUT)).total_seconds()
    except ValueError as error:
        raise FailStep(f"with.timeout: {error}") from None
    if not seconds:
        raise FailStep("with.timeout must be longer than nothing")
    return seconds


def _expected(args: Mapping[str, Any]) -> list[int]:
    """The statuses that succeed; none: those below 400. Raises FailStep."""
    statuses = args.get("expect", [])
    if not isinstance(statuses, list) or any(type(each) is not int for each in statuses):
        raise FailStep("with.expect must be a list of statuses, such as [200, 404]")
    return statuses


def _is_flat(value: Any) -> bool:
    """Whether it is an object whose values are plain, or lists of plain values."""
    plain = str | int | float | None
    return isinstance(value, Mapping) and all(
        isinstance(each, plain)
        or (isinstance(each, list) and all(isinstance(item, plain) for item in each))
        for each in value.values()
    )


def _without_credentials(url: str, **others: str) -> str:
    """The URL without user name, password and fragment, and with other parts replaced.

    Raises ValueError for one that cannot be parsed.
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="", **others).geturl()


def _check_status(response: requests.Response, expected: list[int]) -> None:
    status = response.status_code
    if status in expected if expected else status < 400:
        return
    place = _without_credentials(response.url, query="")  # which may have some, too
    message = f"{response.request.method} {place} answered {status} {response.reason}"
    if status in _RETRIED_STATUSES:
        after = re.fullmatch(r"[0-9]{1,6}", response.headers.get("Retry-After", ""))
        raise RetryStep(message, timedelta(seconds=int(after[0])) if after else None)
    raise FailStep(message)


def _content(response: requests.Response, body: bytes) -> dict[str, Any]:
    if len(body) > _MAX_BODY:
        raise FailStep(f"the answer has more than {_MAX_BODY:,} bytes")
    text = body.decode("utf-8", "replace")
    with suppress(LookupError, UnicodeError):  # a character set that nobody knows
        text = body.decode(response.encoding or "utf-8", "replace")
    text = text.replace("\x00", "\ufffd")
    if "json" in response.headers.get("Content-Type", ""):
        try:
            return {"json": json.loads(text)}
        except (ValueError, RecursionError) as error:
            raise FailStep(f"the answer is not the JSON it says it is: {error}") from error
    return {"text": text}
