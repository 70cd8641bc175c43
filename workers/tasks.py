"""The one task: claim a step, call its handler, record how it ended."""

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

# How long the end of an attempt is kept while Postgres is away. Its lease runs out meanwhile, but
# a step is not taken away before its worker had the time to say so; and if it was, the fence holds.
_KEPT = timedelta(minutes=10)
_LONGEST_TRACEBACK = 8_000  # characters; the last ones say most

_log = logging.getLogger(__name__)

# Unlike a claim, what a step has said cannot be had again: a crash of Postgres must not forget it.
# To wait for the disk costs a thread some milliseconds a second.
reporter = OutputWriter(database, settings.log_lines)


class StepFailed(Exception):
    """Shows the step as failed in Flower; the row knows already."""


@app.task(bind=True, name=TASK, Request="workers.heartbeat:StepRequest", throws=(StepFailed,))
@protected()
def execute_step(self: Task) -> str:
    """Run one attempt of one step. A message that comes twice does nothing twice."""
    task_id, chain = str(self.request.id), self.request.chain
    self.request.chain = None  # the rest of the chain goes on only if the row says so
    version = self.request.get(VERSION_HEADER, VERSION)  # the first ones did not say theirs
    if version != VERSION:
        _log.warning("message of an unknown version", extra={"task": task_id, "version": version})
        raise Ignore  # it is sent again, perhaps to a worker that knows it
    claim = _claim(task_id, str(self.request.hostname))
    if claim is None:
        return "stale"
    with bind(run_id=str(claim.run_id), step=claim.key, attempt=claim.attempt):
        meter, report = ResourceMeter(), reporter.open(claim.source, _keep_for(claim))
        outcome = _put_away(claim, execute(claim, task_id, report.recorder))
        continues = chain[-1]["options"]["task_id"] if chain else None
        try:
            step, goes_on = _record(claim, outcome, report, meter, continues)
        except LeaseLost:
            _log.warning("late outcome refused", extra={"outcome": type(outcome).__name__})
            return "refused"
        if goes_on:
            self.request.chain = chain
        return _shown(step)


def execute(claim: Claim, task_id: str, recorder: Recorder) -> Outcome:
    """Call the handler, and say in our words how it ended."""
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
    except BaseException as error:  # whatever it is, the attempt has ended and is recorded
        return _failed(error)


def _claim(task_id: str, worker: str) -> Claim | None:
    """The right to one attempt. While Postgres is away this waits: the message came but once."""
    parsed = parse_task_id(task_id)
    if parsed is None:
        return None

    def claim(session: Session) -> Claim | None:
        return claim_attempt(
            session, *parsed, worker=worker, lease=settings.lease, grace=settings.cancel_grace
        )

    def was_committed(session: Session, made: Claim | None) -> bool:
        return made is not None and was_claimed(session, made)

    try:
        return claims.run_with_retry(claim, within=settings.lease, verify=was_committed)
    except (DBAPIError, TimeoutError) as error:
        # The step stays queued; its message is sent again when Postgres is back.
        _log.warning("claim failed", extra={"task": task_id, "error": str(error)})
        return None


def _put_away(claim: Claim, outcome: Outcome) -> Outcome:
    """The outcome, its result in the artifact store if it is too large for a row."""
    outcome = outcomes.check_result(outcome)
    if (
        not isinstance(outcome, Succeeded)
        or not outcome.text
        or not outcomes.result_excess_of(outcome)
    ):
        return outcome
    try:
        put = artifacts.save_result(database, _files(), claim.source, outcome.text, within=_KEPT)
    except Exception as error:
        return _failed(error)
    return Succeeded(artifact=put)


def _record(
    claim: Claim,
    outcome: Outcome,
    report: AttemptOutput,
    meter: ResourceMeter,
    continues: str | None,
) -> tuple[Row, bool]:
    """Write down how the attempt ended and the last that it said, in one transaction."""
    said, is_news = report.end()
    usage, warned = meter.read(), report.recorder.warned

    def record(session: Session, said: OutputBatch | None = said) -> tuple[Row, bool]:
        if said is not None:
            writer.write_output(session, claim.source, said)
            if is_news:
                writer.record_progress(session, claim.source, said)
        return attempts.record_outcome(
            session, claim, outcome, continues, usage=usage, warnings=warned
        )

    def was_committed(session: Session, _: object) -> bool:
        return was_recorded(session, claim)

    try:
        return database.run_with_retry(record, within=_KEPT, verify=was_committed)
    except LeaseLost:
        if said is not None:  # its log may tell why it was late
            with suppress(SQLAlchemyError), database.transaction() as session:
                writer.write_output(session, claim.source, said)
        raise
    except DBAPIError as error:
        if said is None or is_transient(error):
            raise
        _log.exception("what the step said last is lost")
        return database.run_with_retry(
            partial(record, said=None), within=_KEPT, verify=was_committed
        )


def _keep_for(claim: Claim) -> FileSaver:
    """How a handler's files are saved."""

    def keep(draft: FileSpec, content: Content) -> SavedFile:
        try:
            return artifacts.save(
                database,
                _files(),
                claim.source,
                draft,
                content,
                limit=settings.artifact_limit,
                within=_KEPT,
            )
        except (ArtifactTooLarge, TooManyArtifacts) as error:
            raise FailStep(str(error)) from error

    return keep


def _files() -> ArtifactStore:
    return storage.store_of(settings)


def _call(handler: Handler, claim: Claim, stop: StopFlag, recorder: Recorder) -> Outcome:
    """Fill the templates and call the handler, if the step's condition holds."""
    results = claim.results
    if claim.spilled:
        results = {**results, **artifacts.read_results(database, _files(), claim.spilled)}
    names = _names(claim, results)
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
            return Failed(_said(error), _kinds(error), traceback=_traceback(error))


def _names(claim: Claim, results: Mapping[str, Any]) -> dict[str, Any]:
    """What templates may name."""
    return {
        "params": claim.params,
        "steps": {key: {"result": result} for key, result in results.items()},
        "run": _run(claim),
    }


def _run(claim: Claim) -> dict[str, Any]:
    """What templates and handlers know of the run; its logical date as RFC 3339."""
    date = claim.run["logical_date"]
    known = {**claim.run, "logical_date": date and date.isoformat().replace("+00:00", "Z")}
    return {"id": str(claim.run_id), "attempt": claim.attempt, **known}


def _shown(step: Row) -> str:
    """End the task so that Flower shows what became of the step."""
    message = (step.error or {}).get("message", "")
    if step.state == StepState.FAILED:
        raise StepFailed(message)
    if step.state == StepState.WAITING:
        raise Retry(message)
    if step.state not in (StepState.SUCCEEDED, StepState.SKIPPED):
        raise Ignore
    return str(step.state)


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ may be what is broken
        return type(error).__name__


def _kinds(error: BaseException) -> tuple[str, ...]:
    """The names of an exception's classes, short and with their module, nearest first."""
    classes = [each for each in type(error).__mro__ if each not in (object, BaseException)]
    return tuple(
        name for each in classes for name in (each.__name__, f"{each.__module__}.{each.__name__}")
    )


def _traceback(error: BaseException) -> str:
    """Where it happened, without our own frame that called the handler."""
    below = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, below))[-_LONGEST_TRACEBACK:]
