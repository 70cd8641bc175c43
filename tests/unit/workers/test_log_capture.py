"""Where a handler's words go: into its own log, and nobody else's."""

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

from orchestrator.sdk.recorder import Recorder
from workers import log_capture
from workers.log_capture import capture_output


@contextmanager
def plain() -> Iterator[io.StringIO]:
    """What goes where it went before; `capture` is installed over it."""
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


def said(recorder: Recorder) -> list[tuple[int, str]]:
    return [(line.level, line.text) for line in recorder.lines]


def test_all_that_is_printed_and_logged_inside_is_the_handlers() -> None:
    recorder = Recorder()
    with plain() as elsewhere:
        print("before")  # noqa: T201
        with capture_output(recorder):
            print("one\ntwo\r\nthree", end="")  # noqa: T201
            print(" and a half")  # noqa: T201
            print("wrong", file=sys.stderr)  # noqa: T201
            logging.getLogger("acme").info("logged %d", 7)
            sys.stdout.buffer.write(b"\xff raw\n")
            print("no end", end="")  # noqa: T201
        print("after")  # noqa: T201

    assert said(recorder) == [
        (20, "one"), (20, "two"), (20, "three and a half"), (30, "wrong"), (20, "logged 7"),
        (20, "\ufffd raw"), (20, "no end"),
    ]  # fmt: skip
    assert elsewhere.getvalue() == "before\nafter\n"


def test_a_traceback_goes_with_its_record() -> None:
    recorder = Recorder()
    with plain(), capture_output(recorder):
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("acme").exception("it failed")

    ((level, text),) = said(recorder)
    assert level == logging.ERROR
    assert text.startswith("it failed\nTraceback")
    assert text.endswith("ValueError: broken")


def test_what_we_say_of_our_own_work_stays_with_the_operator() -> None:
    recorder = Recorder()
    with plain() as elsewhere, capture_output(recorder):
        logging.getLogger("orchestrator.db.database").warning("postgres is away")

    assert said(recorder) == []
    assert elsewhere.getvalue() == "postgres is away\n"


def test_a_record_that_cannot_be_written_breaks_nothing() -> None:
    recorder = Recorder()
    with plain(), capture_output(recorder):
        logging.getLogger("acme").info("%d", "no number")

    assert any("no number" in text for _, text in said(recorder))


def test_handlers_in_threads_do_not_hear_each_other() -> None:
    together = Barrier(4)

    def handle(number: int) -> list[tuple[int, str]]:
        recorder = Recorder()
        with capture_output(recorder):
            for _ in range(50):
                together.wait(10)
                print(number)  # noqa: T201
        return said(recorder)

    with plain() as elsewhere, ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(handle, range(4)))

    assert heard == [[(20, str(number))] * 50 for number in range(4)]
    assert elsewhere.getvalue() == ""


def test_a_thread_of_a_handler_that_is_alone_is_heard() -> None:
    recorder = Recorder()

    def nobody() -> None:
        log_capture.detach_thread()
        print("ours")  # noqa: T201

    with plain() as elsewhere, capture_output(recorder):
        for target in (lambda: print("theirs"), nobody):  # noqa: T201
            thread = Thread(target=target)
            thread.start()
            thread.join()

    assert said(recorder) == [(20, "theirs")]
    assert elsewhere.getvalue() == "ours\n"


Left = Callable[[], object]  # what a step has left behind, told to go on


def printing() -> Left:
    """A thread that prints when the next handler runs."""
    return in_thread(lambda: print("left"))  # noqa: T201


def logging_() -> Left:
    """A thread that logs then."""
    return in_thread(lambda: logging.getLogger("acme").warning("left"))


def in_thread(work: Callable[[], object]) -> Left:
    go_on = Event()

    def run() -> None:
        go_on.wait(10)
        work()

    thread = Thread(target=run)
    thread.start()

    def release() -> None:
        go_on.set()
        thread.join(10)

    return release


def starting_another() -> Left:
    """A thread that starts one that prints, as a timer does that sets itself again."""

    def start() -> None:
        other = Timer(0, lambda: print("left"))  # noqa: T201
        other.start()
        other.join(10)

    return in_thread(start)


def started_without_threading() -> Left:
    """A thread of which `threading` does not know."""
    go_on, gone = Event(), Event()

    def run() -> None:
        go_on.wait(10)
        print("left")  # noqa: T201
        gone.set()

    _thread.start_new_thread(run, ())

    def release() -> None:
        go_on.set()
        assert gone.wait(10)

    return release


def pooled() -> Left:
    """A pool whose thread still has work to do."""
    pool, go_on = ThreadPoolExecutor(1), Event()
    pool.submit(go_on.wait, 10)
    done = pool.submit(print, "left")

    def release() -> None:
        go_on.set()
        done.result(10)
        pool.shutdown()

    return release


def wrapped() -> Left:
    """A wrapped stream that keeps back what was printed."""
    sys.stdout = kept = io.TextIOWrapper(sys.stdout.buffer)
    print("mine", flush=True)  # noqa: T201
    print("left", file=kept)
    kept.flush = lambda: None  # type: ignore[method-assign]
    return lambda: io.TextIOWrapper.flush(kept)


def wrapped_and_not_flushed() -> Left:
    """A wrapped stream that nobody flushed: what it keeps is written at the handler's end."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, io.TextIOWrapper(getattr(sys, name).buffer))
    print("mine")  # noqa: T201
    print("mine", file=sys.stderr)  # noqa: T201
    return lambda: None


def in_its_context() -> Left:
    """A call that keeps the context of the handler."""
    context = copy_context()
    return lambda: context.run(print, "left")


def of_its_own_stream() -> Left:
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
def test_what_a_handler_leaves_behind_is_never_given_to_the_next_one(
    leave: Callable[[], Left],
) -> None:
    first, second, third = Recorder(), Recorder(), Recorder()
    with plain() as elsewhere:
        streams = sys.stdout, sys.stderr
        with capture_output(first):
            go_on = leave()
        with capture_output(second):
            print("next")  # noqa: T201
            assert (sys.stdout, sys.stderr) == streams
            go_on()
            print("and last")  # noqa: T201
        with capture_output(third):
            print("other")  # noqa: T201

    assert {text for _, text in said(first)} <= {"mine"}
    assert said(second) == [(20, "next"), (20, "and last")]
    assert said(third) == [(20, "other")]
    if leave is not wrapped_and_not_flushed:
        assert elsewhere.getvalue() == "left\n"


def test_a_thread_that_a_thread_of_a_pool_starts_belongs_to_its_handler() -> None:
    def handle(number: int) -> list[tuple[int, str]]:
        recorder = Recorder()
        with capture_output(recorder):
            thread = Thread(target=print, args=(number,))
            thread.start()
            thread.join()
        return said(recorder)

    with plain(), ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(handle, range(4)))

    assert heard == [[(20, str(number))] for number in range(4)]
