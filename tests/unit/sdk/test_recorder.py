"""What a handler reports is collected, bounded and drained in batches."""

import time
from datetime import date
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest

from orchestrator import StepContext
from orchestrator.sdk.files import FileSpec, chunks, content_size, guess_media_type
from orchestrator.sdk.recorder import LAST_LINES_KEPT, Recorder
from orchestrator.sdk.reports import merge_data, merge_warnings


def texts(recorder: Recorder, *, last: bool = False) -> list[str]:
    batch = recorder.drain(last=last)
    return [line.text for line in batch.lines] if batch else []


def test_a_steps_test_sees_what_the_step_reported() -> None:
    context = StepContext()

    context.progress(3, 4, stage="reading", message="nearly")
    context.metric("rows", 7)
    context.warn("odd", type="quality")
    context.data(series={date(2021, 7, 1): ["a"]}, curves={"2021-07-01": ["b", "b"]})
    saved = context.save("a.csv", "x,y\n", kind="report", records=1, accuracy=0.9)

    latest = context.recorder.latest
    assert (latest.percent, latest.stage, latest.message) == (75, "reading", "nearly")
    assert latest.metrics == {"rows": 7}
    assert merge_warnings(latest) == [{"type": "quality", "message": "odd", "count": 1}]
    assert merge_data(latest) == {"series": {"2021-07-01": ["a"]}, "curves": {"2021-07-01": ["b"]}}
    spec, content = context.recorder.saved["a.csv"]
    assert (spec.kind, spec.records, spec.extra) == ("report", 1, {"accuracy": 0.9})
    assert content == b"x,y\n"
    assert saved.size == 4


def test_contexts_share_no_output() -> None:
    StepContext().metric("rows", 7)

    assert StepContext().recorder.latest.metrics == {}


def test_nothing_is_no_batch_and_all_is_drained_once() -> None:
    recorder = Recorder()

    assert recorder.drain() is None
    recorder.log(20, "one")
    assert texts(recorder) == ["one"]
    assert recorder.drain() is None
    assert recorder.drain(last=True) is None


def test_a_restored_batch_is_drained_again_before_what_is_new() -> None:
    recorder = Recorder()
    recorder.log(20, "one")
    recorder.metric("rows", 1)
    batch = recorder.drain()
    assert batch is not None
    recorder.restore(batch)
    recorder.log(20, "two")

    again = recorder.drain()

    assert again is not None
    assert (again.first, [line.text for line in again.lines]) == (0, ["one", "two"])
    assert again.metrics == {"rows": 1}
    assert recorder.drain() is None


def test_times_are_strictly_increasing() -> None:
    recorder = Recorder()
    for _ in range(1000):
        recorder.log(20, "x")

    batch = recorder.drain()

    assert batch is not None
    times = [line.time_ns for line in batch.lines]
    assert len(set(times)) == 1000
    assert times == sorted(times)


def test_over_the_limit_the_first_and_last_lines_are_kept_and_the_gap_is_marked() -> None:
    recorder = Recorder(lines=5)
    for number in range(1_000):
        recorder.log(20, str(number))
    first = recorder.drain()
    last = recorder.drain(last=True)

    assert first is not None
    assert last is not None
    assert [line.text for line in first.lines] == ["0", "1", "2", "3", "4"]
    assert first.dropped == last.dropped == 1_000 - 5 - LAST_LINES_KEPT
    marker, *tail = last.lines
    assert marker.text.startswith("… 895 lines were left out")
    assert [line.text for line in tail] == [str(number) for number in range(900, 1_000)]
    assert first.lines[-1].time_ns < marker.time_ns < tail[0].time_ns
    assert last.first == 5


def test_a_few_lines_over_the_limit_are_all_kept() -> None:
    recorder = Recorder(lines=5)
    for number in range(8):
        recorder.log(20, str(number))

    assert texts(recorder, last=True) == [str(number) for number in range(8)]


def test_a_log_of_very_long_lines_is_bounded_too() -> None:
    recorder = Recorder()
    for _ in range(4_000):
        recorder.log(20, "x" * 100_000)

    batch = recorder.drain(last=True)

    assert batch is not None
    assert max(len(line.text) for line in batch.lines) == 8_001
    assert sum(len(line.text) for line in batch.lines) < 18 * 1024 * 1024
    assert batch.dropped > 0


@pytest.mark.parametrize(
    ("done", "total", "percent"),
    [(1, 3, 33), (299, 300, 99), (5, 4, 100), (-1, 4, 0), (0, 0, 100), (0.5, 1, 50),
     (float("nan"), 1, None), (float("inf"), float("inf"), None), (Decimal(1), 4, 25)],
)  # fmt: skip
def test_progress_is_a_share_of_the_total(done: Any, total: Any, percent: int | None) -> None:
    context = StepContext()
    context.progress(done, total)

    assert context.recorder.latest.percent == percent


