"""The handlers that every worker has, called as functions."""

import time
from typing import Any

import pytest

from orchestrator import FailStep, StepCancelled, StepContext
from tests.support.factories import eventually
from tests.support.processes import is_alive
from workers.handlers import builtin_handlers, fail, http_handler, noop, sleep


@pytest.mark.parametrize("allow_shell", [True, False])
def test_every_worker_has_these_handlers(allow_shell: bool) -> None:
    assert builtin_handlers(allow_shell=allow_shell).names() == [
        "fail", "http", "noop", "shell", "sleep"
    ]  # fmt: skip


def test_shell_runs_only_where_it_is_allowed() -> None:
    context = StepContext(args={"command": ["echo", "hello"]})
    on, off = (builtin_handlers(allow_shell=allow).get("shell") for allow in (True, False))
    assert on
    assert off

    assert on(context) == {"exit_code": 0, "stdout": "hello\n", "stderr": ""}
    with pytest.raises(FailStep, match="ORCHESTRATOR_ALLOW_SHELL=1 turns it on"):
        off(context)


@pytest.mark.parametrize(("args", "result"), [({"a": [1]}, {"a": [1]}), ({}, None)])
def test_noop_returns_its_arguments(args: dict[str, Any], result: Any) -> None:
    assert noop(StepContext(args=args)) == result


@pytest.mark.parametrize(
    ("written", "seconds"), [(0, 0.0), (0.001, 0.001), ("0", 0.0), ("1ms", 0.001), ("100us", 1e-4)]
)
def test_sleep_takes_a_number_or_a_duration(written: Any, seconds: float) -> None:
    assert sleep(StepContext(args={"seconds": written})) == {"seconds": seconds}


@pytest.mark.parametrize("written", ["soon", "", -1, None, True, [1], {}], ids=repr)
def test_sleep_fails_for_good_without_a_duration(written: Any) -> None:
    with pytest.raises(FailStep, match=r"seconds: .* is not a duration"):
        sleep(StepContext(args={"seconds": written}))


def test_sleep_stops_when_cancelled() -> None:
    with pytest.raises(StepCancelled):
        sleep(StepContext(args={"seconds": 600}, cancelled=lambda: True))


@pytest.mark.parametrize("attempt", [1, 2, 1000])
def test_fail_fails_for_ever_by_default(attempt: int) -> None:
    with pytest.raises(RuntimeError, match="told to fail"):
        fail(StepContext(attempt=attempt))


def test_fail_fails_with_its_message_so_many_times() -> None:
    args = {"times": 2, "message": "out of luck"}

    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="out of luck"):
            fail(StepContext(args=args, attempt=attempt))
    assert fail(StepContext(args=args, attempt=3)) == {"attempt": 3}


@pytest.mark.parametrize("args", [{}, {"url": None}, {"url": 5}], ids=repr)
def test_http_without_an_address_fails_for_good(args: dict[str, Any]) -> None:
    with pytest.raises(FailStep, match=r"with\.url must be the address to call"):
        http_handler()(StepContext(args=args))


@pytest.mark.parametrize("url", ["example", "ftp://example", "http://", ""], ids=repr)
def test_http_with_an_impossible_address_fails_for_good(url: str) -> None:
    with pytest.raises(FailStep, match="the request cannot be sent"):
        http_handler()(StepContext(args={"url": url}))


def _shell(command: Any, *names: str, **args: Any) -> Any:
    handler = builtin_handlers(allow_shell=True, shell_env=names).get("shell")
    assert handler
    context = StepContext(args={"command": command, **args}, idempotency_key="the-step")
    return handler(context)


