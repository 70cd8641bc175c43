"""Where a handler's words go: into its own log, and nobody else's."""

import io
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from threading import Barrier, Thread

from orchestrator.recorder import Recorder
from workers import capture
from workers.capture import capturing


@contextmanager
def plain() -> Iterator[io.StringIO]:
    """What goes where it went before; `capture` is installed over it."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with redirect_stdout(stream), redirect_stderr(stream):
        root.handlers[:] = [logging.StreamHandler()]
        root.setLevel(logging.INFO)
        capture.install()
        capture.install()
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
        with capturing(recorder):
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
    with plain(), capturing(recorder):
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
    with plain() as elsewhere, capturing(recorder):
        logging.getLogger("orchestrator.db").warning("postgres is away")

    assert said(recorder) == []
    assert elsewhere.getvalue() == "postgres is away\n"


def test_a_record_that_cannot_be_written_breaks_nothing() -> None:
    recorder = Recorder()
    with plain(), capturing(recorder):
        logging.getLogger("acme").info("%d", "no number")

    assert any("no number" in text for _, text in said(recorder))


def test_handlers_in_threads_do_not_hear_each_other() -> None:
    together = Barrier(4)

    def handle(number: int) -> list[tuple[int, str]]:
        recorder = Recorder()
        with capturing(recorder):
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
        capture.be_nobody()
        print("ours")  # noqa: T201

    with plain() as elsewhere, capturing(recorder):
        for target in (lambda: print("theirs"), nobody):  # noqa: T201
            thread = Thread(target=target)
            thread.start()
            thread.join()

    assert said(recorder) == [(20, "theirs")]
    assert elsewhere.getvalue() == "ours\n"
