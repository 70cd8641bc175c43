"""The Celery task: claim a step, call its handler, record the outcome."""

import logging
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Retry
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, TimeoutError
from sqlalchemy.orm import Session

from config.logging import bind
from orchestrator.broker.client import TASK, VERSION_HEADER
from orchestrator.broker.messages import VERSION, parse_task_id
from orchestrator.db import Row
from orchestrator.db.engine import is_transient
from orchestrator.engine import attempts, outcomes
from orchestrator.engine.claims import Claim, claim_attempt, was_claimed, was_recorded
from orchestrator.engine.outcomes import Failed, Interrupted, Outcome, Skipped, Succeeded
from orchestrator.errors import LeaseLost
from orchestrator.outputs import artifacts, storage, writer
from orchestrator.outputs.artifacts import TooManyArtifacts
from orchestrator.outputs.storage import ArtifactStore, ArtifactTooLarge
from orchestrator.sdk.context import StepContext
from orchestrator.sdk.files import Content, FileSpec, SavedFile
from orchestrator.sdk.recorder import FileSaver, Recorder
from orchestrator.sdk.reports import OutputBatch
from orchestrator.sdk.signals import FailStep, RetryStep, StepCancelled, StepTimedOut
from orchestrator.sdk.steps import Handler
from orchestrator.spec import templates
from orchestrator.states import StepState
from workers.app import app, claims, database, registry, settings
from workers.interrupts import HandedBack, StopFlag, interruptible, protected
from workers.log_capture import capture_output
from workers.output_writer import AttemptOutput, OutputWriter
from workers.resource_usage import ResourceMeter

# How long an outcome is kept in memory while Postgres is unavailable. The lease expires meanwhile,
# but after an outage the scheduler waits for heartbeats first, and the fence refuses a late one.
_RECORD_WITHIN = timedelta(minutes=10)
_MAX_TRACEBACK = 8_000  # characters, the last ones

_log = logging.getLogger(__name__)

# On the durable connections: unlike a claim, output that a crash of Postgres loses is lost.
# Waiting for the disk costs a thread some milliseconds a second.
output_writer = OutputWriter(database, settings.log_lines)


class StepFailed(Exception):
    """Makes Flower show the step as failed; the outcome is recorded already."""


@app.task(bind=True, name=TASK, Request="workers.heartbeat:StepRequest", throws=(StepFailed,))
@protected()
def execute_step(self: Task) -> str:
    """Execute one attempt of one step. A duplicate message finds nothing to claim."""
    task_id, chain = str(self.request.id), self.request.chain
    self.request.chain = None  # Celery publishes the rest of it only if the outcome allows
    version = self.request.get(VERSION_HEADER, VERSION)  # absent in version 1
    if version != VERSION:
        _log.warning("message of an unknown version", extra={"task": task_id, "version": version})
        raise Ignore  # the scheduler publishes it again, until a worker takes it that knows it
    claim = _claim(task_id, str(self.request.hostname))
    if claim is None:
        return "stale"
    with bind(run_id=str(claim.run_id), step=claim.key, attempt=claim.attempt):
        meter, output = ResourceMeter(), output_writer.open(claim.source, _file_saver(claim))
        outcome = _spill_large_result(claim, execute(claim, task_id, output.recorder))
        continues = chain[-1]["options"]["task_id"] if chain else None
        try:
            step, is_continued = _record(claim, outcome, output, meter, continues)
        except LeaseLost:
            _log.warning("late outcome refused", extra={"outcome": type(outcome).__name__})
            return "refused"
        if is_continued:
            self.request.chain = chain
        return _flower_status(step)


def execute(claim: Claim, task_id: str, recorder: Recorder) -> Outcome:
    """Call the handler; returns its outcome, whatever it raised."""
    handler = registry.get(claim.uses)
    if handler is None:
        known = ", ".join(registry.names())
        message = f"this worker has no handler {claim.uses!r}; it has {known}"
        return Failed(message, ("UnknownHandler",), final=True)
    timeout = claim.spec.get("timeout")
    limit = None if timeout is None else timedelta(seconds=timeout)
    try:
        with capture_output(recorder), interruptible(task_id, limit) as stop:
            return _call(handler, claim, stop, recorder)
    except StepTimedOut:
        return outcomes.timed_out_failure(claim.spec)
    except HandedBack as error:
        return Interrupted(str(error), handed_back=True)
    except StepCancelled as error:
        return Interrupted(str(error))
    except BaseException as error:  # whatever it is, the attempt ends and is recorded
        return _failed(error)


def _claim(task_id: str, worker: str) -> Claim | None:
    """Claim one attempt; retries while Postgres is unavailable, as the message comes only once."""
    parsed = parse_task_id(task_id)
    if parsed is None:
        return None

    def claim(session: Session) -> Claim | None:
        return claim_attempt(
            session, *parsed, worker=worker, lease=settings.lease, grace=settings.cancel_grace
        )

    def was_committed(session: Session, claimed: Claim | None) -> bool:
        return claimed is not None and was_claimed(session, claimed)

    try:
        return claims.run_with_retry(claim, within=settings.lease, verify=was_committed)
    except (DBAPIError, TimeoutError) as error:
        # The step stays queued; the scheduler publishes it again when Postgres is back.
        _log.warning("claim failed", extra={"task": task_id, "error": str(error)})
        return None


