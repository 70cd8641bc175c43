"""Handlers that the e2e and chaos tests run on real workers."""

import ctypes
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.asynchronous import get_event_loop

from orchestrator import RetryStep, StepCancelled, StepContext, step

app = Celery("existing", broker="memory://")


@app.task(name="existing.add")
def add(left: int, right: int) -> int:
    """A task of an existing Celery application."""
    return left + right


@step
def hang(context: StepContext) -> None:
    """Write its process id, then sleep for ten minutes."""
    _say(context, f"{os.getpid()}")
    time.sleep(600)


@step
def hang_once(context: StepContext) -> dict[str, Any]:
    """Hang at the first attempt only."""
    _say(context, f"{context.attempt} {os.getpid()}")
    if context.attempt == 1:
        time.sleep(600)
    return {"attempt": context.attempt, "key": context.idempotency_key}


@step
def note(context: StepContext) -> None:
    """Append the step and its attempt to the file `notes`, in one write."""
    with Path(context.params["notes"]).open("ab", buffering=0) as file:
        file.write(f"{context.idempotency_key} {context.attempt}\n".encode())


@step
def hang_until(context: StepContext) -> None:
    """Wait until the file `go` exists."""
    _say(context, f"{os.getpid()}")
    while not Path(context.params["go"]).exists():
        time.sleep(0.05)


@step
def stubborn(context: StepContext) -> None:
    """Catch the order to stop, and continue."""
    _say(context, f"{os.getpid()}")
    while True:
        try:
            time.sleep(600)
        except StepCancelled:
            continue


@step
def tidy(context: StepContext) -> None:
    """Clean up on the order to stop."""
    _say(context, f"{os.getpid()}")
    try:
        time.sleep(600)
    except StepCancelled as order:
        _say(context, f"cleaned up after {type(order).__name__}")
        raise


@step
def wait_politely(context: StepContext) -> None:
    """Poll for cancellation, as a handler in a thread has to."""
    _say(context, "waiting")
    while not context.cancelled():
        time.sleep(0.05)
    raise StepCancelled("seen")


@step
def let_go(context: StepContext) -> dict[str, Any]:
    """React to the order to stop as `how` says; return at once at a second attempt."""
    how = context.args["how"]
    _say(context, f"{how} {context.attempt} {os.getpid()}")
    while context.attempt == 1:
        try:
            if how == "command":
                subprocess.run(("sleep", "600"), check=True)
            while how == "stubborn" or not context.cancelled():
                time.sleep(0.05)
            raise StepCancelled("seen")
        except StepCancelled as order:
            if how == "finish":
                break
            if how == "break":
                raise ValueError("the connection is gone") from order
            if how != "stubborn":
                raise
    return {"attempt": context.attempt}


@step
def stop_the_world(context: StepContext) -> None:
    """Block the event loop of the worker in whose thread this runs."""
    get_event_loop().call_soon(threading.Event().wait)


@step
def kill_worker(context: StepContext) -> None:
    """Kill its own process at every attempt."""
    _say(context, f"{context.attempt}")
    os.kill(os.getpid(), signal.SIGKILL)


@step
def hold_interpreter(context: StepContext) -> float:
    """Hold the GIL for longer than a lease, as a bad extension may."""
    _say(context, f"{os.getpid()}")
    began = time.monotonic()
    ctypes.PyDLL(None).usleep(4_000_000)  # PyDLL keeps the interpreter's lock
    return time.monotonic() - began


@step
def flaky(context: StepContext) -> dict[str, int]:
    """Raise RetryStep at the first two attempts."""
    if context.attempt <= 2:
        raise RetryStep("not yet")
    return {"attempt": context.attempt}


@step
def when(context: StepContext) -> dict[str, float]:
    """Return the time."""
    return {"at": time.time()}


@step
def talk(context: StepContext) -> None:
    """Produce output of every kind; wait for the file `go` half way."""
    context.progress(1, 2, stage="first half", message="so far so good")
    context.log.info("logged by %s", "the context")
    logging.getLogger("acme.own").error("logged by the module")
    print("printed")  # noqa: T201
    print("begun", end="")  # noqa: T201
    context.metric("rows", 7)
    thread = threading.Thread(target=print, args=("printed by a thread",))
    while not Path(context.params["go"]).exists():
        time.sleep(0.02)
    print(" and ended", file=sys.stdout)  # noqa: T201
    thread.start()
    thread.join()
    context.warn("odd", "quality")
    context.progress(2, 2, stage="second half")


