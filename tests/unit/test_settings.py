"""The settings: parsed from variables, refused by name, formatted for a child process."""

import os
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest

from config.settings import PREFIX, Settings, environ_of, split_environ, variable_of

EVERY = Settings(
    database_url="postgresql+psycopg2://user:hush@db:5432/runs",
    redis_url="redis://:hush@cache:6379/0",
    data_dir=Path("/var/lib/orchestrator"),
    admin_key="hush-admin-of-the-tests",
    secret_key="hush-secret-of-the-tests-of-settings",
    steps=("acme.reports", "acme.mail"),
    lease=timedelta(minutes=1, milliseconds=500),
    heartbeat=timedelta(milliseconds=250),
    window=7,
    cancel_grace=timedelta(0),
    drain_grace=timedelta(minutes=5),
    deaf_after=timedelta(seconds=40),
    allow_shell=True,
    shell_env=("ACME_*", "JAVA_HOME"),
    http_private_targets=True,
    secrets_dir="/run/secrets/orchestrator",
    secrets_vault="acme.vault:read",
    continue_=timedelta(seconds=1),
    task_events=False,
    flower_port=5556,
    max_tasks_per_child=100,
    max_memory_per_child=200_000,
    max_body=1024,
    api_processes=3,
    connections=2,
    contracts=("mage", "mindzie"),
    cors_origins=("https://app.example.com", "http://localhost:3000"),
    rate_limit=300,
    streams=3,
    request_timeout=timedelta(seconds=20),
    idle_timeout=timedelta(seconds=5),
    queue_timeout=timedelta(milliseconds=200),
    artifacts="s3://bucket/folder",
    artifact_limit=4096,
    log_lines=5,
    allow_private_targets=True,
    smtp_url="smtp://user:hush@mail:587",
    mail_from="runs@acme.example",
    url="http://127.0.0.1:8000",
    key="hush-key",
    log_level="DEBUG",
)


def read(**variables: str) -> Settings:
    return Settings.from_env({f"{PREFIX}{name}": text for name, text in variables.items()})


def test_without_variables_every_setting_has_its_default() -> None:
    assert Settings.from_env({"PATH": "/bin", "DATABASE_URL": "mysql://"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("DATA_DIR", "/srv/data", Path("/srv/data")),
        ("DATA_DIR", "~/data", Path("~/data").expanduser()),
        ("STEPS", "acme.reports, acme.mail,", ("acme.reports", "acme.mail")),
        ("STEPS", "", ()),
        ("CORS_ORIGINS", "*", ("*",)),
        (
            "CORS_ORIGINS",
            "https://a.example, http://[::1]:8080,app://x",
            ("https://a.example", "http://[::1]:8080", "app://x"),
        ),
        ("LEASE", "1m", timedelta(minutes=1)),
        ("CANCEL_GRACE", "0", timedelta(0)),
        ("WINDOW", "7", 7),
        ("ALLOW_SHELL", "1", True),
        ("ALLOW_SHELL", "Yes", True),
        ("ALLOW_SHELL", "", False),
        ("TASK_EVENTS", "false", False),
        ("TASK_EVENTS", "0", False),
        ("LOG_LEVEL", "debug", "debug"),
    ],
)
def test_a_variable_is_read_as_its_settings_type(variable: str, text: str, value: object) -> None:
    assert getattr(read(**{variable: text}), variable.lower()) == value


@pytest.mark.parametrize(
    ("variable", "closest"),
    [("LEASES", "LEASE"), ("DATABSE_URL", "DATABASE_URL"), ("DB_URL", "URL"), ("STEP", "STEPS")],
)
def test_an_unknown_variable_is_refused_with_the_closest_known_one(
    variable: str, closest: str
) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        read(**{variable: "1"})

    assert str(refusal.value) == (
        f"unknown setting ORCHESTRATOR_{variable}; did you mean ORCHESTRATOR_{closest}?"
    )


