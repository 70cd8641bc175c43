"""The Celery task: claim a step, call its handler, record the outcome."""

import json
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from typing import Any
from uuid import UUID

from celery import Task
from celery.exceptions import Ignore, Retry
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, TimeoutError
from sqlalchemy.orm import Session

from config.logging import bind
from orchestrator.access import tenants
from orchestrator.access.references import Resolver
from orchestrator.broker.messages import parse_task_id, task_id
from orchestrator.broker.wire import TASK
from orchestrator.db.autocommit import Autocommit
from orchestrator.db.engine import is_transient
from orchestrator.engine import attempts, claims, outcomes
from orchestrator.engine.attempts import Recorded, Slot
from orchestrator.engine.claims import Claim, Claimant
from orchestrator.engine.outcomes import Declined, Failed, Interrupted, Outcome, Skipped, Succeeded
from orchestrator.errors import LeaseLost
from orchestrator.monitoring import workers
from orchestrator.outputs import artifacts, storage, writer
from orchestrator.outputs.artifacts import TooManyArtifacts
from orchestrator.outputs.storage import ArtifactStore, ArtifactTooLarge
from orchestrator.sdk.context import StepContext
from orchestrator.sdk.files import Content, FileSpec, SavedFile
from orchestrator.sdk.masking import Mask
from orchestrator.sdk.recorder import FileSaver
from orchestrator.sdk.reports import OutputBatch
from orchestrator.sdk.signals import FailStep, StepCancelled, StepSignal, StepTimedOut
from orchestrator.sdk.steps import Handler
from orchestrator.spec import templates
from orchestrator.spec.hidden_params import hidden_texts
from orchestrator.states import StepState
from workers.app import (
    app,
    database,
    output_writer,
    queues,
    registry,
    secret_sources,
    settings,
)
from workers.isolation import failures, host
from workers.isolation.interrupts import (
    HandedBack,
    StopFlag,
    interruptible,
    keep_orders,
    protected,
)
from workers.isolation.log_capture import capture_output, detached
from workers.isolation.output_writer import AttemptOutput
from workers.isolation.resource_usage import ResourceMeter
from workers.streak import Streak
from workers.task_events import CarriedSteps

# How long an outcome is kept in memory while Postgres is unavailable. The lease expires meanwhile,
# but after an outage the scheduler waits for heartbeats first, and the fence refuses a late one.
_RECORD_WITHIN = timedelta(minutes=10)

_log = logging.getLogger(__name__)


class StepFailed(Exception):
    """Makes Flower show the step as failed; the outcome is recorded already."""


@app.task(bind=True, name=TASK, Request="workers.heartbeat:StepRequest", throws=(StepFailed,))
@protected()
def execute_step(self: Task) -> str:
    """Execute one attempt of one step. A duplicate message finds nothing to claim."""
    chain, self.request.chain = self.request.chain or [], None  # its last one is the next task
    slot = Slot(
        str(self.request.id), _claimant(str(self.request.hostname), threading.get_native_id())
    )
    claim = _claim(slot)
    if claim is None:
        return "stale"
    streak, events = Streak(), CarriedSteps(slot.claimant.worker)
    recorded = first = _execute_attempt(claim, slot, _next_task(chain), streak)
    while recorded and recorded.claim:
        claim = recorded.claim
        events.begin(claim, recorded)
        if task_id(claim.step_id, claim.generation) == _next_task(chain):
            chain.pop()
        recorded = _execute_attempt(claim, slot, _next_task(chain), streak)
    events.end(recorded)
    if first is None:
        return "refused"
    if recorded and recorded.queue is not None:  # Celery publishes the rest of the chain
        chain[-1]["options"]["queue"] = recorded.queue  # the row's, not the message's
        self.request.chain = chain
    return _flower_status(first)


def _next_task(chain: list[dict[str, Any]]) -> str | None:
    return str(chain[-1]["options"]["task_id"]) if chain else None


