"""The state of a child process that a step may change, and how it is put back.

`ProcessState` is read once, before the first step. After each step what differs is restored: what
could prevent that its outcome is recorded, at once; the rest, which takes longer, while the next
message is on its way. What cannot be restored is named, and the child is replaced.
"""

# Not `signal`, which makes an enum of each value and takes ten times as long.
import _signal  # type: ignore[import-not-found]
import gc
import locale
import logging
import os
import resource
import socket
import sys
import threading
import time
import warnings
from _thread import _count as thread_count
from asyncio import events
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from workers.isolation.interrupts import OWN_SIGNALS
from workers.isolation.resource_usage import peak_memory

_MAX_GROWTH = 256 * 1024 * 1024  # bytes of memory that steps may leave behind
_MAX_DESCRIPTORS = 64  # that steps may leave open
_THREAD_GRACE = 0.1  # seconds for threads that are about to end
_TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
_LIMITS = tuple(value for name, value in vars(resource).items() if name.startswith("RLIMIT_"))
# Modules and classes whose functions libraries replace, as gevent and mocks do.
_PATCHED = (
    "builtins", "os", "time", "select", "selectors", "socket", "ssl", "threading", "_thread",
    "queue", "subprocess", "signal",
)  # fmt: skip
_PATCHED_CLASSES = {"socket.socket": socket.socket, "threading.Thread": threading.Thread}


class _Part(NamedTuple):
    """One kind of state."""

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object] | None = None  # None: it cannot be restored


class ProcessState:
    """The state of this process when it was created."""

    def __init__(self) -> None:
        self._logging = LoggingState()
        self._functions = _Functions()
        self._memory = _memory()
        self._descriptor = _free_descriptor()
        self._threads = thread_count()
        self._known_threads = threading.enumerate()
        self._disturbing = [(part, part.read()) for part in _DISTURBING]
        self._others = [(part, part.read()) for part in _OTHERS]

    def restore_disturbing(self) -> list[str]:
        """Restore what could prevent that the outcome is recorded; returns what cannot be."""
        return _restore(self._disturbing)

    def restore_rest(self) -> list[str]:
        """Restore all else; returns what a step left behind that cannot be restored."""
        self._logging.restore()
        left = _restore(self._others)
        if name := self._functions.changed():
            left.append(f"a replaced function ({name})")
        if self._has_more_threads():
            left.append(f"running threads ({self._thread_names()})")
        if _free_descriptor() > self._descriptor + _MAX_DESCRIPTORS:
            left.append("open files")
        most = self._memory + _MAX_GROWTH
        if peak_memory() > most and (memory := _memory()) > most:
            left.append(f"{(memory - self._memory) // 2**20} MB of memory")
        return left

    def _has_more_threads(self) -> bool:
        until = time.monotonic() + _THREAD_GRACE
        while thread_count() > self._threads:
            if time.monotonic() > until:
                return True
            time.sleep(0.005)
        return False

    def _thread_names(self) -> str:
        threads = threading.enumerate()
        return ", ".join(each.name for each in threads if each not in self._known_threads)


class LoggingState:
    """The configuration of logging: of the module, and of each logger."""

    def __init__(self) -> None:
        self._module = {
            name: getattr(logging, name)
            for name in ("_loggerClass", "_logRecordFactory", "raiseExceptions", "lastResort")
        }
        self._named = list(logging.root.manager.loggerDict.values())
        self._loggers = [logging.root, *_loggers(self._named)]
        self._settings = list(map(_copy_of_logger, self._loggers))
        self._disabled = logging.root.manager.disable
        self._handlers = [
            (handler, handler.level, handler.formatter, list(handler.filters))
            for handler in logging.root.handlers
        ]

    def restore(self) -> None:
        """Restore it; loggers that are new get the settings of a new logger."""
        for name, value in self._module.items():
            if getattr(logging, name) is not value:
                setattr(logging, name, value)
        self._add_new_loggers()
        if list(map(_settings_of_logger, self._loggers)) != self._settings:
            for logger, settings in zip(self._loggers, self._settings, strict=True):
                _configure(logger, *settings)
        for handler, level, formatter, filters in self._handlers:
            handler.level, handler.formatter = level, formatter
            if handler.filters != filters:
                handler.filters[:] = filters
        if logging.root.manager.disable != self._disabled:
            logging.disable(self._disabled)

    def _add_new_loggers(self) -> None:
        named = list(logging.root.manager.loggerDict.values())
        if named != self._named:
            known = set(map(id, self._loggers))
            new = [logger for logger in _loggers(named) if id(logger) not in known]
            self._loggers += new
            self._settings += [(logging.NOTSET, False, True, [], [])] * len(new)
            self._named = named


