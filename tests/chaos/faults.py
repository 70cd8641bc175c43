"""The faults, one function each: injects the fault, ends it, and returns when it was on."""

import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Any, NamedTuple

import psutil
from sqlalchemy import text

from tests.chaos import steps
from tests.chaos.proxy import Proxy
from tests.chaos.system import PATIENCE, PROGRAMS, System
from tests.support.factories import eventually

_FULL = 4096  # bytes that a file may have at most while the disk is full
_WRONG = 1800  # seconds of difference from which a clock counts as wrong

# Steps that began less than a second ago, since they last; without losses, since three of those
# quarantine a step.
_LINGERING = text("""
    SELECT DISTINCT split_part(attempts.worker, '@', 1) FROM attempts
    JOIN steps ON steps.id = step_id
    WHERE outcome IS NULL AND uses LIKE '%.linger' AND losses = 0
      AND attempts.started_at > now() - interval '1 s'
""")
_WORKING = text("""
    SELECT step_id, number FROM attempts WHERE outcome IS NULL AND worker LIKE :worker || '@%'
""")
_FROZEN_STATES = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}  # a child may have died just before
_LOSSES = text("SELECT coalesce(sum(losses), 0) FROM steps")
_UNSAVED = text("""
    SELECT count(*) FROM attempts JOIN steps ON steps.id = step_id
    WHERE uses LIKE '%.keep' AND outcome = 'failed' AND attempts.finished_at > to_timestamp(:begun)
""")
_RESTARTED = text("SELECT extract(epoch FROM pg_postmaster_start_time()) > :begun")


class Fault(NamedTuple):
    """Begin and end of a fault, in seconds of the epoch, and the attempts that it hit."""

    begun: float
    over: float
    victims: frozenset[tuple[Any, int]] = frozenset()  # step and attempt
    losses: int = 0  # lost attempts of a rolling restart, which should be 0


@dataclass(frozen=True)
class Times:
    """Durations of the lasting faults, in seconds."""

    stopped: float  # longer than a lease
    redis_away: float
    disk_full: float
    wrong_clock: float
    slow: float
    pause: float  # between two faults


def kill_child(system: System, dice: Random, times: Times) -> Fault:
    """SIGKILL of a process that executes steps."""
    worker, name = _busy_worker(system, dice)
    child = dice.choice(worker.children())
    victims = _victims(system, name)
    begun = _kill(child)
    return Fault(begun, begun, victims)


def kill_worker(system: System, dice: Random, times: Times) -> Fault:
    """SIGKILL of a worker; its children end with it."""
    worker, name = _busy_worker(system, dice)
    begun = _kill(worker)
    return Fault(begun, begun, _victims(system, name))


def kill_scheduler(system: System, dice: Random, times: Times) -> Fault:
    """SIGKILL of a scheduler at a random moment."""
    begun = _kill(dice.choice(system.programs("scheduler")))
    return Fault(begun, begun)


def kill_api(system: System, dice: Random, times: Times) -> Fault:
    """SIGKILL of the API's worker process, or of its master."""
    (master,) = system.programs("api")
    begun = _kill(dice.choice([master, *master.children()]))
    return Fault(begun, begun)


def stop_worker(system: System, dice: Random, times: Times) -> Fault:
    """SIGSTOP of a worker and its children for longer than a lease; their outcomes are late."""
    worker, name = _busy_worker(system, dice)
    frozen = [worker, *worker.children()]
    for process in frozen:
        process.suspend()
    begun = time.time()
    try:
        eventually(lambda: {each.status() for each in frozen} <= _FROZEN_STATES)
        victims = _victims(system, name)
        time.sleep(times.stopped)  # the duration of the fault
    finally:
        for process in frozen:
            process.resume()
    return Fault(begun, time.time(), victims)


def flush_redis(system: System, dice: Random, times: Times) -> Fault:
    """FLUSHALL."""
    eventually(system.redis.flush, within=PATIENCE, every=0.1)
    return Fault(time.time(), time.time())


def restart_redis(system: System, dice: Random, times: Times) -> Fault:
    """SIGKILL of Redis, and a restart of an empty one."""
    begun = time.time()
    with system.redis.away():
        time.sleep(dice.uniform(0, 2))  # a random outage
    return Fault(begun, time.time())


def lose_redis(system: System, dice: Random, times: Times) -> Fault:
    """The proxy swallows all data to and from Redis; connections stay open."""
    begun, before = time.time(), system.to_redis.swallowed
    system.to_redis.drop()
    time.sleep(times.redis_away)  # the duration of the fault
    system.to_redis.pass_on()
    assert system.to_redis.swallowed > before
    return Fault(begun, time.time())


def refuse_redis(system: System, dice: Random, times: Times) -> Fault:
    """Connections to Redis are refused."""
    begun = time.time()
    _await_clients(system.to_redis)
    system.to_redis.refuse()
    time.sleep(times.slow)  # the duration of the fault
    system.to_redis.pass_on()
    return Fault(begun, time.time())


def half_close_redis(system: System, dice: Random, times: Times) -> Fault:
    """Every connection to Redis is half-closed."""
    _await_clients(system.to_redis)
    system.to_redis.half_close()
    return Fault(time.time(), time.time())


