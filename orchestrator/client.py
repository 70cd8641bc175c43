"""The REST API as the command line and the demo use it."""

import time
from collections.abc import Iterator
from typing import Any

import requests

from orchestrator.states import FINAL_RUNS

_PAUSE = 0.1  # seconds between two looks at a run that is followed
_TIMEOUT = 30.0


class ApiError(Exception):
    """What the API answered instead: the problem's detail and where each mistake is."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        mistakes = [
            f"\n  {each['pointer']}: {each['detail']}" for each in problem.get("errors", ())
        ]
        super().__init__(f"{problem.get('detail', status)}{''.join(mistakes)}")
        self.status = status
        self.problem = problem


class Client:
    """Speaks to one API with one key. Every method raises ApiError for a 4xx or 5xx."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"

    def apply(self, spec: dict[str, Any], **query: Any) -> dict[str, Any]:
        """Register a workflow or its next version; `project` says where."""
        return self._call("POST", "/workflows", spec, query)

    def submit(self, workflow: str, params: dict[str, Any], **asked: Any) -> dict[str, Any]:
        """Submit a run."""
        return self._call("POST", "/runs", {"workflow": workflow, "params": params, **asked})

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
        return self._call("POST", f"/runs/{run_id}/cancel", asked)

    def retry(self, run_id: str, **asked: Any) -> dict[str, Any]:
        """Run again what failed, everything, or from one step on."""
        return self._call("POST", f"/runs/{run_id}/retry", asked)

    def create_key(self, **asked: Any) -> dict[str, Any]:
        """Make a key or an OAuth client; only this answer has its secret."""
        return self._call("POST", "/keys", asked)

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
        return self._call("POST", f"/keys/{key_id}/rotate", asked)

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
        self, method: str, path: str, body: Any = None, query: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method, f"{self.url}/api/v1{path}", json=body, params=query, timeout=_TIMEOUT
            )
        except requests.ConnectionError:
            detail = f"nobody answers at {self.url}; start it with: orchestrator up"
            raise ApiError(503, {"detail": detail}) from None
        try:
            found: dict[str, Any] = answer.json()
        except ValueError:
            found = {"detail": f"{answer.status_code} {answer.reason}"}
        if not answer.ok:
            raise ApiError(answer.status_code, found)
        return found