class _Functions:
    """The functions and classes of some modules, by module and name."""

    def __init__(self) -> None:
        spaces: dict[str, Mapping[str, Any]] = {
            name: vars(sys.modules[name]) for name in _PATCHED if name in sys.modules
        }
        spaces |= {name: vars(each) for name, each in _PATCHED_CLASSES.items()}
        self._spaces = []
        for name, values in spaces.items():
            names = [key for key, value in values.items() if callable(value)]
            read = itemgetter(*names)
            self._spaces.append((name, values, names, read, read(values)))

    def changed(self) -> str:
        """The name of a function that is another one now; empty if there is none."""
        for space, values, names, read, known in self._spaces:
            try:
                if read(values) == known:
                    continue
            except KeyError:
                pass
            changed = (key for at, key in enumerate(names) if values.get(key) is not known[at])
            name = next(changed)
            return f"{space}.{name}"
        return ""


def _read(part: _Part) -> Any:
    try:
        return part.read()
    except Exception as error:  # e.g. the working directory was deleted
        return error


def _restore(values: Sequence[tuple[_Part, Any]]) -> list[str]:
    """Restore the parts that have another value; returns the names of those that still have."""
    return [part.name for part, value in values if _read(part) != value and not _set(part, value)]


def _set(part: _Part, value: Any) -> bool:
    """Whether the part has this value again."""
    if part.restore is None:
        return False
    with suppress(Exception):
        part.restore(value)
    return bool(_read(part) == value)


_settings_of_logger = attrgetter("level", "disabled", "propagate", "handlers", "filters")


def _copy_of_logger(logger: logging.Logger) -> tuple[Any, ...]:
    level, disabled, propagate, handlers, filters = _settings_of_logger(logger)
    return level, disabled, propagate, list(handlers), list(filters)


def _loggers(named: Sequence[object]) -> Iterator[logging.Logger]:
    return (each for each in named if isinstance(each, logging.Logger))


def _configure(logger: logging.Logger, *settings: Any) -> None:
    if _settings_of_logger(logger) != settings:
        level, logger.disabled, logger.propagate, handlers, filters = settings
        logger.handlers[:], logger.filters[:] = handlers, filters
        logger.setLevel(level)


def _memory() -> int:
    """The resident memory in bytes; 0 without /proc."""
    try:
        number = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return 0
    try:
        return int(os.read(number, 200).split()[1]) * _PAGE
    finally:
        os.close(number)


def _free_descriptor() -> int:
    """The lowest number that no open file has."""
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


_PAGE = os.sysconf("SC_PAGE_SIZE")
_environ = os.environ


def _environment() -> tuple[bool, dict[bytes, bytes]]:
    return os.environ is _environ, dict(_environ._data)  # type: ignore[attr-defined]


def _set_environment(value: tuple[bool, dict[bytes, bytes]]) -> None:
    os.environ = _environ  # noqa: B003 - a step has replaced the object
    os.environ.clear()
    os.environb.update(value[1])


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _signal_handlers() -> list[Any]:
    return [_signal.getsignal(number) for number in _SIGNALS]


def _set_signal_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) is not handler:
            _signal.signal(number, handler)


def _timers() -> list[bool]:
    return [_signal.getitimer(timer) != (0.0, 0.0) for timer in _TIMERS]


def _stop_timers(_: Any) -> None:
    for timer in _TIMERS:
        _signal.setitimer(timer, 0)


def _set_limits(limits: list[tuple[int, int]]) -> None:
    for number, limit in zip(_LIMITS, limits, strict=True):
        resource.setrlimit(number, limit)


def _hooks() -> list[Any]:
    return [getattr(sys, name) for name in _HOOKS]


def _set_hooks(hooks: list[Any]) -> None:
    for name, hook in zip(_HOOKS, hooks, strict=True):
        setattr(sys, name, hook)