@step
def flood(context: StepContext) -> None:
    """Print a million lines, and some that are not UTF-8."""
    sys.stdout.buffer.write(b"no \xff UTF-8\n")
    print("half \ud800, NUL \x00")  # noqa: T201
    for number in range(1_000_000):
        print(number)  # noqa: T201


@step
def call_in_a_loop(context: StepContext) -> None:
    """Produce output of every kind a hundred thousand times."""
    for number in range(100_000):
        context.progress(number, 100_000, stage="looping")
        context.metric("n", number)
        context.warn("again")
        context.log.info("line %d", number)


@step
def make_large(context: StepContext) -> dict[str, str]:
    """Return more than fits into a row."""
    return {"text": "é" * 300_000}


@step
def measure_large(context: StepContext) -> dict[str, int]:
    """Return the size of the result of the step before, by result and by template."""
    return {"read": len(context.results["s"]["text"]), "filled": len(context.args["text"])}


@step
def save_too_much(context: StepContext) -> None:
    """Save two gigabytes."""
    with Path(context.params["say"]).open("wb") as sparse:
        sparse.truncate(2 * 1024**3)
    context.save("large.bin", Path(context.params["say"]))


@step
def analyse(context: StepContext) -> None:
    """Count records, save two files, and fail if `fails` is set."""
    context.progress(1, 2, stage="Analysing", message="half of it")
    context.metric("recordsProcessed", 12500)
    context.metric("totalRecords", 25000)
    context.save("report.html", "<p>42</p>", kind="report", title="Report", primary=True)
    context.save("cleaned.csv", "id\n1\n", records=1, accuracy=0.97)
    if context.params.get("fails"):
        raise ValueError("the source is locked")


def _say(context: StepContext, line: str) -> None:
    """Append a line to the file named by the run's `say`."""
    with Path(context.params["say"]).open("a") as file:
        file.write(f"{line}\n")


@step
def linger(context: StepContext) -> None:
    """Leave a thread that prints and starts others, and output that was never flushed."""

    def say(times: int) -> None:
        print(f"left behind, {times}")  # noqa: T201
        logging.getLogger("linger").error("left behind")
        if times:
            threading.Timer(0.02, say, [times - 1]).start()

    threading.Thread(target=say, args=[100]).start()
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer)
    print("wrapped", end="")  # noqa: T201


@step
def say_three(context: StepContext) -> None:
    """Print three lines, with time between them."""
    for number in range(3):
        print(number)  # noqa: T201
        time.sleep(0.1)


@step
def spill(context: StepContext) -> dict[str, Any]:
    """Leave a secret in everything that a step can leave, and end as `how` says."""
    secret, how = context.args["secret"], context.args["how"]
    context.progress(1, 2, stage=secret, message=f"with {secret}")
    context.warn(f"warned of {secret}", secret)
    context.metric(secret, 1)
    context.data(series={"2026-01-01": [secret]})
    context.save("note.txt", f"a file with {secret}", title=secret, note=secret)
    context.log.info("logged %s", secret)
    logging.getLogger("acme.own").error("logged by the module: %s", [secret])
    print(f"printed {secret}", file=sys.stderr)  # noqa: T201
    print("." * 15_990 + secret, flush=True)  # noqa: T201
    os.write(1, f"from C: {secret}\n".encode())
    command = ["/bin/sh", "-c", 'echo "by a program: $SECRET"']
    subprocess.run(command, env={"SECRET": secret}, check=True)
    if how == "raise":
        raise ValueError(f"refused: {secret}", secret)
    if how == "retry":
        raise RetryStep(f"again with {secret}")
    if how == "die":
        print(f"the last words: {secret}", end="", flush=True)  # noqa: T201
        os.kill(os.getpid(), signal.SIGKILL)
    return {"length": len(secret), secret: [secret, f"in {secret}"], "params": context.params}


@step
def work_until(context: StepContext) -> None:
    """Use a processor until the file `go` exists."""
    _say(context, f"{os.getpid()}")
    while not Path(context.params["go"]).exists():
        sum(range(10_000))
