"""A client of the REST API that retries transient failures.

Every POST has an idempotency key, the same for each attempt, so that a request whose response was
lost is not executed twice. When the client gives up on one that may have been executed, the error's
code is `in_doubt`.
"""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import requests
from urllib3.exceptions import NewConnectionError

from orchestrator.states import FINAL_RUNS

PATIENCE = 30.0  # seconds in which a request is retried

_FIRST_PATIENCE = 1.0  # seconds, until the first response: the server may not exist
_POLL_PAUSE = 0.1  # seconds
_MIN_BACKOFF, _MAX_BACKOFF = 0.1, 2.0  # seconds
_TIMEOUT = 30.0
_TRANSIENT_STATUSES = (429, 502, 503, 504)
_IN_DOUBT = "in_doubt"
_TRANSIENT_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


class ApiError(Exception):
    """An error response: the problem's detail, and each mistake with its pointer."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        mistakes = [
            f"\n  {each['pointer']}: {each['detail']}"
            for each in problem.get("errors", ())
            if "pointer" in each  # else it is not from this API
        ]
        super().__init__(f"{problem.get('detail', status)}{''.join(mistakes)}")
        self.status = status
        self.problem = problem
        self.heard_before = False  # an earlier attempt of the same request may have arrived


class _Transient(Exception):
    """An attempt failed with a transient error; `sent` if it may have arrived."""

    def __init__(self, error: ApiError, after: float = 0.0, *, sent: bool = True) -> None:
        super().__init__(str(error))
        self.error, self.after, self.sent = error, after, sent


class Client:
    """Calls one API with one key. Raises ApiError, after `patience` seconds if it is transient."""

    def __init__(self, url: str, key: str, *, patience: float = PATIENCE) -> None:
        self.url = url.rstrip("/")
        self._patience, self._answered = patience, False
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"

    def apply(self, spec: dict[str, Any], **query: Any) -> dict[str, Any]:
        """Register a workflow or its next version; `project` is a query parameter."""
        return self._call("POST", "/workflows", spec, query)

    def submit(self, workflow: str, params: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Submit a run."""
        return self._call("POST", "/runs", {"workflow": workflow, "params": params, **fields})

    def submit_many(self, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Submit up to 10,000 runs, all or none; returns the id and number of each."""
        return list(self._call("POST", "/runs/batch", {"runs": runs})["items"])

    def run(self, run_id: str) -> dict[str, Any]:
        """A run with its steps."""
        return self._call("GET", f"/runs/{run_id}")

    def runs(self, **query: Any) -> dict[str, Any]:
        """One page of runs."""
        return self._call("GET", "/runs", query=query)

    def explain(self, run_id: str) -> dict[str, Any]:
        """Why a run, and each of its steps, is waiting."""
        return self._call("GET", f"/runs/{run_id}/explain")

    def cancel(self, run_id: str, **fields: Any) -> dict[str, Any]:
        """Cancel a run."""
        try:
            return self._call("POST", f"/runs/{run_id}/cancel", fields)
        except ApiError as error:
            run = self.run(run_id) if error.status == 409 and error.heard_before else None
            if run is None or run["state"] != "cancelled":
                raise
            return run  # by an earlier attempt, whose response was lost

    def cancel_many(self, run_filter: dict[str, Any], **fields: Any) -> int:
        """Cancel all runs that match a filter; returns their number."""
        done = 0
        while True:
            result = self._call("POST", "/runs/bulk/cancel", {"filter": run_filter, **fields})
            done += result["cancelled"]
            if not result["left"] or fields.get("dry_run"):
                return done or int(result["left"])

    def retry(self, run_id: str, **fields: Any) -> dict[str, Any]:
        """Run again what failed, everything, or from one step on."""
        return self._call("POST", f"/runs/{run_id}/retry", fields)

    def create_key(self, **fields: Any) -> dict[str, Any]:
        """Create a key or an OAuth client; only this response has its secret."""
        return self._call("POST", "/keys", fields, repeatable=False)

    def keys(self) -> Iterator[dict[str, Any]]:
        """Every key of the tenant, page by page."""
        query: dict[str, Any] = {"limit": 200}
        while True:
            page = self._call("GET", "/keys", query=query)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]

    def rotate_key(self, key_id: str, **fields: Any) -> dict[str, Any]:
        """Replace a key by a new one; the old one stays valid for the grace period."""
        return self._call("POST", f"/keys/{key_id}/rotate", fields, repeatable=False)

    def revoke_key(self, key_id: str) -> dict[str, Any]:
        """Revoke a key at once."""
        return self._call("POST", f"/keys/{key_id}/revoke")

    def artifacts(self, run_id: str) -> list[dict[str, Any]]:
        """The files that the steps of a run saved; the `url` of each is valid for an hour."""
        return list(self._call("GET", f"/runs/{run_id}/artifacts")["items"])

    def log(self, run_id: str, **query: Any) -> dict[str, Any]:
        """One page of a run's log."""
        return self._call("GET", f"/runs/{run_id}/logs", query=query)

    def ready(self) -> bool:
        """Whether the API and its dependencies are available."""
        try:
            return self._session.get(f"{self.url}/readyz", timeout=5).ok
        except requests.RequestException:
            return False

    def follow(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Poll a run until it has ended; yields it each time."""
        while True:
            run = self.run(run_id)
            yield run
            if run["state"] in FINAL_RUNS:
                return
            time.sleep(_POLL_PAUSE)

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
        *,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        """Send a request with retries; unless `repeatable`, only if it cannot have arrived."""
        headers = {"Idempotency-Key": uuid4().hex} if method == "POST" else None
        started, backoff, in_doubt = time.monotonic(), _MIN_BACKOFF, False
        while True:
            try:
                return self._send(method, path, json=body, params=query, headers=headers)
            except ApiError as error:
                error.heard_before = in_doubt
                raise
            except _Transient as transient:
                failure = transient
            in_doubt |= failure.sent
            pause = max(backoff * random.uniform(0.5, 1), failure.after)
            patience = self._patience if self._answered else min(self._patience, _FIRST_PATIENCE)
            is_over = time.monotonic() + pause > started + patience
            if is_over or (failure.sent and not repeatable):
                raise _in_doubt(failure.error) if in_doubt and headers else failure.error
            time.sleep(pause)
            backoff = min(backoff * 2, _MAX_BACKOFF)

    def _send(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request once. Raises _Transient for a transient failure."""
        url = f"{self.url}/api/v1{path}"
        try:
            response = self._session.request(method, url, timeout=_TIMEOUT, **options)
        except _TRANSIENT_ERRORS as error:
            sent = _may_have_arrived(error)
            nobody = f"nobody answers at {self.url}; start it with: orchestrator up"
            detail = f"{self.url} gave no answer" if sent else nobody
            raise _Transient(ApiError(503, {"detail": detail}), sent=sent) from None
        except requests.RequestException as error:  # such as an invalid URL
            raise ApiError(400, {"detail": f"cannot ask {self.url}: {error}"}) from None
        self._answered = True
        body, status = _body(response), response.status_code
        if status in _TRANSIENT_STATUSES:
            sent = status != 429 and body.get("code") != "unavailable"
            after = response.headers.get("Retry-After", "")  # seconds, or a date
            seconds = float(after) if after.isdecimal() else 0.0
            raise _Transient(ApiError(status, body), seconds, sent=sent)
        if not response.ok:
            raise ApiError(status, body)
        return body


def _body(response: requests.Response) -> dict[str, Any]:
    """The JSON of a response. Raises ApiError for a success without a JSON object."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        return body
    if response.ok:
        detail = f"{response.url} is no orchestrator's API"
        raise ApiError(response.status_code, {"detail": detail})
    return {"detail": f"{response.status_code} {response.reason}"}


def _in_doubt(error: ApiError) -> ApiError:
    """The error of a request that one of its attempts may have executed."""
    if error.problem.get("code") == _IN_DOUBT:
        return error
    detail = f"{error.problem.get('detail', error.status)}: this may have been done;"
    problem = {"code": _IN_DOUBT, "detail": f"{detail} look before you ask again"}
    return ApiError(error.status, error.problem | problem)


def _may_have_arrived(error: Exception) -> bool:
    """Whether the request may have reached a server."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return not isinstance(reason, NewConnectionError)
