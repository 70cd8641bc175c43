"""The container setup and its page agree with the code; needs no container engine."""

import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from config import gunicorn
from config.settings import PREFIX, Settings, variable_of
from orchestrator.cli.main import main
from orchestrator.db.row_security import API_ROLE
from orchestrator.local import processes, stack
from orchestrator.spec.durations import parse_duration
from tests.support.documentation import commands

Services = dict[str, dict[str, Any]]

ROOT = Path(__file__).parents[2]
SECRETS = {
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "ORCHESTRATOR_ADMIN_KEY",
    "ORCHESTRATOR_SECRET_KEY",
    "FLOWER_BASIC_AUTH",
}
SECRET = "0123456789abcdef" * 3  # a value of each of them
COMMANDS = ("migrate", "api", "scheduler", "worker")
PROCESSES = ("api", "scheduler", "worker", "flower")
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<rest>[^}]*)\}")


@pytest.fixture(scope="module")
def compose() -> str:
    """The text of docker-compose.yml."""
    return (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def services(compose: str) -> Services:
    """Its services, by name."""
    services: Services = yaml.safe_load(compose)["services"]
    return services


@pytest.fixture(scope="module")
def dockerfile() -> str:
    """The Dockerfile, one line per instruction."""
    return (ROOT / "Dockerfile").read_text().replace("\\\n", "")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """The document pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_one_that_the_command_line_takes(services: Services, name: str) -> None:
    command, *arguments = services[name]["command"]

    main.commands[command].make_context(command, arguments)  # raises for an unknown option

    assert command == name
    assert "entrypoint" not in services[name]


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(click.NoSuchOption):
        main.commands["worker"].make_context("worker", ["--twice"])


def test_flower_starts_as_up_starts_it_but_for_its_address(services: Services) -> None:
    flower = services["flower"]

    python, *arguments = [*flower["entrypoint"], *flower["command"]]

    assert python == "python"
    assert arguments == stack.flower_command(Settings().flower_port, "0.0.0.0")[1:]


@pytest.mark.parametrize("name", ["migrate", *PROCESSES])
def test_the_environment_of_every_process_reads_as_settings(services: Services, name: str) -> None:
    environ = {key: _expanded(text) for key, text in services[name]["environment"].items()}

    settings = Settings.from_env(environ)  # raises for a variable that is no setting

    assert settings.database_url.endswith(f"://orchestrator:{SECRET}@postgres:5432/orchestrator")
    assert settings.redis_url == f"redis://:{SECRET}@redis:6379/0"


def _expanded(text: str) -> str:
    """The text as Compose expands it when only the required variables are set."""
    return VARIABLE.sub(lambda match: SECRET if match["rest"].startswith(":?") else "", text)


def test_no_secret_has_a_default(compose: str, services: Services) -> None:
    used = [(match["name"], match["rest"]) for match in VARIABLE.finditer(compose)]
    environ = [pair for each in services.values() for pair in each.get("environment", {}).items()]
    secret = {text for name, text in environ if re.search("PASSWORD|KEY|AUTH|SECRET", name)}
    in_urls = [secret for _, text in environ for secret in re.findall(r"//\w*:(.+)@", text)]

    assert {name for name, rest in used if rest.startswith(":?")} == SECRETS
    assert {name for name, rest in used if not rest.startswith(":?")} == {
        f"{PREFIX}STEPS",
        "PROXY_DOMAIN",
    }
    assert len(secret) == len(SECRETS)
    assert all(VARIABLE.fullmatch(text) for text in [*secret, *in_urls])


def test_only_migrate_is_given_the_admin_key(services: Services) -> None:
    key = f"{PREFIX}ADMIN_KEY"

    assert [name for name in services if key in services[name].get("environment", {})] == [
        "migrate"
    ]


def test_api_and_scheduler_have_the_same_secret_key(services: Services) -> None:
    key = f"{PREFIX}SECRET_KEY"

    assert [name for name in services if key in services[name].get("environment", {})] == [
        "api",
        "scheduler",
    ]


def test_api_and_workers_share_the_artifacts(services: Services) -> None:
    (volume,) = services["api"]["volumes"]

    assert services["worker"]["volumes"] == [volume]


def test_any_number_of_workers_and_schedulers_can_run(services: Services) -> None:
    for name in ("worker", "scheduler"):
        assert services[name].keys().isdisjoint({"container_name", "hostname", "ports"})


def test_processes_start_on_a_migrated_schema_and_start_again_when_they_end(
    services: Services,
) -> None:
    for name in PROCESSES:
        needs = {key: each["condition"] for key, each in services[name]["depends_on"].items()}
        assert needs == {
            "migrate": "service_completed_successfully",
            "redis": "service_healthy",
        }
        assert services[name]["restart"] == "unless-stopped"
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "restart" not in services["migrate"]
    assert all("healthcheck" in services[name] for name in ("postgres", "redis", "api"))


def test_a_stop_gives_each_process_the_time_it_asks_for(services: Services) -> None:
    granted = {name: services[name]["stop_grace_period"] for name in ("api", "worker")}

    slack = timedelta(seconds=processes.STOP_SECONDS)
    assert parse_duration(granted["worker"]) >= Settings().drain_grace + slack
    assert parse_duration(granted["api"]) > timedelta(seconds=gunicorn.graceful_timeout)


@pytest.mark.parametrize(("name", "oldest"), [("postgres", (15,)), ("redis", (6, 2))])
def test_the_services_are_new_enough(
    services: Services, name: str, oldest: tuple[int, ...]
) -> None:
    image, _, tag = services[name]["image"].partition(":")

    assert image == name
    assert tuple(int(number) for number in tag.split(".")) >= oldest


def test_what_is_published_beside_the_proxy_is_for_this_machine_only(services: Services) -> None:
    published = {name: each["ports"] for name, each in services.items() if "ports" in each}

    assert published == {
        "api": ["127.0.0.1:8000:8000"],
        "flower": ["127.0.0.1:5555:5555"],
        "proxy": ["80:80", "443:443"],
    }
    assert {name for name, each in services.items() if "profiles" in each} == {"proxy"}


def test_the_proxy_passes_the_requests_of_a_name_on_to_the_api(services: Services) -> None:
    mounts = dict(each.split(":")[:2] for each in services["proxy"]["volumes"])
    (source,) = [source for source, target in mounts.items() if target == "/etc/caddy/Caddyfile"]
    lines = [line.strip() for line in (ROOT / source).read_text().splitlines()]

    assert services["proxy"]["environment"].keys() == {"PROXY_DOMAIN"}
    assert "{$PROXY_DOMAIN} {" in lines
    assert "reverse_proxy api:8000 {" in lines


def test_redis_asks_for_a_password_that_no_argument_shows(services: Services) -> None:
    redis = services["redis"]
    shell, option, script = redis["command"]

    assert (shell, option) == ("sh", "-c")
    assert script.startswith("exec redis-server - <<EOF\nrequirepass $$REDISCLI_AUTH\n")
    assert VARIABLE.findall(script) == []
    assert VARIABLE.findall(redis["environment"]["REDISCLI_AUTH"])[0][0] == "REDIS_PASSWORD"
    assert redis["healthcheck"]["test"] == ["CMD-SHELL", "redis-cli ping | grep -q PONG"]


def test_compose_takes_the_file_and_needs_every_secret() -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker")
    config = ["docker", "compose", "--profile", "proxy", "config", "--quiet"]
    environ = {"PATH": os.environ["PATH"], **dict.fromkeys(SECRETS, SECRET)}
    refused = [
        name
        for name in SECRETS
        if subprocess.run(
            config, cwd=ROOT, env={**environ, name: ""}, check=False, capture_output=True
        ).returncode
    ]

    assert subprocess.run(config, cwd=ROOT, env=environ, check=False).returncode == 0
    assert sorted(refused) == sorted(SECRETS)


def test_the_image_has_all_the_code_and_nothing_else_gets_near_it(
    dockerfile: str, pyproject: dict[str, Any]
) -> None:
    roots = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
    sources = {name.rstrip("/") for names in copied for name in names.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert sources == {*roots, "examples", "requirements.lock", "pyproject.toml", "README.md"}
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == sources


def test_the_image_runs_the_command_line_as_no_root(dockerfile: str) -> None:
    lines = dockerfile.splitlines()

    assert lines[-1] == 'ENTRYPOINT ["orchestrator"]'
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]


def test_the_image_installs_what_is_locked_to_run_and_then_only_itself(dockerfile: str) -> None:
    installs = [each.split() for each in re.findall(r"pip install ([^&\n]+)", dockerfile)]

    assert installs == [
        ["--require-hashes", "-r", "requirements.lock"],
        ["--no-deps", "--no-build-isolation", "--editable", "."],
    ]


def test_the_page_names_every_setting_with_its_default() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(rf"^\| `({PREFIX}\w+)` \| (?:`([^`]*)` )?\|", page, re.MULTILINE)

    assert [name for name, _ in rows] == [variable_of(each.name) for each in fields(Settings)]
    assert Settings.from_env(dict(rows)) == Settings()


def test_the_page_shows_how_to_start_with_every_secret() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()

    assert all(f"{name}=" in page for name in SECRETS)


@pytest.mark.parametrize("heading", ["Deploy", "Back up", "Upgrade"])
def test_the_commands_of_the_page_name_services_that_exist(
    services: Services, heading: str
) -> None:
    lines = [line for block in commands("operations.md", heading) for line in block]
    typed = [line.split() for line in lines if re.match("docker compose (exec|run) ", line)]

    assert typed
    assert [each for each in typed if services.keys().isdisjoint(each)] == []


def test_a_backup_has_every_volume_and_a_restore_makes_the_role_that_is_in_no_dump(
    compose: str, services: Services
) -> None:
    back_up, restore = ("\n".join(block) for block in commands("operations.md", "Back up"))
    (mounted,) = services["api"]["volumes"]
    folder, name = mounted.partition(":")[2].rsplit("/", 1)

    assert set(yaml.safe_load(compose)["volumes"]) == {"postgres", name, "certificates"}
    assert f"exec -T api tar -C {folder} -cf - {name} > backup.tar" in back_up
    assert f"--entrypoint tar api -C {folder} -xf - < backup.tar" in restore
    assert back_up.index("pg_dump") < back_up.index("tar")  # no file that the dump names is missing
    assert restore.index(f"CREATE ROLE {API_ROLE} ") < restore.index("pg_restore")
    assert "cp .env " in back_up