def _execute_attempt(
    claim: Claim, slot: Slot, continues: str | None, streak: Streak
) -> Recorded | None:
    """Execute one attempt and record its outcome; None if that came too late."""
    with bind(run_id=str(claim.run_id), step=claim.key, attempt=claim.attempt):
        meter = ResourceMeter()
        output = output_writer.open(claim.source, slot.task_id, _file_saver(claim))
        outcome = _spill_large_result(claim, execute(claim, slot.task_id, output))
        keep_orders()
        goes_on = isinstance(outcome, Succeeded | Skipped) and streak.goes_on()
        try:
            return _record(claim, outcome, output, meter, continues, slot if goes_on else None)
        except LeaseLost:
            _log.warning("late outcome refused", extra={"outcome": type(outcome).__name__})
            return None


def execute(claim: Claim, task_id: str, output: AttemptOutput) -> Outcome:
    """Call the handler; returns its outcome, whatever it raised and left behind."""
    handler = registry.get(claim.uses)
    if handler is None:
        return _without_handler(claim)
    with host.current.isolate(output):
        return _masked(_execute(handler, claim, task_id, output), output.mask)


def _without_handler(claim: Claim) -> Outcome:
    """Leave the step to a worker that has its handler; without one, it fails."""

    def is_elsewhere(session: Session) -> bool:
        return workers.has_handler(session, claim.step_id, claim.uses)

    if database.run_with_retry(is_elsewhere, within=_RECORD_WITHIN):
        return Declined(
            f"this worker has no handler {claim.uses!r}: it waits for one of its queue that has it"
        )
    known = ", ".join(registry.names())
    message = f"no live worker of its queue has handler {claim.uses!r}; this one has {known}"
    return Failed(message, ("UnknownHandler",), final=True)


def _execute(handler: Handler, claim: Claim, task_id: str, output: AttemptOutput) -> Outcome:
    timeout, soft = claim.spec.get("timeout"), None
    if timeout is None:
        timeout, soft = handler.timeout, handler.soft_timeout
    failure: Failed | None = None
    try:
        with (
            capture_output(output.sink, output.name),
            interruptible(task_id, _duration(timeout), _duration(soft)) as stop,
        ):
            try:
                return outcomes.check_result(_call(handler, claim, stop, output))
            except StepSignal:
                raise
            except BaseException as error:  # in here, as its texts are user code
                failure = failures.failure_of(error, output.mask)
                raise
    except StepTimedOut:
        return outcomes.timed_out_failure(timeout)
    except HandedBack:
        return Interrupted("its worker ends", handed_back=True)
    except StepCancelled as error:
        return Interrupted(failures.text_of(error, output.mask))
    except BaseException as error:  # whatever it is, the attempt ends and is recorded
        return failure or failures.failure_of(error, output.mask)


def _masked(outcome: Outcome, mask: Mask) -> Outcome:
    """The checked outcome without the secrets of its attempt."""
    if not mask:
        return outcome
    match outcome:
        case Succeeded(text=str() as text):
            return outcomes.check_result(Succeeded(mask.document(json.loads(text))))
        case Failed():
            kinds = tuple(map(mask.text, outcome.kinds))
            return replace(outcome, message=mask.text(outcome.message), kinds=kinds)
        case _:
            return outcome


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


@cache
def _claimant(worker: str, thread: int) -> Claimant:
    return Claimant(
        worker=worker,
        thread=thread,
        lease=settings.lease,
        grace=settings.cancel_grace,
        queues=queues,
        timeouts=registry.timeouts(),
    )


def _claim(slot: Slot) -> Claim | None:
    """Claim one attempt; retries while Postgres is unavailable, as the message comes only once."""
    parsed = parse_task_id(slot.task_id)
    if parsed is None:
        return None

    def claim(session: Autocommit) -> Claim | None:
        return claims.claim_attempt(session, *parsed, slot.claimant)

    def recover(session: Session) -> Claim | None:
        return claims.recover_claim(session, parsed[0], slot.task_id, slot.claimant)

    try:
        return database.call_with_retry(claim, within=settings.lease, recover=recover)
    except (DBAPIError, TimeoutError) as error:
        # The step stays queued; the scheduler publishes it again when Postgres is back.
        _log.warning("claim failed", extra={"task": slot.task_id, "error": str(error)})
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
        return failures.failure_of(error)
    return Succeeded(artifact=artifact)


