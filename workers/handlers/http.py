"""`http`: one HTTP request as a step."""

import json
import re
from datetime import timedelta
from typing import Any

import requests

from orchestrator import FailStep, RetryStep, StepContext, step

_MAX_BODY = 200 * 1024  # bytes of a decoded response body; more fails the step
_TIMEOUT = 30.0  # seconds
_RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)


@step(name="http")
def http(context: StepContext) -> dict[str, Any]:
    """Send `method` (GET) to `url` with `headers`, `query`, `json` or `body`, within `timeout`.

    The result has `status`, `headers` and `json` or `text`. A status of 400 or more fails the
    step, after retries where they may help; `expect` lists the statuses that succeed instead.
    The step's idempotency key is sent in the header `Idempotency-Key`.
    """
    args = dict(context.args)
    if not isinstance(args.get("url"), str):
        raise FailStep("with.url must be the address to call")
    try:
        response = requests.request(
            str(args.get("method", "GET")).upper(),
            args["url"],
            params=args.get("query"),
            headers={"Idempotency-Key": context.idempotency_key, **args.get("headers", {})},
            json=args.get("json"),
            data=args.get("body"),
            timeout=float(args.get("timeout", _TIMEOUT)),
            stream=True,
        )
        with response:
            body = response.raw.read(_MAX_BODY + 1, decode_content=True)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise RetryStep(f"no answer: {error}") from error
    except (requests.RequestException, ValueError) as error:
        raise FailStep(f"the request cannot be sent: {error}") from error
    _check_status(response, args.get("expect"))
    return {
        "status": response.status_code,
        "headers": dict(response.headers),
        **_content(response, body),
    }


def _check_status(response: requests.Response, expected: list[int] | None) -> None:
    status = response.status_code
    if status in expected if expected else status < 400:
        return
    message = f"{response.request.method} {response.url} answered {status} {response.reason}"
    if status in _RETRIED_STATUSES:
        after = re.fullmatch(r"[0-9]{1,6}", response.headers.get("Retry-After", ""))
        raise RetryStep(message, timedelta(seconds=int(after[0])) if after else None)
    raise FailStep(message)


def _content(response: requests.Response, body: bytes) -> dict[str, Any]:
    if len(body) > _MAX_BODY:
        raise FailStep(f"the answer has more than {_MAX_BODY:,} bytes")
    text = body.decode(response.encoding or "utf-8", "replace").replace("\x00", "\ufffd")
    if "json" in response.headers.get("Content-Type", ""):
        try:
            return {"json": json.loads(text)}
        except ValueError as error:
            raise FailStep(f"the answer is not the JSON it says it is: {error}") from error
    return {"text": text}