def slow_redis(system: System, dice: Random, times: Times) -> Fault:
    """All data to and from Redis is delayed."""
    begun, before = time.time(), system.to_redis.delayed
    system.to_redis.delay = 0.2
    time.sleep(times.slow)  # the duration of the fault
    system.to_redis.pass_on()
    assert system.to_redis.delayed > before
    return Fault(begun, time.time())


def crash_postgres(system: System, dice: Random, times: Times) -> Fault:
    """An immediate stop of Postgres, and a restart."""
    begun = time.time()
    with system.postgres.away():
        time.sleep(dice.uniform(0, 1))  # a random outage
    over = time.time()
    assert system.rows(_RESTARTED, begun=begun)[0][0]
    return Fault(begun, over)


def cut_postgres(system: System, dice: Random, times: Times) -> Fault:
    """Every connection to Postgres is reset."""
    _await_clients(system.to_postgres)
    system.to_postgres.reset()
    return Fault(time.time(), time.time())


def fill_disk(system: System, dice: Random, times: Times) -> Fault:
    """Limit the workers' files to a few bytes, as on a full disk, until a save has failed."""
    begun = time.time()

    def is_full() -> bool:
        _limit_file_size(system, _FULL)  # also of processes started since
        return bool(system.rows(_UNSAVED, begun=begun)[0][0])

    try:
        _limit_file_size(system, _FULL)
        time.sleep(times.disk_full)  # the duration of the fault
        eventually(is_full, within=PATIENCE, every=0.3)
    finally:
        _limit_file_size(system, resource.RLIM_INFINITY)
    return Fault(begun, time.time())


def shift_clock(system: System, dice: Random, times: Times) -> Fault:
    """Shift the clock of one worker and one scheduler by an hour, until a step has run with it."""
    begun, before = time.time(), time.monotonic()
    system.set_clock(dice.choice(("+1h", "-1h")))
    time.sleep(times.wrong_clock)  # the duration of the fault
    eventually(lambda: _is_wrong(system, before), within=PATIENCE, every=0.1)
    system.set_clock("+0")
    return Fault(begun, time.time())


def restart_all(system: System, dice: Random, times: Times) -> Fault:
    """SIGTERM of one process of each kind, then of the next, once the first are back."""
    system.await_whole()
    begun, before = time.time(), system.rows(_LOSSES)[0][0]
    for together in zip_longest(*(system.programs(kind) for kind in PROGRAMS)):
        ending = [program for program in together if program is not None]
        for program in ending:
            program.terminate()
        _, remaining = psutil.wait_procs(ending, timeout=PATIENCE)
        assert [(each, each.cmdline()) for each in remaining] == []
        system.await_whole()
    losses = system.rows(_LOSSES)[0][0] - before
    return Fault(begun, time.time(), losses=losses)


FAULTS: dict[str, Callable[[System, Random, Times], Fault]] = {
    "child killed": kill_child,
    "worker killed": kill_worker,
    "scheduler killed": kill_scheduler,
    "api killed": kill_api,
    "worker stopped past its lease": stop_worker,
    "redis flushed": flush_redis,
    "redis restarted empty": restart_redis,
    "redis silent": lose_redis,
    "redis refuses": refuse_redis,
    "redis half-closed": half_close_redis,
    "redis slow": slow_redis,
    "postgres crashed": crash_postgres,
    "postgres connections cut": cut_postgres,
    "disk full": fill_disk,
    "clock wrong by an hour": shift_clock,
    "rolling restart": restart_all,
}


def _await_clients(proxy: Proxy) -> None:
    """Wait for clients: the previous fault may have left none for a moment."""
    eventually(lambda: proxy.sides, within=PATIENCE, until=bool, every=0.1)


def _busy_worker(system: System, dice: Random) -> tuple[psutil.Process, str]:
    """A worker that executes a lingering step, and its name without the host."""

    def candidates() -> list[tuple[psutil.Process, str]]:
        workers = {_name(each): each for each in system.programs("worker")}
        busy = [row[0] for row in system.rows(_LINGERING)]
        return [(workers[name], name) for name in busy if name in workers]

    return dice.choice(eventually(candidates, within=PATIENCE, every=0.2))


def _name(worker: psutil.Process) -> str:
    line = worker.cmdline()
    return line[line.index("--hostname") + 1].removesuffix("@%h")


def _victims(system: System, worker: str) -> frozenset[tuple[Any, int]]:
    """The attempts that the worker executes now."""
    return frozenset((row[0], row[1]) for row in system.rows(_WORKING, worker=worker))


def _kill(process: psutil.Process) -> float:
    """SIGKILL; returns the time."""
    process.kill()
    killed = time.time()
    gone, _ = psutil.wait_procs([process], timeout=10)
    assert gone == [process]
    return killed


def _is_wrong(system: System, since: float) -> bool:
    """Whether a step was executed since then with a wrong clock."""
    right = time.time() - time.monotonic()
    return any(
        each.at > since and abs(each.clock - each.at - right) > _WRONG
        for each in steps.diary(system.diary)
    )


def _limit_file_size(system: System, size: int) -> None:
    for worker in system.programs("worker"):
        with suppress(ProcessLookupError, psutil.NoSuchProcess):  # it has just ended
            _limit_files_of(worker, size)  # first: a child has the limit that its parent had
            for child in worker.children():
                _limit_files_of(child, size)


def _limit_files_of(process: psutil.Process, size: int) -> None:
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
