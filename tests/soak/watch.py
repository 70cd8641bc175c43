"""Samples of the soak: processes, Redis, and the statistics of Postgres."""

import re
from contextlib import suppress
from typing import Any

import psutil
import redis
from sqlalchemy import Engine, text

Sample = dict[str, float]  # by the name of the series

# Tables whose rows change several times, and tables whose rows live for seconds only.
HOT = ("runs", "steps", "attempts", "outputs")
TINY = ("workers", "backlog", "backlog_changes", "tallies", "tally_changes", "schedules")
_MB = 1e6

_ROLES = {
    r"worker-(\d+)-\d+@": "worker-{0}",
    r"(?:orchestrator|workers\.)\s?scheduler": "scheduler",
    r"api\.app:serve|orchestrator api": "api",
    r"orchestrator\.local\.supervisord": "supervisor",
    r"redis-server": "redis",
}
_TABLES = """
    SELECT relname AS name, n_live_tup AS live, n_dead_tup AS dead,
        autovacuum_count + vacuum_count AS vacuums,
        pg_table_size(relid) AS heap, pg_indexes_size(relid) AS indexes
    FROM pg_stat_user_tables
"""
_CONNECTIONS = """
    SELECT application_name AS name, count(*) AS open FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'orchestrator-%' GROUP BY 1
"""
_RUNS = """
    SELECT coalesce(max(number), 0) AS last_number,
        (SELECT count(*) FROM runs WHERE finished_at IS NULL) AS open,
        (SELECT CAST(sum(n_tup_ins) AS bigint) FROM pg_stat_user_tables
         WHERE relname = 'attempts') AS attempts
    FROM runs
"""
_LATENCY = """
    SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY took) FROM (
        SELECT 1000 * extract(epoch FROM finished_at - created_at) AS took FROM runs
        WHERE finished_at > now() - interval '10 s' AND workflow = 'chain'
    ) latest
"""
_BLOAT = """
    SELECT approx_tuple_percent AS live, dead_tuple_percent AS dead, approx_free_percent AS free
    FROM pgstattuple_approx(CAST(CAST(:name AS text) AS regclass))
"""


class Watch:
    """Takes samples of a running stack."""

    def __init__(self, engine: Engine, redis_url: str) -> None:
        self._engine = engine
        self._redis = redis.Redis.from_url(redis_url)
        self._processes = _processes(engine)
        self._connections: set[str] = set()
        self._first_number, self._size = self._baseline()

    def replaced(self) -> list[str]:
        """The names of the processes that have ended since the beginning."""
        return [name for name, process in self._processes.items() if not process.is_running()]

    def sample(self) -> Sample:
        """One value for each series."""
        return {**self._of_processes(), **self._of_redis(), **self._of_postgres()}

    def bloat(self) -> dict[str, dict[str, float]]:
        """Percent of each table that is live, dead and free; empty without pgstattuple."""
        with self._engine.begin() as connection:
            available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pgstattuple'"
            if not connection.scalar(text(available)):
                return {}
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS pgstattuple"))
            bloat = {}
            for table in (*HOT, *TINY):
                parts = connection.execute(text(_BLOAT), {"name": table}).one()
                bloat[table] = {name: float(part) for name, part in parts._mapping.items()}
            return bloat

    def _of_processes(self) -> Sample:
        sample: Sample = {}
        for name, process in self._processes.items():
            with suppress(psutil.NoSuchProcess), process.oneshot():  # reported by `replaced`
                sample[f"RSS MB {name}"] = process.memory_info().rss / _MB
                sample[f"USS MB {name}"] = process.memory_full_info().uss / _MB
                sample[f"files {name}"] = float(process.num_fds())
        return sample

    def _of_redis(self) -> Sample:
        info: dict[str, Any] = self._redis.info()  # type: ignore[assignment]
        return {
            "Redis MB": info["used_memory"] / _MB,
            "Redis keys": float(self._redis.dbsize()),  # type: ignore[arg-type]
            "Redis clients": float(info["connected_clients"]),
        }

    def _of_postgres(self) -> Sample:
        with self._engine.begin() as connection:
            tables = {row.name: row for row in connection.execute(text(_TABLES))}
            runs = connection.execute(text(_RUNS)).one()
            sample: Sample = {"runs": float(runs.last_number), "attempts": float(runs.attempts)}
            sample["open runs"] = float(runs.open)
            latency = connection.scalar(text(_LATENCY))
            if latency is not None:
                sample["run p95 ms"] = float(latency)
            sessions = {row.name: row.open for row in connection.execute(text(_CONNECTIONS))}
        self._connections |= sessions.keys()
        for name in self._connections:
            sample[f"connections {name}"] = float(sessions.get(name, 0))
        created = max(float(runs.last_number) - self._first_number, 1.0)
        size = sum(row.heap + row.indexes for row in tables.values())
        sample["KB a run"] = (size - self._size) / created / 1e3
        for name in HOT:
            row = tables[name]
            sample[f"dead % {name}"] = 100 * row.dead / max(row.live + row.dead, 1)
            sample[f"vacuums {name}"] = float(row.vacuums)
            sample[f"index B a row {name}"] = row.indexes / max(row.live, 1)
        for name in TINY:
            row = tables[name]
            sample[f"dead rows {name}"] = float(row.dead)
            sample[f"vacuums {name}"] = float(row.vacuums)
            sample[f"table MB {name}"] = (row.heap + row.indexes) / _MB
        sample["Postgres MB"] = self._postgres()
        return sample

    def _baseline(self) -> tuple[float, float]:
        with self._engine.begin() as connection:
            number = connection.execute(text(_RUNS)).one().last_number
            tables = connection.execute(text(_TABLES)).all()
        return float(number), float(sum(row.heap + row.indexes for row in tables))

    def _postgres(self) -> float:
        """USS of its processes in MB: shared memory fills as the tables grow."""
        total = 0.0
        server = self._processes["postgres"]
        for process in (server, *server.children()):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().uss
        return total / _MB


def _processes(engine: Engine) -> dict[str, psutil.Process]:
    """Descendants of this process, and Postgres, by role; children are numbered by age."""
    by_role: dict[str, psutil.Process] = {}
    for process in psutil.Process().children(recursive=True):
        words = " ".join(process.cmdline())
        matches = ((role, re.search(pattern, words)) for pattern, role in _ROLES.items())
        role = next((role.format(*match.groups()) for role, match in matches if match), None)
        if role is not None:
            children = sum(name.partition(", ")[0] == role for name in by_role)
            by_role[f"{role}, child {children}" if children else role] = process
    with engine.begin() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    server = psutil.Process(int(backend or 0)).parent()
    assert server is not None
    by_role["postgres"] = server
    return by_role
