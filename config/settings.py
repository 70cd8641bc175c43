"""The settings, read once from the environment and passed down as values."""

import difflib
import keyword
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any, NoReturn, Self, get_type_hints

from config import handover
from orchestrator.spec.durations import format_duration, parse_duration

PREFIX = "ORCHESTRATOR_"
SECRET_PREFIX = f"{PREFIX}SECRET__"  # of variables that `secret://` names, which are no settings
_MAX_BY_CORES = 4  # processes of an API that nobody chose; each has connections to Postgres
MAX_SECRET_VARIABLES = 8_000  # characters of all of them


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no", ""):
        return False
    raise ValueError(f"{text!r} is neither 1 nor 0")


def _database_url(text: str) -> str:
    """Name the driver: SQLAlchemy's default for `postgresql://` is another one."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgres", "postgresql"):
        raise ValueError("it must look like postgresql://user:password@host:5432/database")
    _check_port(rest)
    return f"postgresql+psycopg2://{rest}"


def _redis_url(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme not in ("redis", "rediss"):
        raise ValueError("it must look like redis://:password@host:6379/0")
    _check_port(rest)
    return text


def _check_port(rest: str) -> None:
    """Raises ValueError for a port, in a URL's part after its scheme, that is none."""
    host = rest.partition("?")[0].rpartition("@")[2].partition("/")[0]
    _, colon, port = host.rpartition("]")[2].rpartition(":")
    if colon and not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise ValueError(f"{port!r} is no port")


def _path(text: str) -> Path:
    if not text:
        raise ValueError("it must name a folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r} begins with the home folder of nobody") from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


_PARSERS: Mapping[Any, Callable[[str], Any]] = {
    int: _integer,
    str: str,
    bool: _boolean,
    Path: _path,
    timedelta: parse_duration,
    tuple[str, ...]: lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
}


# `Origin` as browsers send it, and `*`.
_ORIGIN = re.compile(
    r"\*|(?!http://.*:80\Z|https://.*:443\Z)[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)"
    r"(:[1-9][0-9]{0,4})?"
)
_URLS = {"database_url": _database_url, "redis_url": _redis_url}


def _secret(*processes: str) -> Any:
    """A setting for these processes only: the others, and their children, do not get it."""
    return field(default="", repr=False, metadata={"processes": processes})


