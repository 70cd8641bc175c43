"""The addresses of what a job left and said: results and logs."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import Response, stream_with_context
from sqlalchemy.orm import Session

from api.contracts.mindzie import mapping, result_mapping
from api.contracts.mindzie.errors import NotInThisState
from api.contracts.mindzie.fields import Moment
from api.contracts.mindzie.requests import LogsAsked, ResultsAsked
from api.contracts.mindzie.responses import LogsShown, ResultsShown
from api.contracts.mindzie.surface import JOB, blueprint, stage_failed, the_job
from api.contracts.mindzie.vocabulary import (
    LEVELS,
    OUTPUT_FILTERS,
    OUTPUT_TYPES,
    STATES,
    is_preserved,
    level_of,
)
from api.toolkit import downloads as files
from api.toolkit.context import settings, tenant, transaction
from orchestrator import runs
from orchestrator.errors import NotFound
from orchestrator.models import Artifact, LogLine, Run
from orchestrator.outputs import artifacts, logs, summaries
from orchestrator.outputs.logs import LogFilter
from orchestrator.states import FINAL_RUNS, RunState

_MOST = 1000  # outputs of one job
_STAMP = Moment()


@blueprint.route(f"{JOB}/results")
@blueprint.arguments(ResultsAsked, location="query")
@blueprint.response(200, ResultsShown)
def show(query: dict[str, Any], tenant_id: UUID, project_id: UUID, job_id: UUID) -> Any:
    """Get the results of a job that has ended

    `summary` has the numbers and the outputs, `detailed` also what the job took and how good its
    results are, `download` is the bytes of the primary output, or a zip archive of several.
    """
    with transaction() as session:
        run = the_job(session, project_id, job_id)
        if run.state not in FINAL_RUNS:
            raise NotInThisState("job_not_finished", run)
        said = summaries.summaries_of_runs(session, [run])[run.id]
        made = _outputs(session, run)
        stage = stage_failed(session, run)
    wanted = OUTPUT_FILTERS.get(query.get("output_type", ""))
    shown = [each for each in made if wanted in (None, each.kind)]
    if query["format"] == "download":
        return _download(run, shown)
    with_urls = query["include_artifacts"]
    found = result_mapping.results(run, said, len(made), shown, with_urls=with_urls)
    if query["format"] != "detailed":
        return found
    return found | result_mapping.details(
        run, said, stage, has_mail_server=bool(settings().smtp_url)
    )


@blueprint.route(f"{JOB}/logs")
@blueprint.arguments(LogsAsked, location="query")
@blueprint.response(200, LogsShown)
def log(query: dict[str, Any], tenant_id: UUID, project_id: UUID, job_id: UUID) -> Any:
    """Read the log of a job, the first lines first

    `raw` is text, a line each. More than 10,000 lines are not given.
    """
    which = LogFilter(
        level=LEVELS[query["level"]], since=query.get("from_time"), until=query.get("to_time")
    )
    with transaction() as session:
        run = the_job(session, project_id, job_id)
        lines = logs.log_lines(session, tenant(), run.id, which, limit=query["limit"])
        truncated = logs.is_truncated(session, tenant(), run.id, which)
        names = {step.key: step.name for step in runs.steps(session, run)}
    entries = [_entry(line, names.get(line.step, line.step)) for line in lines]
    if query["format"] == "raw":
        return _text(entries)
    return {
        "job_id": run.id,
        "job_name": mapping.name_of(run),
        "job_status": STATES[run.state],
        "logs_summary": {**_counts(entries), "truncated": truncated},
        "logs": entries,
    }


def _outputs(session: Session, run: Run) -> Sequence[Artifact]:
    """The files that a job made, but not those of a cancelled one that were not to be kept."""
    if run.state == RunState.CANCELLED and not is_preserved(run.annotations):
        return []
    found = artifacts.of_run(session, tenant(), run.id, limit=_MOST)
    return [each for each in found if each.kind in OUTPUT_TYPES]


def _download(run: Run, shown: Sequence[Artifact]) -> Response:
    wanted = result_mapping.to_download(shown)
    if not wanted:
        raise NotFound(f"the job {run.id} has no output to download")
    if len(wanted) == 1:
        return files.send_artifact(wanted[0])
    answer = Response(
        stream_with_context(result_mapping.zipped(wanted)), mimetype="application/zip"
    )
    answer.headers["Content-Disposition"] = f'attachment; filename="{run.id}.zip"'
    return answer


def _entry(line: LogLine, stage: str) -> mapping.Shape:
    return {
        "timestamp": datetime.fromtimestamp(line.time_ns // 10**9, UTC),
        "level": level_of(line.level),
        "component": line.step,
        "stage": stage,
        "message": line.text,
        "details": {"attempt": line.attempt},
    }


def _counts(entries: Sequence[mapping.Shape]) -> mapping.Shape:
    found = Counter(entry["level"] for entry in entries)
    return {
        "total_entries": len(entries),
        "debug_count": found["DEBUG"],
        "info_count": found["INFO"],
        "warning_count": found["WARN"],
        "error_count": found["ERROR"],
    }


def _text(entries: Sequence[mapping.Shape]) -> Response:
    lines = [
        f"{_STAMP.serialize('timestamp', each)} {each['level']:<5} {each['stage']}:"
        f" {each['message']}\n"
        for each in entries
    ]
    answer = Response("".join(lines), content_type="text/plain; charset=utf-8")
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer
