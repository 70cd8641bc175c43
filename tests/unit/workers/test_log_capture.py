"""A handler's output is captured into its own log, and into no other."""

import _thread
import io
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import copy_context
from threading import Barrier, Event, Thread, Timer

import pytest

from orchestrator.sdk.masking import Mask
from orchestrator.sdk.recorder import Recorder
from workers.isolation import log_capture
from workers.isolation.log_capture import MemorySink


@contextmanager
def capture_output(recorder: Recorder) -> Iterator[None]:
    """An attempt with this recorder."""
    sink = MemorySink(recorder)
    with log_capture.capture_output(sink, "run/step#1"):
        yield
    sink.end()


@contextmanager
def original_streams() -> Iterator[io.StringIO]:
    """The original streams in one buffer, with the capture installed over them."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with redirect_stdout(stream), redirect_stderr(stream):
        root.handlers[:] = [logging.StreamHandler()]
        root.setLevel(logging.INFO)
        log_capture.install_capture()
        log_capture.install_capture()
        try:
            yield stream
        finally:
            root.handlers[:] = before[0]
            root.setLevel(before[1])


def lines_of(recorder: Recorder) -> list[tuple[int, str]]:
    return [(line.level, line.text) for line in recorder.lines]


def test_everything_printed_and_logged_inside_is_captured() -> None:
    recorder = Recorder()
    with original_streams() as original:
        print("before")  # noqa: T201
        with capture_output(recorder):
            print("one\ntwo\r\nthree", end="")  # noqa: T201
            print(" and a half")  # noqa: T201
            print("wrong", file=sys.stderr)  # noqa: T201
            logging.getLogger("acme").info("logged %d", 7)
            sys.stdout.buffer.write(b"\xff raw\n")
            print("no end", end="")  # noqa: T201
        print("after")  # noqa: T201

    assert lines_of(recorder) == [
        (20, "one"), (20, "two"), (20, "three and a half"), (30, "wrong"), (20, "logged 7"),
        (20, "\ufffd raw"), (20, "no end"),
    ]  # fmt: skip
    assert original.getvalue() == "before\nafter\n"


def test_a_traceback_goes_with_its_record() -> None:
    recorder = Recorder()
    with original_streams(), capture_output(recorder):
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("acme").exception("it failed")

    ((level, text),) = lines_of(recorder)
    assert level == logging.ERROR
    assert text.startswith("it failed\nTraceback")
    assert text.endswith("ValueError: broken")


def test_records_of_our_own_code_that_a_handler_calls_are_not_captured() -> None:
    recorder = Recorder()
    with original_streams() as original, capture_output(recorder):
        logging.getLogger("sqlalchemy.of_the_user").warning("the handler's")
        with log_capture.detached():
            logging.getLogger("orchestrator.db.database").warning("postgres is away")

    assert lines_of(recorder) == [(30, "the handler's")]
    assert original.getvalue() == "postgres is away\n"


def test_a_record_is_captured_once_whatever_handlers_its_logger_has() -> None:
    recorder = Recorder()
    library = logging.getLogger("library_with_a_handler")
    with original_streams(), capture_output(recorder):
        library.addHandler(logging.StreamHandler())
        library.addHandler(logging.StreamHandler(sys.stdout))
        library.addHandler(logging.StreamHandler(io.TextIOWrapper(sys.stderr.buffer)))
        library.addHandler(logging.StreamHandler(sys.__stderr__))
        library.info("once")
        library.propagate = False
        library.warning("alone")
    library.handlers.clear()

    assert lines_of(recorder) == [(20, "once"), (30, "alone")]


def test_the_streams_are_real_ones() -> None:
    recorder = Recorder()
    with original_streams(), capture_output(recorder):
        sys.stdout.reconfigure(encoding="latin-1", errors="replace")  # type: ignore[attr-defined]
        for byte in "pieces: ü €\n".encode():
            sys.stderr.buffer.write(bytes([byte]))
        print("surrogate \udc80", file=sys.stderr)  # noqa: T201
        sys.stdout.close()
        sys.stderr.detach()  # type: ignore[attr-defined]
    with original_streams(), capture_output(recorder):
        print("next ü")  # noqa: T201

    assert [text for _, text in lines_of(recorder)] == [
        "pieces: ü €", "surrogate ?", "next ü",
    ]  # fmt: skip


def test_a_record_that_cannot_be_written_breaks_nothing() -> None:
    recorder = Recorder()
    with original_streams(), capture_output(recorder):
        logging.getLogger("acme").info("%d", "no number")

    assert any("no number" in text for _, text in lines_of(recorder))


def test_handlers_in_threads_are_captured_apart() -> None:
    together = Barrier(4)

    def handle(number: int) -> list[tuple[int, str]]:
        recorder = Recorder()
        with capture_output(recorder):
            for _ in range(50):
                together.wait(10)
                print(number)  # noqa: T201
        return lines_of(recorder)

    with original_streams() as original, ThreadPoolExecutor(4) as pool:
        captured = list(pool.map(handle, range(4)))

    assert captured == [[(20, str(number))] * 50 for number in range(4)]
    assert original.getvalue() == ""


def test_a_thread_of_a_handler_is_captured_unless_detached() -> None:
    recorder = Recorder()

    def nobody() -> None:
        log_capture.detach_thread()
        print("ours")  # noqa: T201

    with original_streams() as original, capture_output(recorder):
        for target in (lambda: print("theirs"), nobody):  # noqa: T201
            thread = Thread(target=target)
            thread.start()
            thread.join()

    assert lines_of(recorder) == [(20, "theirs")]
    assert original.getvalue() == "ours\n"


Leftover = Callable[[], object]  # lets what a handler left behind proceed


def printing() -> Leftover:
    """A thread that prints when the next handler runs."""
    return in_thread(lambda: print("left"))  # noqa: T201


def logging_() -> Leftover:
    """A thread that logs when the next handler runs."""
    return in_thread(lambda: logging.getLogger("acme").warning("left"))


def in_thread(work: Callable[[], object]) -> Leftover:
    proceed = Event()

    def run() -> None:
        proceed.wait(10)
        work()

    thread = Thread(target=run)
    thread.start()

    def release() -> None:
        proceed.set()
        thread.join(10)

    return release


def starting_another() -> Leftover:
    """A thread that starts one that prints, as a timer does that sets itself again."""

    def start() -> None:
        other = Timer(0, lambda: print("left"))  # noqa: T201
        other.start()
        other.join(10)

    return in_thread(start)


def started_without_threading() -> Leftover:
    """A thread that `threading` does not know."""
    proceed, gone = Event(), Event()

    def run() -> None:
        proceed.wait(10)
        print("left")  # noqa: T201
        gone.set()

    _thread.start_new_thread(run, ())

    def release() -> None:
        proceed.set()
        assert gone.wait(10)

    return release


def pooled() -> Leftover:
    """A pool whose thread still has work to do."""
    pool, proceed = ThreadPoolExecutor(1), Event()
    pool.submit(proceed.wait, 10)
    done = pool.submit(print, "left")

    def release() -> None:
        proceed.set()
        done.result(10)
        pool.shutdown()

    return release


def wrapped() -> Leftover:
    """A wrapped stream with output in its buffer."""
    sys.stdout = kept = io.TextIOWrapper(sys.stdout.buffer)
    print("mine", flush=True)  # noqa: T201
    print("left", file=kept)
    kept.flush = lambda: None  # type: ignore[method-assign]
    return lambda: io.TextIOWrapper.flush(kept)


def wrapped_and_not_flushed() -> Leftover:
    """Wrapped streams with output in their buffers, flushed when the handler ends."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, io.TextIOWrapper(getattr(sys, name).buffer))
    print("mine")  # noqa: T201
    print("mine", file=sys.stderr)  # noqa: T201
    return lambda: None