# Characters; a short one can be found by trying.
MIN_KEY_LENGTHS: Mapping[str, int] = {"secret_key": 32, "admin_key": 16}
# At least 1.
_COUNTS = (
    "window", "connections", "streams", "max_body", "flower_port", "artifact_limit", "log_lines"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Each field is a variable: `lease` is `ORCHESTRATOR_LEASE`."""

    database_url: str = _secret("api", "scheduler", "worker")  # empty: the embedded Postgres
    redis_url: str = _secret("api", "scheduler", "worker", "flower")  # empty: the embedded Redis
    data_dir: Path = Path(".orchestrator")
    admin_key: str = _secret()  # first key of tenant `default`; for `migrate` and the command line
    secret_key: str = _secret("api", "scheduler")  # signs tokens and addresses
    steps: tuple[str, ...] = ()  # modules with handlers
    lease: timedelta = timedelta(seconds=10)  # validity of a claim without a heartbeat
    heartbeat: timedelta = timedelta(seconds=1)
    window: int = 100  # unclaimed messages of one queue in the broker
    cancel_grace: timedelta = timedelta(seconds=30)  # from the soft signal to SIGKILL
    drain_grace: timedelta = timedelta(seconds=60)  # for a worker's steps at its shutdown
    deaf_after: timedelta = timedelta(seconds=20)  # then a worker that gets no message ends
    allow_shell: bool = False  # lets the `shell` handler run
    shell_env: tuple[str, ...] = ()  # variables of the worker that its commands get
    http_private_targets: bool = False  # lets the `http` handler call private addresses
    secrets_dir: str = ""  # a folder for each tenant, with a file for each secret; empty: none
    secrets_vault: str = ""  # module:function(tenant, name) that reads secrets; empty: none
    # How long a slot goes on with the next step of a run in place; 0: each comes through Redis.
    continue_: timedelta = timedelta(milliseconds=100)
    task_events: bool = True  # for Flower; off saves a little per task
    flower_port: int = 5555
    max_tasks_per_child: int = 0  # 0: a child is never replaced
    max_memory_per_child: int = 0  # KiB; 0: no limit
    max_body: int = 4 * 1024 * 1024  # bytes of one request
    api_processes: int = 1  # of one API; 0: as many as there are cores, at most 4
    connections: int = 16  # to Postgres, of all processes of one API together
    contracts: tuple[str, ...] = ("all",)  # published APIs that are served; empty: none
    cors_origins: tuple[str, ...] = ()  # of pages that may call the API; `*`: all, without cookies
    rate_limit: int = 0  # requests a minute of one key; 0: no limit
    streams: int = 2000  # event streams and waiting requests open at once in one API
    request_timeout: timedelta = timedelta(seconds=60)  # for a client to send a request
    idle_timeout: timedelta = timedelta(seconds=10)  # between two bytes of it
    queue_timeout: timedelta = timedelta(seconds=0.5)  # of a request in a burst; then it is refused
    artifacts: str = ""  # URL of the artifact store; empty: a folder of the data directory
    artifact_limit: int = 1024**3  # bytes of one artifact
    log_lines: int = 10_000  # kept of one attempt
    allow_private_targets: bool = False  # lets webhooks go to private and loopback addresses
    # smtp://user:password@host:587; empty: no mail. The API only checks that it is set.
    smtp_url: str = _secret("api", "scheduler")
    mail_from: str = "orchestrator@localhost"
    url: str = ""  # of the API, for the command line; empty: that of `up`
    key: str = _secret()  # for the command line; empty: the admin key
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        for name in ("heartbeat", "deaf_after", "request_timeout", "idle_timeout"):
            if not getattr(self, name):
                raise ValueError(f"{variable_of(name)} must be longer than nothing")
        if self.lease < 3 * self.heartbeat:
            beat = format_duration(self.heartbeat)
            raise ValueError(f"{PREFIX}LEASE must outlast three heartbeats of {beat}")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{PREFIX}CORS_ORIGINS: {origin!r} is no origin; write https://host[:port] as"
                    " browsers do: in lowercase, without a path and the default port"
                )
        for name, least in {**dict.fromkeys(_COUNTS, 1), "api_processes": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{variable_of(name)} must be at least {least}")
        for name, length in MIN_KEY_LENGTHS.items():
            if 0 < len(getattr(self, name)) < length:
                raise ValueError(
                    f"{variable_of(name)} must have at least {length} characters, like those"
                    " that `openssl rand -hex 32` prints"
                )
        if self.flower_port > 65535:
            raise ValueError(f"{PREFIX}FLOWER_PORT must be at most 65535")
        if self.smtp_url and not self.smtp_url.startswith(("smtp://", "smtps://")):
            raise ValueError(f"{PREFIX}SMTP_URL must look like smtp://user:password@host:587")
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"{PREFIX}LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR")

    def processes_of_api(self) -> int:
        """How many processes one API has."""
        if hasattr(os, "sched_getaffinity"):
            cores = len(os.sched_getaffinity(0))  # fewer than the machine's in a container
        else:
            cores = os.cpu_count() or 1
        return self.api_processes or min(cores, _MAX_BY_CORES)

    def of_one_process(self, total: int) -> int:
        """The share that one process of the API has of what all of them may have; at least 1."""
        return ceil(total / self.processes_of_api())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings, those of this process by default.

        Raises ValueError for an unknown variable, with the closest one.
        """
        environ = handover.environ() if environ is None else environ
        _check_secrets(environ)
        values = {
            _field_of(name): text
            for name, text in environ.items()
            if name.startswith(PREFIX) and not name.startswith(SECRET_PREFIX)
        }
        types = get_type_hints(cls)
        for name in sorted(values.keys() - types.keys()):
            closest = difflib.get_close_matches(name, types, n=1, cutoff=0.4)
            hint = f"; did you mean {variable_of(closest[0])}?" if closest else ""
            raise ValueError(f"unknown setting {variable_of(name)}{hint}")
        return cls(**{name: _parse(name, types[name], text) for name, text in values.items()})


def variable_of(field: str) -> str:
    """The environment variable of a field."""
    return f"{PREFIX}{field.rstrip('_').upper()}"


def _field_of(variable: str) -> str:
    name = variable.removeprefix(PREFIX).lower()
    return f"{name}_" if keyword.iskeyword(name) else name


def _check_secrets(environ: Mapping[str, str]) -> None:
    """Raises ValueError if the variables of `secret://` do not fit into a pipe."""
    secrets = [text for name, text in environ.items() if name.startswith(SECRET_PREFIX)]
    if sum(map(len, secrets)) > MAX_SECRET_VARIABLES:
        raise ValueError(
            f"all {SECRET_PREFIX}… together have more than {MAX_SECRET_VARIABLES:,} characters; put"
            f" long secrets into files of {PREFIX}SECRETS_DIR"
        )


def environ_of(settings: Settings) -> dict[str, str]:
    """The environment variables of these settings, for a child process."""
    return {
        variable_of(each.name): _format(value)
        for each in fields(settings)
        if (value := getattr(settings, each.name)) != each.default
    }


def split_environ(
    environ: Mapping[str, str], process: str | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """The variables that everybody may see, and the secrets of a process; None: all secrets.

    A process is api, scheduler, worker or flower. All variables of Flower are secrets, and so are
    those that `secret://` names.
    """
    processes = {
        variable_of(each.name): each.metadata["processes"]
        for each in fields(Settings)
        if "processes" in each.metadata
    }
    processes |= {name: ("flower",) for name in environ if name.startswith("FLOWER_")}
    resolving = ("scheduler", "worker")
    processes |= {name: resolving for name in environ if name.startswith(SECRET_PREFIX)}
    public = {name: text for name, text in environ.items() if name not in processes}
    secrets = {
        name: environ[name]
        for name, needed_by in processes.items()
        if name in environ and (process is None or process in needed_by)
    }
    return public, secrets


def secret_variables() -> dict[str, str]:
    """The secrets among the variables of this process, by the name that a reference has."""
    return {
        name.removeprefix(SECRET_PREFIX): text
        for name, text in handover.environ().items()
        if name.startswith(SECRET_PREFIX)
    }


def execute(command: Sequence[str], process: str | None = None) -> NoReturn:
    """Replace this process by a command that gets the secrets of a process through a pipe."""
    public, secrets = split_environ(handover.environ(), process)
    sys.stdout.flush()
    os.execve(command[0], list(command), {**public, **handover.through_pipe(secrets)})


def _format(value: Any) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parse(name: str, kind: Any, text: str) -> Any:
    try:
        parse = (_URLS.get(name) if text else None) or _PARSERS[kind]
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{variable_of(name)}: {error}") from None