def _record(
    claim: Claim,
    outcome: Outcome,
    output: AttemptOutput,
    meter: ResourceMeter,
    continues: str | None,
    slot: Slot | None,
) -> Recorded:
    """Record the outcome and the last output of an attempt in one transaction."""
    batch, has_progress = output.end()
    usage, warnings = meter.read(), output.recorder.warned
    more: Any = {"continues": continues, "usage": usage, "warnings": warnings, "slot": slot}

    def recover(session: Session) -> Recorded | None:
        return attempts.recover_recorded(session, claim, continues, slot)

    if batch is None and isinstance(outcome, Succeeded):
        call = partial(attempts.record_success, claim=claim, outcome=outcome, **more)
        return database.call_with_retry(call, within=_RECORD_WITHIN, recover=recover)

    def record(session: Session, batch: OutputBatch | None = batch) -> Recorded:
        if batch is not None:
            writer.write_output(session, claim.source, batch)
            if has_progress:
                writer.record_progress(session, claim.source, batch)
        return attempts.record_outcome(session, claim, outcome, **more)

    try:
        return database.run_with_retry(record, within=_RECORD_WITHIN, recover=recover)
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
            partial(record, batch=None), within=_RECORD_WITHIN, recover=recover
        )


def _file_saver(claim: Claim) -> FileSaver:
    """Saves the files of an attempt as artifacts."""

    def save(spec: FileSpec, content: Content) -> SavedFile:
        try:
            with detached():
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


def _call(handler: Handler, claim: Claim, stop: StopFlag, output: AttemptOutput) -> Outcome:
    """Render the templates and call the handler, if the step's condition holds.

    Templates see references, not secrets, and what they read of results is never one.
    """
    results = claim.results
    if claim.spilled:
        results = {**results, **artifacts.read_results(database, _store(), claim.spilled)}
    if hidden := list(hidden_texts(claim.spec.get("hides"), claim.params)):
        output.hide(Mask(hidden))  # in the errors of templates, too
    resolver = Resolver(partial(_read_secret, claim))
    params, arguments = resolver.seal(claim.params), resolver.seal(claim.spec.get("with", {}))
    names = _template_names(claim, params, results)
    when = claim.spec.get("when")
    if when is not None and not templates.evaluate(when, names):
        return Skipped()
    arguments = templates.render(arguments, names)
    params, arguments = resolver.reveal(params), resolver.reveal(arguments)
    if resolver.values:
        output.hide(Mask([*hidden, *resolver.values]))
    policy = claim.spec.get("retry")
    context = StepContext(
        run_id=str(claim.run_id),
        workflow=claim.workflow,
        step=claim.key,
        attempt=claim.attempt,
        retries=claim.retries,
        max_retries=policy and policy["attempts"] - 1,
        run=names["run"],
        params=params,
        args=arguments,
        results=results,
        idempotency_key=str(claim.step_id),
        cancelled=stop.is_set,
        log=logging.getLogger(handler.name),
        recorder=output.recorder,
    )
    return Succeeded(handler(context))


def _read_secret(claim: Claim, name: str) -> str:
    """A secret of the claim's tenant. Raises SecretMissing and SecretUnavailable."""
    with detached():  # what a vault logs is not for the run
        return secret_sources().read(_tenant_name(claim.tenant_id), name)


@cache
def _tenant_name(tenant_id: UUID) -> str:
    def read(session: Session) -> str:
        return tenants.get_tenant(session, tenant_id, tenant_id).name

    return database.run_with_retry(read, within=_RECORD_WITHIN)


def _template_names(
    claim: Claim, params: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    """The names that templates may use."""
    return {
        "params": params,
        "steps": {key: {"result": result} for key, result in results.items()},
        "run": _run(claim),
    }


def _run(claim: Claim) -> dict[str, Any]:
    """The run as templates and handlers see it; `logical_date` in RFC 3339."""
    date = claim.run["logical_date"]
    logical_date = date and date.isoformat().replace("+00:00", "Z")
    fields = {**claim.run, "logical_date": logical_date}
    return {"id": str(claim.run_id), "attempt": claim.attempt, **fields}


def _flower_status(recorded: Recorded) -> str:
    """End the Celery task with the status that Flower shows for the step's state."""
    message = (recorded.error or {}).get("message", "")
    if recorded.state == StepState.FAILED:
        raise StepFailed(message)
    if recorded.state == StepState.WAITING:
        raise Retry(message)
    if recorded.state not in (StepState.SUCCEEDED, StepState.SKIPPED):
        raise Ignore
    return str(recorded.state)
