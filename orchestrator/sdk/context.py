"""All that a handler is given, and all that it can report while it works."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.sdk.files import Content, FileSpec, SavedFile
from orchestrator.sdk.recorder import IdsByDate, Recorder


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """All that a handler is given, and all that it can say while it works.

    Every field has a default, so a test makes its own, and `recorder` shows it what was said.
    """

    run_id: str = ""
    workflow: str = ""
    step: str = ""  # the step's key
    attempt: int = 1
    # Its id, number, trigger, logical_date, variables, event_variables, run_as and environment.
    run: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)  # of the run
    args: Mapping[str, Any] = field(default_factory=dict)  # the step's `with`, templates filled in
    results: Mapping[str, Any] = field(default_factory=dict)  # by key, of the steps it needs
    idempotency_key: str = ""  # the same at every attempt, for calls to the outside world
    cancelled: Callable[[], bool] = lambda: False  # whether the step should stop
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("step"))
    recorder: Recorder = field(default_factory=Recorder)

    def progress(
        self,
        done: float | None = None,
        total: float = 1,
        *,
        stage: str | None = None,
        message: str | None = None,
    ) -> None:
        """Say that so much of the total is done; what is left out stays as it was."""
        self.recorder.progress(done, total, stage, message)

    def metric(self, name: str, value: float) -> None:
        """Set a number that is shown with the step and its run."""
        self.recorder.metric(name, value)

    def warn(self, text: str, type: str = "warning") -> None:
        """Say that something is not as it should be, though the step goes on."""
        self.recorder.warn(text, type)

    def data(self, *, curves: IdsByDate | None = None, series: IdsByDate | None = None) -> None:
        """Say which curves and series were written: ids by date."""
        self.recorder.data(curves, series)

    def save(
        self,
        name: str,
        content: Content,
        *,
        kind: str = "data",
        title: str = "",
        primary: bool = False,
        records: int | None = None,
        media_type: str = "",
        **extra: Any,
    ) -> SavedFile:
        """Save a file of the run: bytes, text, a path, an open file, or pieces of bytes.

        `kind` is report, data, model or visualization; the media type is guessed by the name.
        The same name again replaces the file. Raises ValueError for what cannot be kept and
        FailStep for more bytes than one file may have.
        """
        draft = FileSpec(
            name=name,
            kind=kind,
            title=title,
            primary=primary,
            records=records,
            media_type=media_type,
            extra=extra,
        )
        return self.recorder.save(draft, content)