def test_an_unknown_variable_like_no_other_is_refused_all_the_same() -> None:
    with pytest.raises(ValueError, match=r"^unknown setting ORCHESTRATOR_QQQ$"):
        read(QQQ="1")


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("LEASE", "soon", "'soon' is not a duration"),
        ("WINDOW", "many", "'many' is not a whole number"),
        ("CONNECTIONS", "", "'' is not a whole number"),
        ("DATA_DIR", "", "it must name a folder"),
        ("DATA_DIR", "~nobody_here/x", "begins with the home folder of nobody"),
        ("FLOWER_PORT", "65536", "must be at most 65535"),
        ("DATABASE_URL", "postgresql://a:b@db:abc/x", "'abc' is no port"),
        ("DATABASE_URL", "postgresql://db:65536/x?host=/a:b", "'65536' is no port"),
        ("REDIS_URL", "cache:6379", "it must look like redis://:password@host:6379/0"),
        ("REDIS_URL", "http://cache", "it must look like redis://:password@host:6379/0"),
        ("REDIS_URL", "rediss://:a@[::1]:x/0", "'x' is no port"),
        ("ALLOW_SHELL", "maybe", "'maybe' is neither 1 nor 0"),
        ("DATABASE_URL", "mysql://db", "it must look like postgresql://user:password@host"),
        ("DATABASE_URL", "db:5432", "it must look like postgresql://user:password@host"),
        ("LOG_LEVEL", "loud", "must be DEBUG, INFO, WARNING or ERROR"),
        ("WINDOW", "0", "must be at least 1"),
        ("CONNECTIONS", "-1", "must be at least 1"),
        ("API_PROCESSES", "-1", "must be at least 0"),
        ("API_PROCESSES", "all", "'all' is not a whole number"),
        ("SMTP_URL", "mail.acme.example", "must look like smtp://"),
        ("SECRET_KEY", "x", "must have at least 32 characters, like those that `openssl rand"),
        ("SECRET_KEY", "x" * 31, "must have at least 32 characters, like those that `openssl rand"),
        ("ADMIN_KEY", "ok_" + "x" * 12, "must have at least 16 characters, like those that"),
        *[
            ("CORS_ORIGINS", text, "is no origin; write https://host[:port]")
            for text in (
                "a.example",
                "https://a.example/",
                "https://a.example/x",
                "https://a.example:443",
                "http://a.example:80",
                "https://A.example",
                "null",
                "https://",
                "https://*.a.example",
                "https://u:p@a.example",
                "https://a.example,nope",
                "https://a.example?x",
                "**",
            )
        ],
    ],
)
def test_a_bad_value_is_refused_with_its_variable(variable: str, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"ORCHESTRATOR_{variable}") as refusal:
        read(**{variable: text})

    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgres", "postgresql+psycopg2", "postgresql+psycopg"]
)
def test_the_database_is_always_reached_with_our_driver(scheme: str) -> None:
    settings = read(DATABASE_URL=f"{scheme}://user:a%40b@db:5432/runs?sslmode=require")

    assert settings.database_url == (
        "postgresql+psycopg2://user:a%40b@db:5432/runs?sslmode=require"
    )


@pytest.mark.parametrize(
    "url",
    ["redis://", "redis://cache", "rediss://:a:b@[::1]:6379/0?x=a:b", "redis://u:p/#w@cache:1/0"],
)
def test_a_url_may_leave_out_what_it_wants(url: str) -> None:
    assert read(REDIS_URL=url).redis_url == url


def test_a_key_of_the_least_length_is_good_and_a_refused_one_is_not_shown() -> None:
    assert read(SECRET_KEY="s" * 32, ADMIN_KEY="a" * 16).admin_key == "a" * 16
    with pytest.raises(ValueError, match="ORCHESTRATOR_ADMIN_KEY") as refusal:
        read(ADMIN_KEY="hush")

    assert "hush" not in str(refusal.value)


def test_without_a_database_the_embedded_one_is_meant() -> None:
    assert read(DATABASE_URL="").database_url == ""


