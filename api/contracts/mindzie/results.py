"""The addresses of a job's results and log."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Response, json, request, stream_with_context
from sqlalchemy.orm import Session

from api.capacity import gate
from api.contracts.mindzie.errors import NotInThisState
from api.contracts.mindzie.mapping import (
    LogEntryView,
    LogsView,
    OutputView,
    ResultsView,
)
from api.contracts.mindzie.requests import MAX_LINES, LogsQuery, ResultsQuery
from api.contracts.mindzie.responses import LogEntry, Logs, Results
from api.contracts.mindzie.surface import JOB, blueprint, failed_stage, get_job
from api.contracts.mindzie.vocabulary import LEVELS, OUTPUT_FILTERS, OUTPUT_TYPES, is_preserved
from api.toolkit import downloads
from api.toolkit.context import tenant, transaction
from orchestrator import runs
from orchestrator.errors import NotFound
from orchestrator.models import Artifact, ArtifactKind, Run
from orchestrator.outputs import artifacts, logs, summaries
from orchestrator.outputs.logs import LogFilter
from orchestrator.states import FINAL_RUNS, RunState

_MAX_OUTPUTS = 1000  # of one job
_LOG_ENTRY = LogEntry()
_REPORT = Results(exclude=("results",))


@blueprint.route(f"{JOB}/results", resources="runs artifacts")
@blueprint.arguments(ResultsQuery, location="query")
@blueprint.response(200, Results)
@blueprint.binary()
def results(query: dict[str, Any], project_id: UUID, job_id: UUID) -> ResultsView | Response:
    """Get the results of a job that has ended

    `summary` has the numbers and the outputs, `detailed` also what the job took and how good its
    results are, `download` is the bytes of the primary output, or a zip archive of several.
    """
    with transaction() as session:
        run = get_job(session, project_id, job_id)
        if run.state not in FINAL_RUNS:
            raise NotInThisState("job_not_finished", run)
        output = summaries.summaries_of_runs(session, [run])[run.id]
        outputs = _outputs(session, run)
        stage = failed_stage(session, run)
    kind = OUTPUT_FILTERS.get(query.get("output_type", ""))
    shown = [row for row in outputs if kind in (None, row.kind)]
    results = ResultsView(
        run=run,
        output=output,
        failed_stage=stage,
        outputs=[OutputView(row, _url(row, query)) for row in shown],
        output_count=len(outputs),
        detailed=query["format"] == "detailed",
    )
    report = None
    if run.state == RunState.SUCCEEDED and not outputs and kind in (None, ArtifactKind.REPORT):
        report = json.dumps(_REPORT.dump(replace(results, detailed=True)), indent=2).encode()
    if query["format"] == "download":
        return _download_report(run, report) if report else _download(run, shown)
    return replace(results, report=_report_view(query, run, report) if report else None)


@blueprint.route(f"{JOB}/logs", resources="runs outputs")
@blueprint.arguments(LogsQuery, location="query")
@blueprint.response(200, Logs)
@blueprint.alt_response(200, schema={"type": "string"}, content_type="text/plain", success=True)
def log(query: dict[str, Any], project_id: UUID, job_id: UUID) -> LogsView | Response:
    """Read the log of a job, the first lines first

    `raw` is text, a line each. More than 10,000 lines are not given.
    """
    filters = LogFilter(
        level=LEVELS[query["level"]], since=query.get("from_time"), until=query.get("to_time")
    )
    limit = min(query["limit"], MAX_LINES)
    with transaction() as session:
        run = get_job(session, project_id, job_id)
        lines = logs.log_lines(session, tenant(), run.id, filters, limit=limit)
        truncated = logs.is_truncated(session, tenant(), run.id, filters)
        names = {step.key: step.name for step in runs.steps(session, run)}
    entries = [LogEntryView(line, names.get(line.step, line.step)) for line in lines]
    if query["format"] == "raw":
        return _text(entries)
    return LogsView(run, entries, truncated)


def _outputs(session: Session, run: Run) -> Sequence[Artifact]:
    """The files of a job; none of a cancelled one whose outputs were not to be preserved."""
    if run.state == RunState.CANCELLED and not is_preserved(run.annotations):
        return []
    rows = artifacts.of_run(session, tenant(), run.id, limit=_MAX_OUTPUTS)
    return [row for row in rows if row.kind in OUTPUT_TYPES]


def _url(row: Artifact, query: dict[str, Any]) -> str | None:
    return downloads.signed_address(row, absolute=True) if query["include_artifacts"] else None


def _report_view(query: dict[str, Any], run: Run, report: bytes) -> OutputView:
    row = Artifact(
        kind=ArtifactKind.REPORT,
        name=f"{run.id}.json",
        title=run.name or run.workflow,
        size=len(report),
        extra={},
    )
    url = f"{request.base_url}?format=download"
    return OutputView(row, url if query["include_artifacts"] else None)


def _download_report(run: Run, report: bytes) -> Response:
    response = Response(report, mimetype="application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="{run.id}.json"'
    return response


def _download(run: Run, outputs: Sequence[Artifact]) -> Response:
    """The primary outputs, or all outputs if none is primary."""
    files = [row for row in outputs if row.primary] or outputs
    if not files:
        raise NotFound(f"the job {run.id} has no output to download")
    if len(files) == 1:
        return downloads.send_artifact(files[0])
    leave = gate.current().hold_stream()
    response = Response(stream_with_context(_zip_chunks(files)), mimetype="application/zip")
    response.call_on_close(leave)
    response.headers["Content-Disposition"] = f'attachment; filename="{run.id}.zip"'
    return response


def _zip_chunks(files: Sequence[Artifact]) -> Iterator[bytes]:
    """The bytes of a zip archive, produced while they are sent."""
    buffer, names = _Buffer(), set[str]()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in files:
            # A file whose name is taken goes into a folder named after its step.
            name = f"{file.step}/{file.name}" if file.name in names else file.name
            names.add(file.name)
            with archive.open(name, "w", force_zip64=True) as entry:
                for chunk in downloads.artifact_chunks(file):
                    entry.write(chunk)
                    yield buffer.drain()
    yield buffer.drain()


class _Buffer(io.RawIOBase):
    """A file to write to; `drain` removes and returns what was written."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, chunk: Any) -> int:
        self._bytes += chunk
        return len(chunk)

    def drain(self) -> bytes:
        chunk, self._bytes = bytes(self._bytes), bytearray()
        return chunk


def _text(entries: Sequence[LogEntryView]) -> Response:
    lines = [
        f"{each['timestamp']} {each['level']:<5} {each['stage']}: {each['message']}\n"
        for each in _LOG_ENTRY.dump(entries, many=True)
    ]
    response = Response("".join(lines), content_type="text/plain; charset=utf-8")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
