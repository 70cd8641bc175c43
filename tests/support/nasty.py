"""Steps that leave their process as no step should, and an innocent one that comes after them."""

import ctypes
import gc
import io
import locale
import logging
import logging.config
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from orchestrator import FailStep, StepContext, step
from orchestrator.sdk.steps import Handler

SECRET_NAMES = ("ORCHESTRATOR_ADMIN_KEY", "ORCHESTRATOR_SECRET_KEY", "FLOWER_BASIC_AUTH")


@step(name="innocent")
def innocent(context: StepContext) -> dict[str, Any]:
    """Print and log some lines, and return all that a neighbour may have changed."""
    print("printed")  # noqa: T201
    print("to stderr", file=sys.stderr)  # noqa: T201
    logging.getLogger("innocent").info("logged")
    subprocess.run(["echo", "by a program"], check=True)
    os.write(1, b"by a descriptor\n")
    time.sleep(float(context.args.get("seconds", 0)))
    return {
        "descriptors": [os.readlink(f"/proc/self/fd/{n}").rpartition(".")[2] for n in (0, 1, 2)],
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "umask": _umask(),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [
            str(signal.getsignal(number))
            for number in (signal.SIGALRM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE)
        ],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "filters": len(warnings.filters),
        "excepthook": sys.excepthook is sys.__excepthook__,
        "streams": [type(sys.stdout).__name__, type(sys.stderr).__name__, sys.stdin.read()],
        "logging": [logging.root.level, logging.root.manager.disable, len(logging.root.handlers)],
        "threads": threading.active_count(),
        "children": len(psutil.Process().children()),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "timeout": socket.getdefaulttimeout(),
        "recursion": sys.getrecursionlimit(),
        "collects": gc.isenabled(),
        "patched": socket.socket.__module__,
        "path": "/nasty" in sys.path,
    }


@step(name="talks")
def talks(_: StepContext) -> None:
    """Print and log some lines."""
    print("printed")  # noqa: T201
    print("to stderr", file=sys.stderr)  # noqa: T201
    logging.getLogger("innocent").info("logged")


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


nasties: dict[str, Handler] = {}


def nasty(function: Callable[[StepContext], Any]) -> Handler:
    """Register a nasty step by its name."""
    handler = step(name=f"nasty.{function.__name__}")(function)
    nasties[function.__name__] = handler
    globals()[f"handler_{function.__name__}"] = handler
    return handler


PROGRAMS = ("sleep 777", "sleep 778", "bash -c trap", "bash -c sleep 777")
WAYS = ("printed", "logged", "by C", "by a program")
LOSE_OUTPUT = {"overwrites_its_files"}  # it wipes the file of its own output


@step(name="nasty.with_a_token")
def with_a_token(context: StepContext) -> Any:
    """Write the token in four ways, and then be nasty."""
    token = context.args["token"]
    print(token, "printed")  # noqa: T201
    logging.getLogger("innocent").warning("%s logged", token)
    ctypes.CDLL(None).puts(f"{token} by C".encode())
    subprocess.run(["echo", f"{token} by a program"], check=True)
    name = context.args["name"]
    return None if name == "innocent" else nasties[name](context)


# --- what stays behind in the process -------------------------------------------------


@nasty
def configures_logging(_: StepContext) -> None:
    logging.basicConfig(force=True, level=logging.CRITICAL, filename=os.devnull)


@nasty
def configures_logging_by_dictionary(_: StepContext) -> None:
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True, "root": {}})


@nasty
def disables_logging(_: StepContext) -> None:
    logging.disable(logging.CRITICAL)


@nasty
def silences_a_logger(_: StepContext) -> None:
    logger = logging.getLogger("innocent")
    logger.disabled, logger.propagate = True, False
    logger.addFilter(lambda _: False)


@nasty
def replaces_streams(_: StepContext) -> None:
    sys.stdout, sys.stderr = io.StringIO(), open(os.devnull, "w")  # noqa: SIM115
    sys.stdin = io.StringIO("left behind")


@nasty
def wraps_streams(_: StepContext) -> None:
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer)
    print("kept in a buffer", end="")  # noqa: T201
    sys.modules["kept"] = sys.stdout  # type: ignore[assignment]


@nasty
def closes_streams(_: StepContext) -> None:
    for stream in (sys.stdout, sys.stderr, sys.stdin, sys.__stdout__, sys.__stderr__):
        assert stream
        stream.close()


@nasty
def closes_buffers(_: StepContext) -> None:
    sys.stdout.buffer.close()
    sys.stderr.detach()  # type: ignore[attr-defined]
    sys.stdout.reconfigure(encoding="utf-16")  # type: ignore[attr-defined]


