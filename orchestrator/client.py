"""The REST API as the command line uses it, and whoever wants nothing lost and nothing twice.

What goes wrong on the way is tried again for a while. Every POST has an idempotency key, the same
at each try, so that one that was done although its answer was lost is not done again. When the
client gives up on one that may have been done, the error's code is `in_doubt`.
"""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import requests
from urllib3.exceptions import NewConnectionError

from orchestrator.states import FINAL_RUNS

PATIENCE = 30.0  # seconds in which a request is sent again

_FIRST = 1.0  # seconds, instead, while nobody has ever answered: there may be nobody
_PAUSE = 0.1  # seconds between two looks at a run that is followed
_BACKOFF, _LONGEST = 0.1, 2.0  # seconds between the first two tries, and between any two
_TIMEOUT = 30.0
_PASSING = (429, 502, 503, 504)
_IN_DOUBT = "in_doubt"  # the code of what may have been done
_CUT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class ApiError(Exception):
    """What the API answered instead: the problem's detail and where each mistake is."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        mistakes = [
            f"\n  {each['pointer']}: {each['detail']}"
            for each in problem.get("errors", ())
            if "pointer" in each  # else it is no problem of ours
        ]
        super().__init__(f"{problem.get('detail', status)}{''.join(mistakes)}")
        self.status = status
        self.problem = problem
        self.heard_before = False  # an earlier try of the same request may have been heard


class _Again(Exception):
    """A try that failed as others after it need not."""

    def __init__(self, error: ApiError, after: float = 0.0, *, sent: bool = True) -> None:
        super().__init__(str(error))
        self.error, self.after, self.sent = error, after, sent


class Client:
    """Speaks to one API with one key. Every method raises ApiError for a 4xx or 5xx that stays.

    `patience` is for how many seconds a request that failed on its way is sent again.
    """

    def __init__(self, url: str, key: str, *, patience: float = PATIENCE) -> None:
        self.url = url.rstrip("/")
        self._patience, self._answered = patience, False
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"

    def apply(self, spec: dict[str, Any], **query: Any) -> dict[str, Any]:
        """Register a workflow or its next version; `project` says where."""
        return self._call("POST", "/workflows", spec, query)

    def submit(self, workflow: str, params: dict[str, Any], **asked: Any) -> dict[str, Any]:
        """Submit a run."""
        return self._call("POST", "/runs", {"workflow": workflow, "params": params, **asked})

    def submit_many(self, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Submit up to 10,000 runs, all or none; gives the id and number of each."""
        made: list[dict[str, Any]] = self._call("POST", "/runs/batch", {"runs": runs})["items"]
        return made

    def run(self, run_id: str) -> dict[str, Any]:
        """A run with its steps."""
        return self._call("GET", f"/runs/{run_id}")

    def runs(self, **query: Any) -> dict[str, Any]:
        """One page of runs."""
        return self._call("GET", "/runs", query=query)

    def explain(self, run_id: str) -> dict[str, Any]:
        """Why a run, and each of its steps, does not go on."""
        return self._call("GET", f"/runs/{run_id}/explain")

    def cancel(self, run_id: str, **asked: Any) -> dict[str, Any]:
        """Cancel a run."""
        try:
            return self._call("POST", f"/runs/{run_id}/cancel", asked)
        except ApiError as error:
            run = self.run(run_id) if error.status == 409 and error.heard_before else None
            if run is None or run["state"] != "cancelled":
                raise
            return run  # it was this very cancel, and its answer was lost

    def cancel_many(self, which: dict[str, Any], **asked: Any) -> int:
        """Cancel all runs that a filter finds; gives how many."""
        done = 0
        while True:
            answer = self._call("POST", "/runs/bulk/cancel", {"filter": which, **asked})
            done += answer["cancelled"]
            if not answer["left"] or asked.get("dry_run"):
                return done or int(answer["left"])

    def retry(self, run_id: str, **asked: Any) -> dict[str, Any]:
        """Run again what failed, everything, or from one step on."""
        return self._call("POST", f"/runs/{run_id}/retry", asked)

    def create_key(self, **asked: Any) -> dict[str, Any]:
        """Make a key or an OAuth client; only this answer has its secret."""
        return self._call("POST", "/keys", asked, twice=False)

    def keys(self) -> Iterator[dict[str, Any]]:
        """Every key of the tenant, page by page."""
        query: dict[str, Any] = {"limit": 200}
        while True:
            page = self._call("GET", "/keys", query=query)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]

    def rotate_key(self, key_id: str, **asked: Any) -> dict[str, Any]:
        """Make a new key in place of this one, which stays good for the grace."""
        return self._call("POST", f"/keys/{key_id}/rotate", asked, twice=False)

    def revoke_key(self, key_id: str) -> dict[str, Any]:
        """End a key at once."""
        return self._call("POST", f"/keys/{key_id}/revoke")

    def artifacts(self, run_id: str) -> list[dict[str, Any]]:
        """The files that the steps of a run saved; the `url` of each is good for an hour."""
        found: list[dict[str, Any]] = self._call("GET", f"/runs/{run_id}/artifacts")["items"]
        return found

    def log(self, run_id: str, **query: Any) -> dict[str, Any]:
        """One page of a run's log."""
        return self._call("GET", f"/runs/{run_id}/logs", query=query)

    def ready(self) -> bool:
        """Whether the API and all it needs answer."""
        try:
            return self._session.get(f"{self.url}/readyz", timeout=5).ok
        except requests.RequestException:
            return False

    def follow(self, run_id: str) -> Iterator[dict[str, Any]]:
        """The run as it is, again and again until it has ended."""
        while True:
            run = self.run(run_id)
            yield run
            if run["state"] in FINAL_RUNS:
                return
            time.sleep(_PAUSE)

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
        *,
        twice: bool = True,
    ) -> dict[str, Any]:
        """Ask until there is an answer; without `twice` nothing that may have been done already."""
        headers = {"Idempotency-Key": uuid4().hex} if method == "POST" else None
        begun, backoff, heard = time.monotonic(), _BACKOFF, False
        while True:
            try:
                return self._try(method, path, json=body, params=query, headers=headers)
            except ApiError as error:
                error.heard_before = heard
                raise
            except _Again as failed:
                heard |= failed.sent
                pause = max(backoff * random.uniform(0.5, 1), failed.after)
                patience = self._patience if self._answered else min(self._patience, _FIRST)
                if time.monotonic() + pause > begun + patience or (failed.sent and not twice):
                    raise (_in_doubt(failed.error) if heard and headers else failed.error) from None
            time.sleep(pause)
            backoff = min(backoff * 2, _LONGEST)

    def _try(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Ask once. Raises _Again for what may pass."""
        url = f"{self.url}/api/v1{path}"
        try:
            answer = self._session.request(method, url, timeout=_TIMEOUT, **options)
        except _CUT as error:
            sent = _was_sent(error)
            detail = f"nobody answers at {self.url}; start it with: orchestrator up"
            if sent:
                detail = f"{self.url} gave no answer"
            raise _Again(ApiError(503, {"detail": detail}), sent=sent) from None
        except requests.RequestException as error:  # an address that is none, for one
            raise ApiError(400, {"detail": f"cannot ask {self.url}: {error}"}) from None
        self._answered = True
        found = _document(answer)
        if answer.status_code in _PASSING:
            sent = answer.status_code != 429 and found.get("code") != "unavailable"
            raise _Again(ApiError(answer.status_code, found), _retry_after(answer), sent=sent)
        if not answer.ok:
            raise ApiError(answer.status_code, found)
        return found


def _document(answer: requests.Response) -> dict[str, Any]:
    """What was answered. Raises ApiError for a success that cannot be one of ours."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    if answer.ok:
        raise ApiError(answer.status_code, {"detail": f"{answer.url} is no orchestrator's API"})
    return {"detail": f"{answer.status_code} {answer.reason}"}


def _in_doubt(error: ApiError) -> ApiError:
    """The error of a request that one of its tries may have done."""
    if error.problem.get("code") == _IN_DOUBT:  # it says so itself
        return error
    detail = f"{error.problem.get('detail', error.status)}: this may have been done;"
    told = {"code": _IN_DOUBT, "detail": f"{detail} look before you ask again"}
    return ApiError(error.status, error.problem | told)


def _was_sent(error: Exception) -> bool:
    """Whether somebody may have heard what was asked."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return not isinstance(reason, NewConnectionError)


def _retry_after(answer: requests.Response) -> float:
    """Seconds, or 0 when it says nothing that we read."""
    told = answer.headers.get("Retry-After", "")
    return float(told) if told.isdecimal() else 0.0
