"""The faults, one function each: it hurts the system, lets go again, and says when it did."""

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

_FULL = 4096  # bytes that a file may still have on a full disk
_WRONG = 1800  # seconds by which a clock is surely not right

# What has just begun lasts for a while; what has lost workers before would be quarantined.
_LINGERING = text("""
    SELECT DISTINCT split_part(attempts.worker, '@', 1) FROM attempts
    JOIN steps ON steps.id = step_id
    WHERE outcome IS NULL AND uses LIKE '%.linger' AND losses = 0
      AND attempts.started_at > now() - interval '1 s'
""")
_WORKING = text("""
    SELECT step_id, number FROM attempts WHERE outcome IS NULL AND worker LIKE :worker || '@%'
""")
_FROZEN = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}  # a child may have died a moment before
_LOSSES = text("SELECT coalesce(sum(losses), 0) FROM steps")
_UNSAVED = text("""
    SELECT count(*) FROM attempts JOIN steps ON steps.id = step_id
    WHERE uses LIKE '%.keep' AND outcome = 'failed' AND attempts.finished_at > to_timestamp(:begun)
""")
_STARTED_AGAIN = text("SELECT extract(epoch FROM pg_postmaster_start_time()) > :begun")


class Wound(NamedTuple):
    """When the system was hurt and when that was over, in seconds of the epoch; and whom."""

    begun: float
    over: float
    victims: frozenset[tuple[Any, int]] = frozenset()  # step and attempt, as of its worker's end
    losses: int = 0  # of attempts, that should have been none


@dataclass(frozen=True)
class Times:
    """How many seconds the lasting faults last, and the peace between two faults."""

    stopped: float  # longer than a lease
    redis_away: float
    disk_full: float
    wrong_clock: float
    slow: float
    calm: float  # between two of them


