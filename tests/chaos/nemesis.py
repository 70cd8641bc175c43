"""The faults, one function each: it hurts the system, lets go again, and says when it did."""

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil
from sqlalchemy import text

from tests.chaos.load import Api
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
# An attempt that was lost, and the next one; those that ended otherwise were no victims.
_FATE = text("""
    SELECT attempts.outcome IS NULL OR attempts.outcome = 'lost' AND next.started_at IS NULL
        AND steps.state IN ('pending', 'queued', 'running', 'waiting') AS waits,
        CASE WHEN attempts.outcome = 'lost' THEN extract(epoch FROM next.started_at) END AS again_at
    FROM attempts JOIN steps ON steps.id = attempts.step_id
    LEFT JOIN attempts next
        ON next.step_id = attempts.step_id AND next.number = attempts.number + 1
    WHERE attempts.step_id = :step_id AND attempts.number = :number
""")
_PROBE = text("SELECT extract(epoch FROM finished_at) FROM runs WHERE id = :id")
_LOSSES = text("SELECT coalesce(sum(losses), 0) FROM steps")


class Wound(NamedTuple):
    """When the system was hurt and when that was over, in seconds of the epoch; and whom."""

    begun: float
    over: float
    victims: frozenset[tuple[Any, int]] = frozenset()  # step and attempt, as of its worker's end


@dataclass(frozen=True)
class Times:
    """How many seconds the lasting faults last."""

    stopped: float  # longer than a lease
    redis_away: float
    disk_full: float
    wrong_clock: float
    slow: float