def in_its_context() -> Leftover:
    """A call that keeps the context of the handler."""
    context = copy_context()
    return lambda: context.run(print, "left")


def of_its_own_stream() -> Leftover:
    """A logger that writes to the handler's bytes."""
    handler = logging.StreamHandler(io.TextIOWrapper(sys.stderr.buffer, write_through=True))
    return lambda: handler.emit(logging.makeLogRecord({"msg": "left"}))


@pytest.mark.parametrize(
    "leave",
    [
        printing, logging_, starting_another, started_without_threading, pooled, wrapped,
        wrapped_and_not_flushed, in_its_context, of_its_own_stream,
    ],
)  # fmt: skip
def test_output_of_a_leftover_is_never_captured_for_the_next_handler(
    leave: Callable[[], Leftover],
) -> None:
    first, second, third = Recorder(), Recorder(), Recorder()
    with original_streams() as original:
        with capture_output(first):
            proceed = leave()
        with capture_output(second):
            print("next")  # noqa: T201
            assert type(sys.stdout) is type(sys.stderr) is log_capture._Stream
            proceed()
            print("and last")  # noqa: T201
        with capture_output(third):
            print("other")  # noqa: T201

    assert {text for _, text in lines_of(first)} <= {"mine"}
    assert lines_of(second) == [(20, "next"), (20, "and last")]
    assert lines_of(third) == [(20, "other")]
    if leave is not wrapped_and_not_flushed:
        assert original.getvalue() in ("left\n", "output after the end of its attempt\n")


def test_a_thread_that_a_thread_of_a_pool_starts_belongs_to_its_handler() -> None:
    def handle(number: int) -> list[tuple[int, str]]:
        recorder = Recorder()
        with capture_output(recorder):
            thread = Thread(target=print, args=(number,))
            thread.start()
            thread.join()
        return lines_of(recorder)

    with original_streams(), ThreadPoolExecutor(4) as pool:
        captured = list(pool.map(handle, range(4)))

    assert captured == [[(20, str(number))] for number in range(4)]


def test_output_after_the_end_is_logged_with_its_attempt(caplog: pytest.LogCaptureFixture) -> None:
    with original_streams():
        logging.getLogger().addHandler(caplog.handler)
        with capture_output(Recorder()):
            stream = sys.stdout.buffer
        stream.write(b"late\n")

    (record,) = caplog.records
    assert record.message == "output after the end of its attempt"
    assert vars(record)["output_of"] == "run/step#1"
    assert vars(record)["text"] == "late"


@pytest.mark.parametrize("say", [
    lambda: print("late hush-token"),  # noqa: T201
    lambda: logging.getLogger("acme").warning("late %s", ["hush-token"]),
    lambda: logging.getLogger("acme").warning("late %d", "hush-token"),
    lambda: logging.getLogger("acme").warning("late", exc_info=ValueError("hush-token")),
])  # fmt: skip
def test_what_a_thread_says_after_its_step_is_masked_in_the_workers_log(
    say: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    recorder, go = Recorder(), Event()
    recorder.mask = Mask(["hush-token"])

    def late() -> None:
        go.wait(10)
        say()

    with original_streams() as original:
        logging.getLogger().addHandler(caplog.handler)
        with capture_output(recorder):
            thread = Thread(target=late)
            thread.start()
        go.set()
        thread.join()
        written = original.getvalue()

    texts = [written, *(str(vars(record).get("text")) for record in caplog.records)]
    assert "hush" not in str(texts)
    assert "***" in str(texts) or "cannot be formatted" in written
