"""Task events of the steps that a task carries besides its own, so that Flower lists every step.

Celery sends the events of a task from the worker's parent process, which knows nothing of them.
"""

import logging
import time
from typing import Any

from orchestrator.broker.messages import task_id
from orchestrator.engine.attempts import Recorded
from orchestrator.engine.claims import Claim
from orchestrator.engine.publishing import name_of
from orchestrator.states import StepState
from workers.app import app, settings

_log = logging.getLogger(__name__)


class CarriedSteps:
    """The events of one task's steps, all of one moment in one message."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._task_id = ""  # of the step that is executed; empty for the task's own
        self._began = 0.0

    def begin(self, claim: Claim, recorded: Recorded) -> None:
        """The next step begins, after the outcome of the one before it."""
        if not settings.task_events:
            return
        events = self._end(recorded)
        self._task_id = task_id(claim.step_id, claim.generation)
        self._began = time.monotonic()
        description = {
            "name": name_of(claim.workflow, claim.key, claim.attempt),
            "args": "()",
            "kwargs": "{}",
            "retries": 0,
            "eta": None,
            "expires": None,
        }
        self._send([*events, ("task-received", self._task_id, description), self._event("started")])

    def end(self, recorded: Recorded | None) -> None:
        """The task ends after this outcome; None: that came too late."""
        self._send(self._end(recorded))

    def _end(self, recorded: Recorded | None) -> list[tuple[str, str, dict[str, Any]]]:
        if not self._task_id or recorded is None:
            return []
        message = (recorded.error or {}).get("message", "")
        match recorded.state:
            case StepState.SUCCEEDED | StepState.SKIPPED:
                runtime = time.monotonic() - self._began
                return [self._event("succeeded", result=repr(str(recorded.state)), runtime=runtime)]
            case StepState.FAILED:
                return [self._event("failed", exception=f"StepFailed({message!r})", traceback="")]
            case StepState.WAITING:
                return [self._event("retried", exception=f"Retry({message!r})", traceback="")]
            case _:
                return []

    def _event(self, kind: str, **fields: Any) -> tuple[str, str, dict[str, Any]]:
        return f"task-{kind}", self._task_id, fields

    def _send(self, events: list[tuple[str, str, dict[str, Any]]]) -> None:
        if not events:
            return
        try:
            with (
                app.amqp.producer_pool.acquire(block=True) as producer,
                app.events.Dispatcher(
                    producer.connection,
                    hostname=self._hostname,
                    channel=producer.channel,
                    buffer_while_offline=False,
                    buffer_group={"task"},
                ) as dispatcher,
            ):
                for kind, uuid, fields in events:
                    dispatcher.send(kind, uuid=uuid, **fields)
                dispatcher.flush()
        except Exception as error:  # they are for people who watch; the step goes on
            _log.info("task events not sent", extra={"error": str(error)})