@dataclass
class Nemesis:
    """Hurts the system in every way, and measures how long it takes to be well again."""

    system: System
    times: Times
    dice: random.Random
    now: str = "-"  # what is going on
    windows: list[tuple[float, float]] = field(default_factory=list)  # of all faults
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    lost_by_restarts: int = 0

    def strike_all(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Do everything once, in an order that nobody knows; until it is enough."""
        faults = list(FAULTS)
        self.dice.shuffle(faults)
        for name in faults:
            if enough():
                return
            self.strike(name)

    def strike(self, name: str) -> None:
        """Do one thing, wait until the system is well, and remember how long that took."""
        self.now = name
        wound = FAULTS[name](self)
        self.windows.append((wound.begun, wound.over))
        self.now = f"after {name}"
        took = [self._probe() - wound.over]
        took += [again - wound.begun for again in self._fates(wound)]
        self.recoveries.setdefault(name, []).append(max(took))
        self.now = "-"
        self.system.await_whole()

    def query(self, statement: Any, **given: Any) -> list[Any]:
        """Rows, straight from Postgres."""
        with self.system.engine.connect() as connection:
            return list(connection.execute(statement, given))

    def _probe(self) -> float:
        """Submit a run, and tell when it had ended."""
        run_id = Api(self.system).submit("plain", priority=9)
        rows = eventually(
            lambda: self.query(_PROBE, id=run_id),
            within=PATIENCE,
            until=lambda rows: rows[0][0] is not None,
            every=0.05,
        )
        return float(rows[0][0])

    def _fates(self, wound: Wound) -> list[float]:
        """When the victims' next attempts started."""
        found = []
        for step_id, number in wound.victims:
            rows = eventually(
                lambda step_id=step_id, number=number: self.query(
                    _FATE, step_id=step_id, number=number
                ),
                within=PATIENCE,
                until=lambda rows: not rows or not rows[0].waits,
                every=0.1,
            )
            found += [float(row.again_at) for row in rows if row.again_at is not None]
        return found


def kill_child(nemesis: Nemesis) -> Wound:
    """SIGKILL of a process that executes steps."""
    worker, name = _prey(nemesis)
    child = nemesis.dice.choice(worker.children())
    victims = _victims(nemesis, name)
    child.kill()
    now = time.time()
    return Wound(now, now, victims)


def kill_worker(nemesis: Nemesis) -> Wound:
    """SIGKILL of a worker; its children end with it."""
    worker, name = _prey(nemesis)
    worker.kill()
    now = time.time()
    return Wound(now, now, _victims(nemesis, name))


def kill_scheduler(nemesis: Nemesis) -> Wound:
    """SIGKILL of a scheduler in the middle of whatever it does."""
    nemesis.dice.choice(nemesis.system.programs("scheduler")).kill()
    return Wound(time.time(), time.time())


def kill_api(nemesis: Nemesis) -> Wound:
    """SIGKILL of the process that answers, or of the one above it."""
    (master,) = nemesis.system.programs("api")
    nemesis.dice.choice([master, *master.children()]).kill()
    return Wound(time.time(), time.time())


def stop_worker(nemesis: Nemesis) -> Wound:
    """SIGSTOP of a worker and its children for longer than a lease: what comes back is late."""
    worker, name = _prey(nemesis)
    frozen = [worker, *worker.children()]
    for process in frozen:
        os.kill(process.pid, signal.SIGSTOP)
    begun = time.time()
    victims = _victims(nemesis, name)
    time.sleep(nemesis.times.stopped)  # as long as the fault lasts
    for process in frozen:
        os.kill(process.pid, signal.SIGCONT)
    return Wound(begun, time.time(), victims)


def flush_redis(nemesis: Nemesis) -> Wound:
    """FLUSHALL."""
    nemesis.system.redis.flush()
    return Wound(time.time(), time.time())


def restart_redis(nemesis: Nemesis) -> Wound:
    """SIGKILL of Redis, and a new one that knows nothing."""
    begun = time.time()
    nemesis.system.redis.kill()
    time.sleep(nemesis.dice.uniform(0, 2))  # it is away for a moment, or longer
    nemesis.system.redis.start()
    return Wound(begun, time.time())


def lose_redis(nemesis: Nemesis) -> Wound:
    """No packet of Redis arrives, and no connection notices."""
    begun = time.time()
    nemesis.system.to_redis.drop()
    time.sleep(nemesis.times.redis_away)  # as long as the fault lasts
    nemesis.system.to_redis.pass_on()
    return Wound(begun, time.time())


def refuse_redis(nemesis: Nemesis) -> Wound:
    """Nobody listens where Redis was."""
    begun = time.time()
    nemesis.system.to_redis.refuse()
    time.sleep(nemesis.times.slow)  # as long as the fault lasts
    nemesis.system.to_redis.pass_on()
    return Wound(begun, time.time())


def half_close_redis(nemesis: Nemesis) -> Wound:
    """Every connection to Redis ends in one direction."""
    nemesis.system.to_redis.half_close()
    return Wound(time.time(), time.time())


def slow_redis(nemesis: Nemesis) -> Wound:
    """Everything to and from Redis takes longer."""
    begun = time.time()
    nemesis.system.to_redis.delay = 0.2
    time.sleep(nemesis.times.slow)  # as long as the fault lasts
    nemesis.system.to_redis.pass_on()
    return Wound(begun, time.time())


def crash_postgres(nemesis: Nemesis) -> Wound:
    """An immediate stop of Postgres, and a start."""
    begun = time.time()
    nemesis.system.postgres.stop()
    time.sleep(nemesis.dice.uniform(0, 1))  # it is away for a moment, or longer
    nemesis.system.postgres.start()
    return Wound(begun, time.time())


def cut_postgres(nemesis: Nemesis) -> Wound:
    """Every connection to Postgres ends with a reset."""
    nemesis.system.to_postgres.reset()
    return Wound(time.time(), time.time())


def fill_disk(nemesis: Nemesis) -> Wound:
    """The workers' files end after a few bytes, as on a full disk."""
    begun = time.time()
    _limit_files(nemesis.system, _FULL)
    time.sleep(nemesis.times.disk_full)  # as long as the fault lasts
    _limit_files(nemesis.system, resource.RLIM_INFINITY)
    return Wound(begun, time.time())


def shift_clock(nemesis: Nemesis) -> Wound:
    """The clock of one worker and one scheduler is wrong by an hour."""
    begun = time.time()
    nemesis.system.set_clock(nemesis.dice.choice(("+1h", "-1h")))
    time.sleep(nemesis.times.wrong_clock)  # as long as the fault lasts
    nemesis.system.set_clock("+0")
    return Wound(begun, time.time())


def restart_all(nemesis: Nemesis) -> Wound:
    """SIGTERM of one process after the other, each once the one before is back."""
    begun, before = time.time(), nemesis.query(_LOSSES)[0][0]
    for kind in PROGRAMS:
        for program in nemesis.system.programs(kind):
            program.terminate()
            eventually(lambda program=program: not program.is_running(), within=PATIENCE, every=0.1)
            nemesis.system.await_whole()
    nemesis.lost_by_restarts += nemesis.query(_LOSSES)[0][0] - before
    return Wound(begun, time.time())


FAULTS: dict[str, Callable[[Nemesis], Wound]] = {
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
# Seconds at default settings: from the kill until the victim's step runs elsewhere, else from
# the end of the fault until a run that was submitted then has ended.
BUDGETS: dict[str, float] = {
    "child killed": 15,
    "worker killed": 15,
    "worker stopped past its lease": 15,
    "redis flushed": 20,
    "redis restarted empty": 20,
    "redis silent": 20,
    "redis refuses": 20,
    "redis half-closed": 20,
    "postgres crashed": 5,
    "postgres connections cut": 5,
}


def _prey(nemesis: Nemesis) -> tuple[psutil.Process, str]:
    """A worker that executes something that lingers, if that can be had; and its name in SQL."""
    end = time.monotonic() + 5
    while True:
        worker = nemesis.dice.choice(nemesis.system.programs("worker"))
        line = worker.cmdline()
        name = line[line.index("--hostname") + 1].replace("%h", "%")
        if nemesis.query(_LINGERING, worker=name)[0][0] or time.monotonic() > end:
            return worker, name
        time.sleep(0.1)  # until it has something to do


def _victims(nemesis: Nemesis, worker: str) -> frozenset[tuple[Any, int]]:
    """What the worker executes now."""
    return frozenset((row[0], row[1]) for row in nemesis.query(_WORKING, worker=worker))


def _limit_files(system: System, size: int) -> None:
    for worker in system.programs("worker"):
        for process in (worker, *worker.children()):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