def kill_child(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of a process that executes steps."""
    worker, name = _prey(system, dice)
    child = dice.choice(worker.children())
    victims = _victims(system, name)
    begun = _kill(child)
    return Wound(begun, begun, victims)


def kill_worker(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of a worker; its children end with it."""
    worker, name = _prey(system, dice)
    begun = _kill(worker)
    return Wound(begun, begun, _victims(system, name))


def kill_scheduler(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of a scheduler in the middle of whatever it does."""
    begun = _kill(dice.choice(system.programs("scheduler")))
    return Wound(begun, begun)


def kill_api(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of the process that answers, or of the one above it."""
    (master,) = system.programs("api")
    begun = _kill(dice.choice([master, *master.children()]))
    return Wound(begun, begun)


def stop_worker(system: System, dice: Random, times: Times) -> Wound:
    """SIGSTOP of a worker and its children for longer than a lease: what comes back is late."""
    worker, name = _prey(system, dice)
    frozen = [worker, *worker.children()]
    for process in frozen:
        process.suspend()
    begun = time.time()
    try:
        eventually(lambda: {each.status() for each in frozen} <= _FROZEN)
        victims = _victims(system, name)
        time.sleep(times.stopped)  # as long as the fault lasts
    finally:
        for process in frozen:
            process.resume()
    return Wound(begun, time.time(), victims)


def flush_redis(system: System, dice: Random, times: Times) -> Wound:
    """FLUSHALL."""
    eventually(system.redis.flush, within=PATIENCE, every=0.1)
    return Wound(time.time(), time.time())


def restart_redis(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of Redis, and a new one that knows nothing."""
    begun = time.time()
    with system.redis.away():
        time.sleep(dice.uniform(0, 2))  # it is away for a moment, or longer
    return Wound(begun, time.time())


def lose_redis(system: System, dice: Random, times: Times) -> Wound:
    """No packet of Redis arrives, and no connection notices."""
    begun, before = time.time(), system.to_redis.swallowed
    system.to_redis.drop()
    time.sleep(times.redis_away)  # as long as the fault lasts
    system.to_redis.pass_on()
    assert system.to_redis.swallowed > before
    return Wound(begun, time.time())


def refuse_redis(system: System, dice: Random, times: Times) -> Wound:
    """Nobody listens where Redis was."""
    begun = time.time()
    _await_clients(system.to_redis)
    system.to_redis.refuse()
    time.sleep(times.slow)  # as long as the fault lasts
    system.to_redis.pass_on()
    return Wound(begun, time.time())


def half_close_redis(system: System, dice: Random, times: Times) -> Wound:
    """Every connection to Redis ends in one direction."""
    _await_clients(system.to_redis)
    system.to_redis.half_close()
    return Wound(time.time(), time.time())


def slow_redis(system: System, dice: Random, times: Times) -> Wound:
    """Everything to and from Redis takes longer."""
    begun, before = time.time(), system.to_redis.delayed
    system.to_redis.delay = 0.2
    time.sleep(times.slow)  # as long as the fault lasts
    system.to_redis.pass_on()
    assert system.to_redis.delayed > before
    return Wound(begun, time.time())


def crash_postgres(system: System, dice: Random, times: Times) -> Wound:
    """An immediate stop of Postgres, and a start."""
    begun = time.time()
    with system.postgres.away():
        time.sleep(dice.uniform(0, 1))  # it is away for a moment, or longer
    over = time.time()
    assert system.rows(_STARTED_AGAIN, begun=begun)[0][0]
    return Wound(begun, over)


def cut_postgres(system: System, dice: Random, times: Times) -> Wound:
    """Every connection to Postgres ends with a reset."""
    _await_clients(system.to_postgres)
    system.to_postgres.reset()
    return Wound(time.time(), time.time())


def fill_disk(system: System, dice: Random, times: Times) -> Wound:
    """The workers' files end after a few bytes, as on a full disk, until one could not be saved."""
    begun = time.time()

    def is_full() -> bool:
        _limit_files(system, _FULL)  # also of what has started since
        return bool(system.rows(_UNSAVED, begun=begun)[0][0])

    try:
        _limit_files(system, _FULL)
        time.sleep(times.disk_full)  # as long as the fault lasts
        eventually(is_full, within=PATIENCE, every=0.3)
    finally:
        _limit_files(system, resource.RLIM_INFINITY)
    return Wound(begun, time.time())


def shift_clock(system: System, dice: Random, times: Times) -> Wound:
    """The clock of one worker and one scheduler is wrong by an hour, until a step has seen it."""
    begun, before = time.time(), time.monotonic()
    system.set_clock(dice.choice(("+1h", "-1h")))
    time.sleep(times.wrong_clock)  # as long as the fault lasts
    eventually(lambda: _is_wrong(system, before), within=PATIENCE, every=0.1)
    system.set_clock("+0")
    return Wound(begun, time.time())


def restart_all(system: System, dice: Random, times: Times) -> Wound:
    """SIGTERM of one process of each kind after the other, once the ones before are back."""
    system.await_whole()
    begun, before = time.time(), system.rows(_LOSSES)[0][0]
    for together in zip_longest(*(system.programs(kind) for kind in PROGRAMS)):
        ending = [program for program in together if program is not None]
        for program in ending:
            program.terminate()
        _, left = psutil.wait_procs(ending, timeout=PATIENCE)
        assert [(each, each.cmdline()) for each in left] == []
        system.await_whole()
    losses = system.rows(_LOSSES)[0][0] - before
    return Wound(begun, time.time(), losses=losses)


FAULTS: dict[str, Callable[[System, Random, Times], Wound]] = {
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
    """Until there is somebody to hurt: the fault before may have left nobody for a moment."""
    eventually(lambda: proxy.sides, within=PATIENCE, until=bool, every=0.1)


def _prey(system: System, dice: Random) -> tuple[psutil.Process, str]:
    """A worker that executes something that lingers, and its name without that of the host."""

    def look() -> list[tuple[psutil.Process, str]]:
        workers = {_name(each): each for each in system.programs("worker")}
        busy = [row[0] for row in system.rows(_LINGERING)]
        return [(workers[name], name) for name in busy if name in workers]

    return dice.choice(eventually(look, within=PATIENCE, every=0.2))


def _name(worker: psutil.Process) -> str:
    line = worker.cmdline()
    return line[line.index("--hostname") + 1].removesuffix("@%h")


def _victims(system: System, worker: str) -> frozenset[tuple[Any, int]]:
    """What the worker executes now."""
    return frozenset((row[0], row[1]) for row in system.rows(_WORKING, worker=worker))


def _kill(process: psutil.Process) -> float:
    """Take a process away without a word; gives when that was."""
    process.kill()
    killed = time.time()
    gone, _ = psutil.wait_procs([process], timeout=10)
    assert gone == [process]
    return killed


def _is_wrong(system: System, since: float) -> bool:
    """Whether a step was executed since then that took the time to be another one."""
    right = time.time() - time.monotonic()
    return any(
        each.at > since and abs(each.clock - each.at - right) > _WRONG
        for each in steps.diary(system.diary)
    )


def _limit_files(system: System, size: int) -> None:
    for worker in system.programs("worker"):
        for process in (worker, *worker.children()):
            with suppress(ProcessLookupError, psutil.NoSuchProcess):  # a child that has just ended
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