def _set_tracing(functions: tuple[Any, Any]) -> None:
    sys.settrace(functions[0])
    sys.setprofile(functions[1])


def _warnings() -> tuple[Any, ...]:
    return list(warnings.filters), warnings.showwarning, warnings.formatwarning


def _set_warnings(values: tuple[Any, ...]) -> None:
    filters, warnings.showwarning, warnings.formatwarning = values
    warnings.filters = list(filters)
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _asyncio() -> tuple[Any, Any]:
    return events._event_loop_policy, events._get_running_loop()  # type: ignore[attr-defined]


def _set_asyncio(values: tuple[Any, Any]) -> None:
    events._event_loop_policy = values[0]  # type: ignore[attr-defined]
    events._set_running_loop(values[1])


def _gc() -> tuple[bool, tuple[int, int, int], int]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug()


def _set_gc(values: tuple[bool, tuple[int, int, int], int]) -> None:
    (gc.enable if values[0] else gc.disable)()
    gc.set_threshold(*values[1])
    gc.set_debug(values[2])


def _standard_files() -> tuple[Any, ...]:
    """Whether `sys.stdin` and the original streams can be used; the file that is the input."""
    streams = (sys.stdin, sys.__stdout__, sys.__stderr__)
    return (*(stream.fileno() for stream in streams if stream), os.fstat(0)[:3])


def close_standard_input() -> None:
    """Let descriptor 0 and `sys.stdin` be empty."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null:
        os.close(null)
    sys.stdin = os.fdopen(0, closefd=False)


def _set_standard_files(_: Any) -> None:
    close_standard_input()
    sys.__stdout__, sys.__stderr__ = (os.fdopen(number, "w", closefd=False) for number in (1, 2))  # type: ignore[misc]


def _set_module_path(path: list[str]) -> None:
    sys.path[:] = path


def _set_arguments(arguments: list[str]) -> None:
    sys.argv[:] = arguments


def _set_locale(value: str) -> None:
    locale.setlocale(locale.LC_ALL, value)


def _mask() -> Any:
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, ())


def _set_mask(mask: Any) -> None:
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(number) for number in _LIMITS]


def _set_priority(priority: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, priority)


def _processors() -> Any:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


_HOOKS = ("excepthook", "unraisablehook", "displayhook", "breakpointhook")
# Those that Python can handle, without the ones that `interrupts` sets for each step.
_SIGNALS = [
    number
    for number in _signal.valid_signals()
    if _signal.getsignal(number) is not None and number not in OWN_SIGNALS
]
_DISTURBING = (
    _Part("working directory", os.getcwd, os.chdir),
    _Part("environment", _environment, _set_environment),
    _Part("umask", _umask, os.umask),
    _Part("signal handlers", _signal_handlers, _set_signal_handlers),
    _Part("signal mask", _mask, _set_mask),
    _Part("signal wake-up", lambda: _signal.set_wakeup_fd(-1), lambda _: None),  # resets it
    _Part("timers", _timers, _stop_timers),
    _Part("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing),
    _Part("warnings", _warnings, _set_warnings),
    _Part("module path", lambda: list(sys.path), _set_module_path),
    _Part("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    _Part("socket timeout", socket.getdefaulttimeout, socket.setdefaulttimeout),
    _Part("event loop", _asyncio, _set_asyncio),
    _Part("resource limits", _limits, _set_limits),
)
_OTHERS = (
    _Part("locale", lambda: locale.setlocale(locale.LC_ALL), _set_locale),
    _Part("hooks", _hooks, _set_hooks),
    _Part("arguments", lambda: list(sys.argv), _set_arguments),
    _Part("switch interval", sys.getswitchinterval, sys.setswitchinterval),
    _Part("garbage collection", _gc, _set_gc),
    _Part("standard files", _standard_files, _set_standard_files),
    _Part("priority", lambda: os.getpriority(os.PRIO_PROCESS, 0), _set_priority),
    _Part("processors", _processors, lambda cpus: os.sched_setaffinity(0, cpus)),
    _Part("user and group", lambda: (os.getresuid(), os.getresgid())),
    _Part("session", lambda: (os.getsid(0), os.getpgrp())),
)
