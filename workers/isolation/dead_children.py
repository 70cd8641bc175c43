"""What the parent of a worker does for a child that died: its output, and its orphans."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from orchestrator.sdk.masking import Mask
from orchestrator.sdk.recorder import Recorder
from orchestrator.sdk.reports import AttemptRef, OutputBatch
from workers.isolation import log_capture, processes, sealing
from workers.isolation.output_file import OutputReader, Position, ref_from_text

_PREFIX = "orchestrator-worker-"  # and the process id of the parent
_REGISTERED_WITHIN = 0.5  # seconds from the start of a child until its pool knows it
_FORGET_AFTER = 60.0  # seconds; by then Celery has reported the loss of its task

LastOutput = tuple[AttemptRef, OutputBatch]

_log = logging.getLogger(__name__)


class OutputFolder:
    """The folder with the output files of a worker's children."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.parent = os.getpid()
        self._dead_since: dict[int, float] = {}

    def create(self) -> None:
        """Create it, for the worker whose parent is this process."""
        _remove_abandoned()
        self.parent = os.getpid()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{self.parent}-"))

    def unread_output(self, pid: int, task_id: str, lines: int) -> LastOutput | None:
        """The attempt of a task that a dead child executed, and its last output, if there is any.

        `lines` is the limit of a log.
        """
        assert self.path
        with _opened(self.path / f"{pid}.out") as file:
            position = _position(self.path / f"{pid}.state")
            if file is None or position is None or position.task_id != task_id:
                return None
            recorder = Recorder(lines, counts=position.counts)
            recorder.mask = mask = _mask(position)
            reader = OutputReader(file, position.offset, position.incomplete, mask)
            reader.read_into(recorder, last=True)
        recorder.repeat()
        batch = recorder.drain(last=True)
        assert batch is not None
        return ref_from_text(position.source), batch

    def remove_dead(self, alive: Collection[int]) -> None:
        """Remove the files of children that ended some time ago; log what they wrote last."""
        now = time.monotonic()
        for path in self.path.glob("*.out") if self.path else ():
            pid = int(path.stem)
            if pid in alive:
                continue
            if now - self._dead_since.setdefault(pid, now) < _FORGET_AFTER:
                continue
            self._report_late_output(path)
            self.forget(pid)

    def forget(self, pid: int) -> None:
        """Remove the files of a dead child."""
        self._dead_since.pop(pid, None)
        if self.path:
            for suffix in ("out", "state"):
                (self.path / f"{pid}.{suffix}").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder at the end of the worker."""
        if self.path:
            shutil.rmtree(self.path, ignore_errors=True)

    def _report_late_output(self, path: Path) -> None:
        position = _position(path.with_suffix(".state"))
        with _opened(path) as file:
            if file is None or position is None or position.task_id or not position.source:
                return
            source, mask = ref_from_text(position.source), _mask(position)
            reader = OutputReader(file, position.offset, mask=mask)
            for piece in reader.read(os.fstat(file).st_size):
                log_capture.report_late_output(source.name, mask.text(piece.text))


def end_orphans(children: Callable[[], Collection[int]]) -> None:
    """End the processes that dead children left behind: the parent has adopted them.

    `children` returns the process ids of the pool.
    """
    orphans = psutil.Process().children()
    if len(orphans) > len(children()):
        time.sleep(_REGISTERED_WITHIN)
    known = children()
    for orphan in orphans:
        if orphan.pid in known:
            continue
        with suppress(psutil.Error):
            names = processes.end_processes([*orphan.children(recursive=True), orphan])
            if names:
                _log.warning("processes of a dead child ended", extra={"processes": names})


def _position(path: Path) -> Position | None:
    try:
        with path.open() as file:
            return Position(**json.loads(file.readline()))
    except (OSError, ValueError, TypeError):  # a step can write to it
        return None


def _mask(position: Position) -> Mask:
    """What a child has hidden in the output of its attempt."""
    return Mask(sealing.unseal(position.hidden) if position.hidden else ())


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


def _remove_abandoned() -> None:
    """Remove the folders of workers that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(OSError):
            if path.stat().st_uid == os.getuid() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(path, ignore_errors=True)