def test_a_lease_must_outlast_three_heartbeats() -> None:
    assert read(LEASE="3s", HEARTBEAT="1s").lease == timedelta(seconds=3)
    with pytest.raises(ValueError, match="ORCHESTRATOR_LEASE must outlast three heartbeats"):
        read(LEASE="2999ms", HEARTBEAT="1s")


def test_the_variables_of_settings_make_the_same_settings() -> None:
    variables = environ_of(EVERY)

    assert variables.keys() == {variable_of(each.name) for each in fields(Settings)}
    assert Settings.from_env(variables) == EVERY


def test_only_what_differs_from_the_default_becomes_a_variable() -> None:
    assert environ_of(Settings()) == {}
    assert environ_of(Settings(window=7)) == {"ORCHESTRATOR_WINDOW": "7"}


@pytest.mark.parametrize(
    ("processes", "total", "share"),
    [(1, 16, 16), (2, 16, 8), (3, 16, 6), (4, 2000, 500), (8, 4, 1)],
)
def test_the_processes_of_an_api_share_what_it_may_have(
    processes: int, total: int, share: int
) -> None:
    settings = Settings(api_processes=processes)

    assert settings.processes_of_api() == processes
    assert settings.of_one_process(total) == share


def test_an_api_has_as_many_processes_as_cores_but_not_too_many() -> None:
    cores = len(os.sched_getaffinity(0))

    assert Settings(api_processes=0).processes_of_api() == min(cores, 4)


def test_settings_are_shown_without_their_secrets() -> None:
    assert "hush" not in repr(EVERY)
    assert "window=7" in repr(EVERY)


def test_a_refused_database_is_not_shown() -> None:
    with pytest.raises(ValueError, match="ORCHESTRATOR_DATABASE_URL") as refusal:
        read(DATABASE_URL="mysql://user:hush@db/runs")

    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(
    ("process", "secrets"),
    [
        ("worker", {"ORCHESTRATOR_DATABASE_URL", "ORCHESTRATOR_REDIS_URL"}),
        ("flower", {"ORCHESTRATOR_REDIS_URL", "FLOWER_BASIC_AUTH", "FLOWER_PORT"}),
        (None, {"ORCHESTRATOR_DATABASE_URL", "ORCHESTRATOR_REDIS_URL", "ORCHESTRATOR_ADMIN_KEY",
                "ORCHESTRATOR_SECRET_KEY", "ORCHESTRATOR_SMTP_URL", "ORCHESTRATOR_KEY",
                "FLOWER_BASIC_AUTH", "FLOWER_PORT"}),
    ],
)  # fmt: skip
def test_a_process_gets_the_secrets_that_it_needs(process: str | None, secrets: set[str]) -> None:
    flower = {"FLOWER_BASIC_AUTH": "admin:hush", "FLOWER_PORT": "5555"}

    public, private = split_environ({**environ_of(EVERY), **flower, "ACME_KEY": "own"}, process)

    assert "hush" not in str(public)
    assert public["ACME_KEY"] == "own"
    assert public["ORCHESTRATOR_WINDOW"] == "7"
    assert private.keys() == secrets


def test_the_variables_of_references_are_secrets_and_no_settings() -> None:
    environ = {f"{PREFIX}SECRET__TOKEN": "hush", f"{PREFIX}SECRET__URL": "hush", "PATH": "/bin"}

    assert Settings.from_env(environ) == Settings()
    for process, names in (("worker", 2), ("scheduler", 2), ("api", 0), ("flower", 0), (None, 2)):
        public, secrets = split_environ(environ, process)
        assert public == {"PATH": "/bin"}
        assert len(secrets) == names


def test_one_underscore_too_few_is_an_unknown_setting() -> None:
    with pytest.raises(ValueError, match="unknown setting ORCHESTRATOR_SECRET_TOKEN"):
        read(SECRET_TOKEN="hush")


def test_more_secrets_than_a_pipe_takes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"put long secrets into files of ORCHESTRATOR_SECRETS_DIR"
    ):
        read(SECRET__A="x" * 5_000, SECRET__B="x" * 5_000)