def test_what_is_left_out_of_progress_stays() -> None:
    context = StepContext()
    context.progress(1, 2, stage="reading")
    context.progress(stage="writing")
    context.progress(message="soon")

    latest = context.recorder.latest
    assert (latest.percent, latest.stage, latest.message) == (50, "writing", "soon")


@pytest.mark.parametrize(("value", "kept"), [(7, 7), (1.5, 1.5), (True, 1), (Decimal("2.5"), 2.5),
                                             (2**80, float(2**80))])  # fmt: skip
def test_any_number_is_a_metric(value: Any, kept: float) -> None:
    context = StepContext()
    context.metric("n", value)

    assert context.recorder.latest.metrics == {"n": kept}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400], ids=["nan", "inf", "huge"])
def test_a_number_that_json_does_not_have_is_left_out_with_a_warning(value: Any) -> None:
    context = StepContext()
    context.metric("n", value)

    assert context.recorder.latest.metrics == {}
    assert context.recorder.warned == 1


@pytest.mark.parametrize("value", ["7", b"7", None, [1]])
def test_what_is_no_number_is_no_metric(value: Any) -> None:
    with pytest.raises(TypeError):
        StepContext().metric("n", value)


def test_everything_is_bounded() -> None:
    recorder = Recorder()
    for number in range(1_000):
        recorder.metric(f"m{number}", number)
        recorder.warn(f"warning {number}")
    recorder.data(series={"2021-07-01": (str(number) for number in range(20_000))})

    latest = recorder.latest
    assert len(latest.metrics) == 200
    assert len(latest.warnings) <= 101
    assert sum(latest.warnings.values()) == recorder.warned > 1_000
    assert len(latest.data["series"]["2021-07-01"]) == 10_000


def test_only_the_first_change_after_a_drain_is_announced() -> None:
    announced: list[int] = []
    recorder = Recorder(on_news=lambda: announced.append(1))

    for _ in range(10):
        recorder.log(20, "x")
        recorder.metric("n", 1)
    recorder.drain()
    recorder.warn("more")

    assert len(announced) == 2


def test_a_hundred_thousand_calls_take_little_time() -> None:
    context = StepContext()
    began = time.perf_counter()
    for number in range(100_000):
        context.progress(number, 100_000)
        context.metric("n", number)

    assert time.perf_counter() - began < 10  # 0.4 s on a slow machine that is at rest


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""}, {"name": "  "}, {"name": "a/b"}, {"name": "a\\b"}, {"name": ".."},
        {"name": "a\nb"}, {"name": "a\x00"}, {"name": "\ud800"}, {"name": "x" * 201},
        {"name": 7}, {"name": "result.json"}, {"name": "a", "kind": "picture"},
        {"name": "a", "records": -1}, {"name": "a", "media_type": "text"},
        {"name": "a", "media_type": "text/html\r\nX: y"}, {"name": "a", "title": "x" * 501},
        {"name": "a", "extra": {"when": date(2021, 7, 1)}},
        {"name": "a", "extra": {"x": "y" * 20_000}},
    ],
    ids=repr,
)  # fmt: skip
def test_an_invalid_file_is_refused_before_it_is_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has another message
        FileSpec(**wrong)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.csv", "text/csv"), ("a.PNG", "image/png"), ("a.json", "application/json"),
     ("a.csv.gz", "application/gzip"), ("a.html", "text/html"), ("a", "application/octet-stream"),
     ("a.nosuch", "application/octet-stream"), ("Ü.pdf", "application/pdf")],
)  # fmt: skip
def test_the_media_type_is_guessed_by_the_name(name: str, media_type: str) -> None:
    assert guess_media_type(name) == media_type
    assert FileSpec(name=name, media_type="Image/X-Own").shown_type == "image/x-own"


def test_content_is_read_in_chunks() -> None:
    large = b"x" * (3 * 1024 * 1024 + 1)

    assert [len(chunk) for chunk in chunks(large)] == [1024 * 1024] * 3 + [1]
    assert [len(chunk) for chunk in chunks(BytesIO(large))] == [1024 * 1024] * 3 + [1]
    assert (content_size(large), content_size("é"), content_size(BytesIO(large))) == (
        len(large),
        2,
        None,
    )
    assert b"".join(chunks("half \ud800")) == b"half ?"


@pytest.mark.parametrize("content", [[1, 2], ["text"], 7, None])
def test_what_holds_no_bytes_is_refused(content: Any) -> None:
    with pytest.raises(TypeError):
        list(chunks(content))