@pytest.mark.parametrize(
    ("command", "args", "stdout", "stderr"),
    [
        ("echo out; echo err >&2", {}, "out\n", "err\n"),
        (["printf", "%s|", "a b", "$HOME"], {}, "a b|$HOME|", ""),
        ("cat", {"stdin": "a\nb"}, "a\nb", ""),
        ("cat; echo end", {}, "end\n", ""),
        ("true", {"stdin": "x" * 1_000_000}, "", ""),
        ("pwd", {"cwd": "/"}, "/\n", ""),
        ("echo $A $B $IDEMPOTENCY_KEY", {"env": {"A": 1, "B": "two"}}, "1 two the-step\n", ""),
        ("printf '\\377\\000'", {}, "\ufffd\ufffd", ""),
        ("exec >&- 2>&-; sleep 0.3", {}, "", ""),
    ],
)
def test_shell_returns_what_the_command_wrote(
    command: Any, args: dict[str, Any], stdout: str, stderr: str
) -> None:
    assert _shell(command, **args) == {"exit_code": 0, "stdout": stdout, "stderr": stderr}


def test_shell_keeps_the_end_of_each_stream() -> None:
    result = _shell("seq 200000; seq 300000 >&2")

    assert len(result["stdout"]) == len(result["stderr"]) == 32 * 1024
    assert result["stdout"].endswith("\n200000\n")
    assert result["stderr"].endswith("\n300000\n")


def test_shell_passes_its_output_on(capfd: pytest.CaptureFixture[str]) -> None:
    _shell("echo out; echo err >&2")

    assert capfd.readouterr() == ("out\n", "err\n")


@pytest.mark.parametrize(
    "background",
    ["sleep 60", "(trap '' HUP; sleep 60)", "yes", "sleep 60 >/dev/null 2>&1"],
)
def test_shell_ends_with_its_command_and_ends_what_that_left_behind(background: str) -> None:
    begin = time.monotonic()

    pid = int(_shell(f"{background} & echo $! >&2; echo done")["stderr"].split()[0])

    assert time.monotonic() - begin < 3
    eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo first >&2; echo last >&2; exit 3", "exit code 3: last"),
        ("echo only; exit 1", "exit code 1: only"),
        ("exit 2", "exit code 2"),
        ("kill -9 $$", "ended by SIGKILL"),
    ],
)
def test_shell_fails_with_the_code_and_the_last_line(command: str, message: str) -> None:
    with pytest.raises(RuntimeError) as raised:
        _shell(command)

    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"command": ""}, "with.command must be a text or a list of texts"),
        ({"command": []}, "with.command must be a text or a list of texts"),
        ({"command": ["echo", 1]}, "with.command must be a text or a list of texts"),
        ({"command": {"a": 1}}, "with.command must be a text or a list of texts"),
        ({"command": "true", "env": ["A=1"]}, "with.env must be an object of names and values"),
        ({"command": "true", "cwd": "/nowhere"}, "the command does not start: .*nowhere"),
        ({"command": "true", "cwd": 5.5}, "the command does not start"),
        ({"command": ["nobody-has-this"]}, "the command does not start: .*nobody-has-this"),
        ({"command": "echo \0"}, "the command does not start: .*null byte"),
        ({"command": "true", "env": {"A=B": "c"}}, "the command does not start"),
    ],
)
def test_a_command_that_cannot_start_fails_for_good(args: dict[str, Any], message: str) -> None:
    with pytest.raises(FailStep, match=message):
        _shell(**args)


def test_a_command_gets_only_the_harmless_part_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "ORCHESTRATOR_STEPS", "FLOWER_BASIC_AUTH"):
        monkeypatch.setenv(name, "hush")
    for name in ("TZ", "LC_TIME", "JAVA_HOME", "ACME_ONE", "https_proxy"):
        monkeypatch.setenv(name, "public")

    output = _shell("env", "JAVA_HOME", "ACME_*")["stdout"]

    assert "hush" not in output
    assert sorted(line for line in output.splitlines() if line.endswith("=public")) == [
        "ACME_ONE=public", "JAVA_HOME=public", "LC_TIME=public", "TZ=public", "https_proxy=public"
    ]  # fmt: skip


def test_shell_stops_when_cancelled() -> None:
    handler = builtin_handlers(allow_shell=True).get("shell")
    assert handler
    polls = iter([False, False, True])

    with pytest.raises(StepCancelled):
        handler(StepContext(args={"command": "sleep 60"}, cancelled=lambda: next(polls)))
