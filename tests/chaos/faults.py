"""The faults, one function each: it hurts the system, lets go again, and says when it did."""

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import psutil
from sqlalchemy import text

from tests.chaos.system import PATIENCE, PROGRAMS, System
from tests.factories import eventually

_FULL = 4096  # bytes that a file may still have on a full disk

_WORKING = text("""
    SELECT step_id, attempts.number FROM attempts JOIN steps ON steps.id = step_id
    WHERE outcome IS NULL AND attempts.worker LIKE :worker
""")
_LINGERING = text("""
    SELECT count(*) FROM attempts JOIN steps ON steps.id = step_id
    WHERE outcome IS NULL AND attempts.worker LIKE :worker AND uses LIKE '%.linger'
""")
_LOSSES = text("SELECT coalesce(sum(losses), 0) FROM steps")


class Wound(NamedTuple):
    """When the system was hurt and when that was over, in seconds of the epoch; and whom."""

    begun: float
    over: float
    victims: frozenset[tuple[Any, int]] = frozenset()  # step and attempt, as of its worker's end
    losses: int = 0  # of attempts, that should have been none


@dataclass(frozen=True)
class Times:
    """How many seconds the lasting faults last."""

    stopped: float  # longer than a lease
    redis_away: float
    disk_full: float
    wrong_clock: float
    slow: float


def kill_child(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of a process that executes steps."""
    worker, name = _prey(system, dice)
    child = dice.choice(worker.children())
    victims = _victims(system, name)
    child.kill()
    now = time.time()
    return Wound(now, now, victims)


def kill_worker(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of a worker; its children end with it."""
    worker, name = _prey(system, dice)
    worker.kill()
    now = time.time()
    return Wound(now, now, _victims(system, name))


def kill_scheduler(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of a scheduler in the middle of whatever it does."""
    dice.choice(system.programs("scheduler")).kill()
    return Wound(time.time(), time.time())


def kill_api(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of the process that answers, or of the one above it."""
    (master,) = system.programs("api")
    dice.choice([master, *master.children()]).kill()
    return Wound(time.time(), time.time())


def stop_worker(system: System, dice: Random, times: Times) -> Wound:
    """SIGSTOP of a worker and its children for longer than a lease: what comes back is late."""
    worker, name = _prey(system, dice)
    frozen = [worker, *worker.children()]
    for process in frozen:
        os.kill(process.pid, signal.SIGSTOP)
    begun = time.time()
    victims = _victims(system, name)
    time.sleep(times.stopped)  # as long as the fault lasts
    for process in frozen:
        os.kill(process.pid, signal.SIGCONT)
    return Wound(begun, time.time(), victims)


def flush_redis(system: System, dice: Random, times: Times) -> Wound:
    """FLUSHALL."""
    system.redis.flush()
    return Wound(time.time(), time.time())


def restart_redis(system: System, dice: Random, times: Times) -> Wound:
    """SIGKILL of Redis, and a new one that knows nothing."""
    begun = time.time()
    system.redis.kill()
    time.sleep(dice.uniform(0, 2))  # it is away for a moment, or longer
    system.redis.start()
    return Wound(begun, time.time())


def lose_redis(system: System, dice: Random, times: Times) -> Wound:
    """No packet of Redis arrives, and no connection notices."""
    begun = time.time()
    system.to_redis.drop()
    time.sleep(times.redis_away)  # as long as the fault lasts
    system.to_redis.pass_on()
    return Wound(begun, time.time())


def refuse_redis(system: System, dice: Random, times: Times) -> Wound:
    """Nobody listens where Redis was."""
    begun = time.time()
    system.to_redis.refuse()
    time.sleep(times.slow)  # as long as the fault lasts
    system.to_redis.pass_on()
    return Wound(begun, time.time())


def half_close_redis(system: System, dice: Random, times: Times) -> Wound:
    """Every connection to Redis ends in one direction."""
    system.to_redis.half_close()
    return Wound(time.time(), time.time())


def slow_redis(system: System, dice: Random, times: Times) -> Wound:
    """Everything to and from Redis takes longer."""
    begun = time.time()
    system.to_redis.delay = 0.2
    time.sleep(times.slow)  # as long as the fault lasts
    system.to_redis.pass_on()
    return Wound(begun, time.time())


def crash_postgres(system: System, dice: Random, times: Times) -> Wound:
    """An immediate stop of Postgres, and a start."""
    begun = time.time()
    system.postgres.stop()
    time.sleep(dice.uniform(0, 1))  # it is away for a moment, or longer
    system.postgres.start()
    return Wound(begun, time.time())


def cut_postgres(system: System, dice: Random, times: Times) -> Wound:
    """Every connection to Postgres ends with a reset."""
    system.to_postgres.reset()
    return Wound(time.time(), time.time())


def fill_disk(system: System, dice: Random, times: Times) -> Wound:
    """The workers' files end after a few bytes, as on a full disk."""
    begun = time.time()
    _limit_files(system, _FULL)
    time.sleep(times.disk_full)  # as long as the fault lasts
    _limit_files(system, resource.RLIM_INFINITY)
    return Wound(begun, time.time())


def shift_clock(system: System, dice: Random, times: Times) -> Wound:
    """The clock of one worker and one scheduler is wrong by an hour."""
    begun = time.time()
    system.set_clock(dice.choice(("+1h", "-1h")))
    time.sleep(times.wrong_clock)  # as long as the fault lasts
    system.set_clock("+0")
    return Wound(begun, time.time())


def restart_all(system: System, dice: Random, times: Times) -> Wound:
    """SIGTERM of one process after the other, each once the one before is back."""
    begun, before = time.time(), system.rows(_LOSSES)[0][0]
    for kind in PROGRAMS:
        for program in system.programs(kind):
            program.terminate()
            eventually(lambda program=program: not program.is_running(), within=PATIENCE, every=0.1)
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


def _prey(system: System, dice: Random) -> tuple[psutil.Process, str]:
    """A worker that executes something that lingers, if that can be had; and its name in SQL."""
    end = time.monotonic() + 5
    while True:
        worker = dice.choice(system.programs("worker"))
        line = worker.cmdline()
        name = line[line.index("--hostname") + 1].replace("%h", "%")
        if system.rows(_LINGERING, worker=name)[0][0] or time.monotonic() > end:
            return worker, name
        time.sleep(0.1)  # until it has something to do


def _victims(system: System, worker: str) -> frozenset[tuple[Any, int]]:
    """What the worker executes now."""
    return frozenset((row[0], row[1]) for row in system.rows(_WORKING, worker=worker))


def _limit_files(system: System, size: int) -> None:
    for worker in system.programs("worker"):
        for process in (worker, *worker.children()):
            with suppress(ProcessLookupError):  # a child that has just ended
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
