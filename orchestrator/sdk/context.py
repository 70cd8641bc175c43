"""The context that a handler receives."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.sdk.files import Content, FileSpec, SavedFile
from orchestrator.sdk.recorder import IdsByDate, Recorder


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a handler receives, and through which it reports progress and output.

    Every field has a default, so a test can construct one; `recorder` has what the step reported.
    """

    run_id: str = ""
    workflow: str = ""
    step: str = ""  # the step's key
    attempt: int = 1
    retries: int = 0  # attempts before this one that failed, since the last retry of the run
    max_retries: int | None = None  # by the step's retry policy, if it has one
    # Its id, number, trigger, logical_date, variables, event_variables, run_as and environment.
    run: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)  # of the run
    args: Mapping[str, Any] = field(default_factory=dict)  # the step's `with`, templates filled in
    results: Mapping[str, Any] = field(default_factory=dict)  # by key, of the steps it needs
    idempotency_key: str = ""  # the same at every attempt, for calls to other systems
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
        """Report that `done` of `total` is done; omitted arguments keep their last value."""
        self.recorder.progress(done, total, stage, message)

    def metric(self, name: str, value: float) -> None:
        """Set a number that is displayed with the step and its run."""
        self.recorder.metric(name, value)

    def warn(self, text: str, type: str = "warning") -> None:
        """Report a warning; the step goes on."""
        self.recorder.warn(text, type)

    def data(
        self,
        *,
        curves: IdsByDate | None = None,
        series: IdsByDate | None = None,
        message: str | None = None,
    ) -> None:
        """Report which curves and series were written: ids by date; `message` sums it up."""
        self.recorder.data(curves, series)
        if message is not None:
            self.progress(message=message)

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
        """Save a file of the run: bytes, text, a path, an open file, or chunks of bytes.

        `kind` is report, data, model or visualization; the media type is guessed from the name.
        The same name again replaces the file. Raises ValueError for an invalid file and FailStep
        for one over the size limit.
        """
        spec = FileSpec(
            name=name,
            kind=kind,
            title=title,
            primary=primary,
            records=records,
            media_type=media_type,
            extra=extra,
        )
        return self.recorder.save(spec, content)