@nasty
def closes_descriptors(_: StepContext) -> None:
    for number in (0, 1, 2):
        os.close(number)


@nasty
def closes_all_descriptors(_: StepContext) -> None:
    os.closerange(0, 60)


@nasty
def closes_every_descriptor(_: StepContext) -> None:
    os.closerange(0, 4096)


@nasty
def changes_directory(_: StepContext) -> None:
    os.makedirs("/tmp/nasty-folder", exist_ok=True)
    os.chdir("/tmp/nasty-folder")
    os.rmdir("/tmp/nasty-folder")


@nasty
def changes_environment(_: StepContext) -> None:
    os.environ["NASTY"] = "1"
    os.environ.pop("PATH", None)
    os.environ["TZ"] = "Pacific/Chatham"


@nasty
def clears_environment(_: StepContext) -> None:
    os.environ.clear()


@nasty
def replaces_environment(_: StepContext) -> None:
    os.environ = {"NASTY": "1"}  # type: ignore[assignment]  # noqa: B003


@nasty
def changes_umask(_: StepContext) -> None:
    os.umask(0o777)


@nasty
def changes_locale(_: StepContext) -> None:
    locale.setlocale(locale.LC_ALL, "C")


@nasty
def changes_signal_handlers(_: StepContext) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@nasty
def restores_default_signals(_: StepContext) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@nasty
def blocks_signals(_: StepContext) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@nasty
def sets_an_alarm(_: StepContext) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    signal.setitimer(signal.ITIMER_PROF, 1)


@nasty
def ignores_warnings(_: StepContext) -> None:
    warnings.simplefilter("error")


@nasty
def sets_hooks(_: StepContext) -> None:
    sys.excepthook = lambda *_: os._exit(7)
    sys.unraisablehook = lambda _: os._exit(7)
    threading.excepthook = lambda _: os._exit(7)
    sys.settrace(lambda *_: None)
    sys.path.insert(0, "/nasty")


@nasty
def changes_limits(_: StepContext) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
    sys.setrecursionlimit(150)
    socket.setdefaulttimeout(0.01)
    gc.disable()


@nasty
def patches_a_function(_: StepContext) -> None:
    time.sleep = lambda _: None  # type: ignore[assignment]


@nasty
def patches_a_class(_: StepContext) -> None:
    socket.socket = type("socket", (socket.socket,), {})  # type: ignore[misc]


@nasty
def patches_everything(_: StepContext) -> None:
    from gevent import monkey

    monkey.patch_all()


@nasty
def leaves_a_thread(_: StepContext) -> None:
    def run() -> None:
        while True:
            print("from a thread of nobody")  # noqa: T201
            time.sleep(0.05)

    threading.Thread(target=run, daemon=True).start()


@nasty
def leaves_a_zombie(_: StepContext) -> None:
    subprocess.Popen(["true"])
    time.sleep(0.1)


@nasty
def leaves_memory(_: StepContext) -> None:
    sys.modules["leaked"] = bytearray(b"x" * 500 * 2**20)  # type: ignore[assignment]


@nasty
def leaves_files_open(_: StepContext) -> None:
    sys.modules["files"] = [open(os.devnull) for _ in range(150)]  # type: ignore[assignment]  # noqa: SIM115


@nasty
def becomes_a_session(_: StepContext) -> None:
    os.setpgid(0, 0)


# --- what is printed ------------------------------------------------------------------


@nasty
def prints_by_a_c_library(_: StepContext) -> None:
    ctypes.CDLL(None).puts(b"by C")


@nasty
def prints_by_a_shell(_: StepContext) -> None:
    os.system("echo by a shell; echo to stderr >&2")


@nasty
def prints_and_exits(_: StepContext) -> None:
    print("last words")  # noqa: T201
    os._exit(3)


@nasty
def prints_and_crashes(_: StepContext) -> None:
    print("last words")  # noqa: T201
    ctypes.string_at(0)


@nasty
def prints_and_is_killed(_: StepContext) -> None:
    logging.getLogger("nasty").warning("last words")
    os.kill(os.getpid(), signal.SIGKILL)


@nasty
def overwrites_its_files(_: StepContext) -> None:
    for path in Path(tempfile.gettempdir()).glob(f"orchestrator-worker-*/{os.getpid()}.*"):
        path.write_text('{"message": "nonsense"}\n')
    os.kill(os.getpid(), signal.SIGKILL)


@nasty
def has_a_library_with_a_handler(_: StepContext) -> None:
    logger = logging.getLogger("library")
    logger.addHandler(logging.StreamHandler())
    logger.warning("once")


