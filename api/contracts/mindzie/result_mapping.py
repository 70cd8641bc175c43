"""What a job left, in the shape of results."""

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from api.contracts.mindzie import formatting
from api.contracts.mindzie.mapping import Shape, count, error_of, number, seconds_of, unsent_mail
from api.contracts.mindzie.vocabulary import OUTPUT_TYPES, STATES
from api.toolkit import downloads
from orchestrator.models import Artifact, Run
from orchestrator.outputs.summaries import RunOutput
from orchestrator.states import RunState


def results(
    run: Run, said: RunOutput, made: int, outputs: Sequence[Artifact], *, with_urls: bool
) -> Shape:
    """What a job that has ended left: `outputs` is what is shown of the files that it made."""
    success = run.state == RunState.SUCCEEDED
    primary = primary_of(outputs) if success else None
    others = [each for each in outputs if each is not primary]
    return {
        "job_id": run.id,
        "status": STATES[run.state],
        "completion_time": run.finished_at,
        "total_duration": formatting.duration(seconds_of(run)),
        "success": success,
        "summary": {
            "records_processed": count(said, "processed"),
            "outputs_generated": made,
            **_scores(run, said),
        },
        "results": {
            "primary_output": _output(primary, with_urls=with_urls) if primary else None,
            "additional_outputs": [_output(each, with_urls=with_urls) for each in others],
        },
    }


def details(run: Run, said: RunOutput, stage_failed: str | None, *, has_mail_server: bool) -> Shape:
    """What the detailed form has besides."""
    used = said.usage
    failed = STATES[run.state] == "Failed"
    return {
        "execution_metrics": {
            "total_cpu_time": formatting.duration(used.get("cpu_seconds", 0)),
            "peak_memory_usage": formatting.size(used.get("peak_memory_bytes", 0)),
            "disk_io_operations": int(used.get("io_operations", 0)),
            "network_data_transfer": formatting.size(count(said, "network")),
        },
        "quality_metrics": {
            "data_validation": _validation(said),
            "processing_errors": [error_of(run, stage_failed)] if failed else [],
            "warnings": said.warnings + unsent_mail(run, has_mail_server=has_mail_server),
        },
    }


def primary_of(outputs: Sequence[Artifact]) -> Artifact | None:
    """The first output that its step calls primary, else the first one."""
    return next((each for each in outputs if each.primary), next(iter(outputs), None))


def to_download(outputs: Sequence[Artifact]) -> Sequence[Artifact]:
    """The primary outputs, or all when none is called so."""
    return [each for each in outputs if each.primary] or outputs


def zipped(files: Sequence[Artifact]) -> Iterator[bytes]:
    """A zip archive of the files, made while it is read."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, file in zip(_names(files), files, strict=True):
            with archive.open(name, "w", force_zip64=True) as entry:
                for piece in downloads.artifact_chunks(file):
                    entry.write(piece)
                    yield pipe.taken()
    yield pipe.taken()


class _Pipe(io.RawIOBase):
    """What is written to it can be taken once."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def write(self, piece: Any) -> int:
        self._waiting += piece
        return len(piece)

    def taken(self) -> bytes:
        found, self._waiting = bytes(self._waiting), bytearray()
        return found


def _names(files: Iterable[Artifact]) -> Iterator[str]:
    """Their names; of two steps' files of one name the later is in the folder of its step."""
    seen: set[str] = set()
    for file in files:
        yield f"{file.step}/{file.name}" if file.name in seen else file.name
        seen.add(file.name)


def _output(row: Artifact, *, with_urls: bool) -> Shape:
    kind, _, suffix = row.name.rpartition(".")
    shown: Shape = {
        "type": OUTPUT_TYPES[row.kind],
        "title": row.title,
        "format": (suffix if kind else row.media_type.rpartition("/")[2]).upper(),
        "size": formatting.size(row.size),
    }
    if with_urls:
        shown["download_url"] = downloads.signed_address(row, absolute=True)
    if row.records is not None:
        shown["record_count"] = row.records
    accuracy = row.extra.get("accuracy")
    if isinstance(accuracy, int | float) and not isinstance(accuracy, bool):
        shown["accuracy"] = accuracy
    return shown


def _validation(said: RunOutput) -> Shape:
    processed = count(said, "processed")
    total = max(processed, count(said, "total"))
    invalid = count(said, "invalid", count(said, "errors"))
    duplicates = count(said, "duplicates")
    return {
        "total_records": total,
        "valid_records": count(said, "valid", total - invalid - duplicates),
        "duplicates_removed": duplicates,
        "invalid_records": invalid,
    }


def _scores(run: Run, said: RunOutput) -> Shape:
    """Both from 0 to 100, as handlers said or as it can be told from what they did."""
    found = _validation(said)
    valid = found["valid_records"] / found["total_records"] if found["total_records"] else 1.0
    seconds = seconds_of(run)
    busy = said.usage.get("cpu_seconds", 0) / seconds if seconds else 0.0
    quality, efficiency = number(said, "quality"), number(said, "efficiency")
    return {
        "data_quality_score": round(min(1.0, valid) * 100, 1) if quality is None else quality,
        "processing_efficiency": round(min(1.0, busy) * 100, 1)
        if efficiency is None
        else efficiency,
    }
