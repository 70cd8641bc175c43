"""The interface between the conformance suite and one contract."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from orchestrator.models import Run
from orchestrator.states import RunState


class Adapter(Protocol):
    """The requests of one contract for what every contract can do.

    `client` sends whatever credentials its `environ_base` has; with none of them, those that
    `credentials` gives are added by the suite.
    """

    name: str
    states: Mapping[RunState, str]  # how each core state reads on the wire
    step_states: Mapping[str, str]  # the same for core step states that may show
    unknown_id: str  # right in form, and nobody's
    malformed_ids: Sequence[str]

    def credentials(self, key: str) -> dict[str, str]:
        """The headers that carry a key."""

    def submit(self, client: FlaskClient, tenant_id: UUID, workflow: str) -> TestResponse:
        """Start a run of a workflow that is registered already; the last answer on the way."""

    def submitted_id(self, answer: TestResponse) -> str:
        """The wire id of the run in the answer to `submit`."""

    def wire_id(self, run: Run) -> str:
        """The id under which this contract shows a run, whoever started it."""

    def read(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse:
        """Request one run."""

    def state_in(self, answer: TestResponse) -> str:
        """The wire state in the answer to `read`."""

    def page(
        self, client: FlaskClient, tenant_id: UUID, *, limit: int, offset: int, workflow: str
    ) -> TestResponse:
        """Request a page of runs of a workflow, newest first; SolveXia gives them all."""

    def ids_in(self, answer: TestResponse) -> list[str]:
        """The wire ids in the answer to `page`."""

    def total_in(self, answer: TestResponse) -> int | None:
        """How many there are on all pages; None where the contract does not say."""

    def of_state(self, client: FlaskClient, tenant_id: UUID, wire: str) -> TestResponse | None:
        """Request the runs in a wire state; None where the contract has no such filter."""

    def cancel(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        """Cancel a run; None where the contract cannot."""

    def retry(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        """Run a failed run again from what failed, or whole; None where the contract cannot."""

    def steps(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> dict[str, str] | None:
        """The wire state of each step that shows, by key or name; None where none show."""

    def refusal(self, answer: TestResponse) -> int:
        """The status that a refusal means, once its body and headers have the published form.

        Mage answers 200 to most of them; the code in the body counts then.
        """
