"""`shell`: one command as a step, where `ORCHESTRATOR_ALLOW_SHELL` is set."""

import os
import signal
import subprocess
from typing import Any

from orchestrator import FailStep, StepCancelled, StepContext

_MAX_STREAM = 32 * 1024  # bytes of each stream in the result, the last ones
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def shell(context: StepContext) -> dict[str, Any]:
    """Run `command`: a list is executed directly, a text by /bin/sh; with `env`, `cwd`, `stdin`.

    The result has `exit_code`, `stdout` and `stderr`; a code other than 0 fails the step.
    """
    command = context.args.get("command")
    if not command or not isinstance(command, str | list):
        raise FailStep("with.command must be a text or a list of texts")
    process = _start(command, context)
    try:
        stdout, stderr = process.communicate(str(context.args.get("stdin", "")).encode())
    except StepCancelled:
        _end_group(process)
        raise
    code, output = process.returncode, {"stdout": _tail(stdout), "stderr": _tail(stderr)}
    if code:
        last = (output["stderr"] or output["stdout"]).strip().splitlines()[-1:]
        raise RuntimeError(f"exit code {code}: {''.join(last)}")
    return {"exit_code": code, **output}


def refuse_shell(_: StepContext) -> None:
    """Fail the step: this worker does not allow `shell`."""
    raise FailStep("the shell handler is off here; ORCHESTRATOR_ALLOW_SHELL=1 turns it on")


def _start(command: str | list[str], context: StepContext) -> subprocess.Popen[bytes]:
    own = {name: str(value) for name, value in context.args.get("env", {}).items()}
    # The orchestrator's own settings hold secrets and are not passed on.
    outer = {name: text for name, text in os.environ.items() if not name.startswith("ORCHESTRATOR")}
    try:
        return subprocess.Popen(
            command,
            shell=isinstance(command, str),
            env={**outer, "IDEMPOTENCY_KEY": context.idempotency_key, **own},
            cwd=context.args.get("cwd"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a process group of its own, stopped as a whole
        )
    except OSError as error:
        raise FailStep(f"the command does not start: {error}") from error


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Stop the command and every process that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _tail(stream: bytes) -> str:
    return stream[-_MAX_STREAM:].decode("utf-8", "replace").replace("\x00", "\ufffd")