@nasty
def prints_gigabytes(_: StepContext) -> None:
    os.system("head -c 300000000 /dev/zero | tr '\\0' 'x' | fold -w 1000")


# --- how it fails ---------------------------------------------------------------------


class Recursive(Exception):
    """Its attributes recurse."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self, name + "_")

    def __str__(self) -> str:
        return str(self.text)


class WithNotes(Exception):
    """Its notes raise."""

    @property
    def __notes__(self) -> list[str]:
        raise ValueError("no notes")


class NoText(FailStep):
    """It has no text."""

    def __str__(self) -> str:
        raise SystemExit(5)


class Unpicklable(Exception):
    """It holds what cannot be sent to another process."""

    def __init__(self) -> None:
        super().__init__("unpicklable")
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("no")


class Sleepy(Exception):
    """Its text takes longer than the step may."""

    def __str__(self) -> str:
        print("it hangs")  # noqa: T201
        time.sleep(60)
        return "slow"


def _nested(depth: int) -> BaseException:
    error: Exception = ValueError("innermost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


FAILURES: dict[str, Callable[[], BaseException]] = {
    "Recursive": Recursive,
    "WithNotes": lambda: WithNotes("with notes"),
    "SyntaxError": lambda: SyntaxError("m", ("f", 3, "x", "t")),  # type: ignore[arg-type]
    "FailStep": lambda: NoText("never shown"),
    "RuntimeError": lambda: RuntimeError("x" * 100_000_000),
    "ExceptionGroup": lambda: _nested(1000),
    "Unpicklable": Unpicklable,
    "SystemExit": lambda: SystemExit(4),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "\ud800\x00"),
}


def _failing(name: str) -> Callable[[StepContext], Any]:
    def fail(_: StepContext) -> None:
        raise FAILURES[name]()

    fail.__name__ = f"raises_{name}"
    return fail


for _name in FAILURES:
    nasty(_failing(_name))


@nasty
def returns_a_liar(_: StepContext) -> Any:
    class Liar(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("no items")

    return Liar(a=1)


# --- what it starts -------------------------------------------------------------------


@nasty
def leaves_programs(_: StepContext) -> None:
    subprocess.Popen(["bash", "-c", "sleep 777 & setsid sleep 778 & wait"])
    time.sleep(0.2)


def starts_programs_and_hangs(_: StepContext) -> None:
    """Start a program that has a daemon, and wait for it."""
    command = "sleep 777 & setsid sleep 778 & echo it hangs; wait"
    subprocess.run(["bash", "-c", command], check=True)


def resists_and_hangs(_: StepContext) -> None:
    """Ignore and block every signal, and hang."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.alarm(0)
    print("it hangs")  # noqa: T201
    while True:
        time.sleep(10)


def uses_the_alarm_and_hangs(_: StepContext) -> None:
    """Use the alarm for itself, and hang."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(1)
    signal.alarm(0)
    print("it hangs")  # noqa: T201
    while True:
        time.sleep(0.1)


def prints_and_hangs(_: StepContext) -> None:
    """Print through a program, and hang."""
    os.system("echo by a shell")
    print("by Python")  # noqa: T201
    time.sleep(60)


def has_a_text_that_hangs(_: StepContext) -> None:
    """Raise an exception whose text takes too long."""
    raise Sleepy


HANGING = {
    each.__name__: step(name=f"nasty.{each.__name__}")(each)
    for each in (
        starts_programs_and_hangs, resists_and_hangs, uses_the_alarm_and_hangs,
        has_a_text_that_hangs, prints_and_hangs,
    )
}  # fmt: skip
globals().update({f"handler_{name}": handler for name, handler in HANGING.items()})


@nasty
def leaves_a_stubborn_program(_: StepContext) -> None:
    subprocess.Popen(["bash", "-c", "trap '' TERM; while true; do sleep 0.1; done"])
    time.sleep(0.2)


@nasty
def forks_and_both_return(_: StepContext) -> int:
    return os.fork()


@nasty
def forks_and_the_child_raises(_: StepContext) -> None:
    if os.fork() == 0:
        raise RuntimeError("in the copy")
    time.sleep(0.2)


@nasty
def uses_spawned_processes(_: StepContext) -> list[float]:
    values: list[float] = []
    for method in ("spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            values += pool.map(abs, [-1.0])
    return values


@nasty
def uses_multiprocessing(_: StepContext) -> list[float]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        values = pool.map(abs, [-1.0, 2.0])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        values.append(executor.submit(abs, -3.0).result(20))
    manager = multiprocessing.Manager()
    shared = manager.list(values)
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(777,)).start()
    return list(shared)
