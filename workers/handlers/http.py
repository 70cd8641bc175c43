"""`http`: one HTTP request as a step."""

import json
import re
from datetime import timedelta
from typing import Any

import requests

from orchestrator import FailStep, RetryStep, StepContext, step

_LARGEST = 200 * 1024  # bytes of a body that are kept
_SECONDS = 30.0
_LATER = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be different next time


@step(name="http")
def http(context: StepContext) -> dict[str, Any]:
    """Send `method` (GET) to `url` with `headers`, `query`, `json` or `body`, within `timeout`.

    The result has `status`, `headers` and `json` or `text`. A status of 400 or more fails the
    step, after retries where another try may help; `expect` lists statuses that are right.
    The step's idempotency key goes along as the header `Idempotency-Key`.
    """
    args = dict(context.args)
    if not isinstance(args.get("url"), str):
        raise FailStep("with.url must be the address to call")
    try:
        answer = requests.request(
            str(args.get("method", "GET")).upper(),
            args["url"],
            params=args.get("query"),
            headers={"Idempotency-Key": context.idempotency_key, **args.get("headers", {})},
            json=args.get("json"),
            data=args.get("body"),
            timeout=float(args.get("timeout", _SECONDS)),
            stream=True,
        )
        with answer:
            body = answer.raw.read(_LARGEST + 1, decode_content=True)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise RetryStep(f"no answer: {error}") from error
    except (requests.RequestException, ValueError) as error:
        raise FailStep(f"the request cannot be sent: {error}") from error
    _judge(answer, args.get("expect"))
    return {"status": answer.status_code, "headers": dict(answer.headers), **_content(answer, body)}


def _judge(answer: requests.Response, expected: list[int] | None) -> None:
    status = answer.status_code
    if status in expected if expected else status < 400:
        return
    told = f"{answer.request.method} {answer.url} answered {status} {answer.reason}"
    if status in _LATER:
        after = re.fullmatch(r"[0-9]{1,6}", answer.headers.get("Retry-After", ""))
        raise RetryStep(told, timedelta(seconds=int(after[0])) if after else None)
    raise FailStep(told)


def _content(answer: requests.Response, body: bytes) -> dict[str, Any]:
    if len(body) > _LARGEST:
        raise FailStep(f"the answer has more than {_LARGEST:,} bytes")
    text = body.decode(answer.encoding or "utf-8", "replace").replace("\x00", "\ufffd")
    if "json" in answer.headers.get("Content-Type", ""):
        try:
            return {"json": json.loads(text)}
        except ValueError as error:
            raise FailStep(f"the answer is not the JSON it says it is: {error}") from error
    return {"text": text}