def _spill_large_result(claim: Claim, outcome: Outcome) -> Outcome:
    """The outcome, with a result too large for a row moved to the artifact store."""
    outcome = outcomes.check_result(outcome)
    if (
        not isinstance(outcome, Succeeded)
        or not outcome.text
        or not outcomes.result_excess_of(outcome)
    ):
        return outcome
    try:
        artifact = artifacts.save_result(
            database, _store(), claim.source, outcome.text, within=_RECORD_WITHIN
        )
    except Exception as error:
        return _failed(error)
    return Succeeded(artifact=artifact)


def _record(
    claim: Claim,
    outcome: Outcome,
    output: AttemptOutput,
    meter: ResourceMeter,
    continues: str | None,
) -> tuple[Row, bool]:
    """Record the outcome and the last output of an attempt in one transaction."""
    batch, has_progress = output.end()
    usage, warnings = meter.read(), output.recorder.warned

    def record(session: Session, batch: OutputBatch | None = batch) -> tuple[Row, bool]:
        if batch is not None:
            writer.write_output(session, claim.source, batch)
            if has_progress:
                writer.record_progress(session, claim.source, batch)
        return attempts.record_outcome(
            session, claim, outcome, continues, usage=usage, warnings=warnings
        )

    def was_committed(session: Session, _: object) -> bool:
        return was_recorded(session, claim)

    try:
        return database.run_with_retry(record, within=_RECORD_WITHIN, verify=was_committed)
    except LeaseLost:
        if batch is not None:  # its log may show why it was late
            with suppress(SQLAlchemyError), database.transaction() as session:
                writer.write_output(session, claim.source, batch)
        raise
    except DBAPIError as error:
        if batch is None or is_transient(error):
            raise
        _log.exception("step output lost")
        return database.run_with_retry(
            partial(record, batch=None), within=_RECORD_WITHIN, verify=was_committed
        )


def _file_saver(claim: Claim) -> FileSaver:
    """Saves the files of an attempt as artifacts."""

    def save(spec: FileSpec, content: Content) -> SavedFile:
        try:
            return artifacts.save(
                database,
                _store(),
                claim.source,
                spec,
                content,
                limit=settings.artifact_limit,
                within=_RECORD_WITHIN,
            )
        except (ArtifactTooLarge, TooManyArtifacts) as error:
            raise FailStep(str(error)) from error

    return save


def _store() -> ArtifactStore:
    return storage.store_of(settings)


def _call(handler: Handler, claim: Claim, stop: StopFlag, recorder: Recorder) -> Outcome:
    """Render the templates and call the handler, if the step's condition holds."""
    results = claim.results
    if claim.spilled:
        results = {**results, **artifacts.read_results(database, _store(), claim.spilled)}
    names = _template_names(claim, results)
    when = claim.spec.get("when")
    if when is not None and not templates.evaluate(when, names):
        return Skipped()
    context = StepContext(
        run_id=str(claim.run_id),
        workflow=claim.workflow,
        step=claim.key,
        attempt=claim.attempt,
        run=names["run"],
        params=claim.params,
        args=templates.render(claim.spec.get("with", {}), names),
        results=results,
        idempotency_key=str(claim.step_id),
        cancelled=stop.is_set,
        log=logging.getLogger(handler.name),
        recorder=recorder,
    )
    return Succeeded(handler(context))


def _failed(error: BaseException) -> Failed:
    match error:
        case templates.TemplateError():
            return Failed(str(error), ("TemplateError",), final=True)
        case FailStep():
            return Failed(str(error), ("FailStep",), final=True)
        case RetryStep():
            return Failed(str(error), _kinds(error), after=error.after)
        case _:
            return Failed(_message(error), _kinds(error), traceback=_traceback(error))


def _template_names(claim: Claim, results: Mapping[str, Any]) -> dict[str, Any]:
    """The names that templates may use."""
    return {
        "params": claim.params,
        "steps": {key: {"result": result} for key, result in results.items()},
        "run": _run(claim),
    }


def _run(claim: Claim) -> dict[str, Any]:
    """The run as templates and handlers see it; `logical_date` in RFC 3339."""
    date = claim.run["logical_date"]
    logical_date = date and date.isoformat().replace("+00:00", "Z")
    fields = {**claim.run, "logical_date": logical_date}
    return {"id": str(claim.run_id), "attempt": claim.attempt, **fields}


def _flower_status(step: Row) -> str:
    """End the Celery task with the status that Flower shows for the step's state."""
    message = (step.error or {}).get("message", "")
    if step.state == StepState.FAILED:
        raise StepFailed(message)
    if step.state == StepState.WAITING:
        raise Retry(message)
    if step.state not in (StepState.SUCCEEDED, StepState.SKIPPED):
        raise Ignore
    return str(step.state)


def _message(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ raises
        return type(error).__name__


def _kinds(error: BaseException) -> tuple[str, ...]:
    """The names of an exception's classes, short and with their module, nearest first."""
    classes = [each for each in type(error).__mro__ if each not in (object, BaseException)]
    return tuple(
        name for each in classes for name in (each.__name__, f"{each.__module__}.{each.__name__}")
    )


def _traceback(error: BaseException) -> str:
    """The traceback without our own frame that called the handler."""
    below = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, below))[-_MAX_TRACEBACK:]
