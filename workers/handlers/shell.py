"""`shell`: one command as a step, where `ORCHESTRATOR_ALLOW_SHELL` is set."""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import IO, Any

from orchestrator import FailStep, StepCancelled, StepContext
from orchestrator.sdk.masking import Mask, MaskedStream
from orchestrator.sdk.steps import Handler
from workers.isolation import processes

_MAX_STREAM = 32 * 1024  # bytes of each stream in the result, the last ones
_CHUNK = 64 * 1024  # bytes read at once
_POLL = 0.1  # seconds until a command is noticed that ended while its streams stay open
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_MARK = "IDEMPOTENCY_KEY"  # in the environment of the command and of all that it starts
# What a command gets of the worker's environment, beside the names of `ORCHESTRATOR_SHELL_ENV`.
_ENVIRONMENT = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TERM",
    "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip


def shell_handler(names: Iterable[str] = ()) -> Handler:
    """The handler; its commands get these variables of the worker's environment, too."""
    patterns = (*_ENVIRONMENT, *names)
    return Handler(lambda context: _shell(context, patterns), "shell")


def refuse_shell(_: StepContext) -> None:
    """Fail the step: this worker does not allow `shell`."""
    raise FailStep("the shell handler is off here; ORCHESTRATOR_ALLOW_SHELL=1 turns it on")


def _shell(context: StepContext, patterns: Iterable[str]) -> dict[str, Any]:
    """Run `command`: a list is executed directly, a text by /bin/sh; with `env`, `cwd`, `stdin`.

    Its output goes to the log of the run. The step ends when the command ends, and with it what the
    command has left in the background. The result has `exit_code`, `stdout` and `stderr`, the last
    32 KiB of each; a code other than 0 fails the step.
    """
    process = _start(context, patterns)
    with process, _Output(process, context.recorder.mask) as output:
        try:
            _await_end(process, output, context)
        finally:
            _end_rest(process, output, context.idempotency_key)
    code, result = process.returncode, output.result()
    if code:
        last = (result["stderr"] or result["stdout"]).strip().splitlines()[-1:]
        raise RuntimeError(": ".join([_end(code), *last]))
    return {"exit_code": code, **result}


class _Output:
    """The streams of a command: passed on to ours, with the end of each kept."""

    def __init__(self, process: subprocess.Popen[bytes], mask: Mask) -> None:
        assert process.stdout
        assert process.stderr
        self._streams = {
            process.stdout: ("stdout", sys.stdout.buffer),
            process.stderr: ("stderr", sys.stderr.buffer),
        }
        self._tails = {name: b"" for name, _ in self._streams.values()}
        self._masked = {name: MaskedStream(mask) for name in self._tails}
        self._selector = selectors.DefaultSelector()
        for stream in self._streams:
            self._selector.register(stream, selectors.EVENT_READ)

    def __enter__(self) -> "_Output":
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    @property
    def is_open(self) -> bool:
        """Whether there may be more."""
        return bool(self._selector.get_map())

    def read(self, within: float) -> bool:
        """Pass on what is there, or comes within these seconds; False if there was nothing."""
        ready = [key.fileobj for key, _ in self._selector.select(within)]
        for stream, (name, target) in self._streams.items():  # stdout first
            if stream in ready:
                self._pass_on(stream, name, target)
        return bool(ready)

    def result(self) -> dict[str, str]:
        """The end of each stream as text."""
        for name, stream in self._masked.items():
            self._keep(name, stream.end())
        return {
            name: tail.decode("utf-8", "replace").replace("\x00", "\ufffd")
            for name, tail in self._tails.items()
        }

    def _keep(self, name: str, data: bytes) -> None:
        self._tails[name] = (self._tails[name] + data)[-_MAX_STREAM:]

    def _pass_on(self, stream: IO[bytes], name: str, target: IO[bytes]) -> None:
        data = os.read(stream.fileno(), _CHUNK)
        if not data:
            self._selector.unregister(stream)
            return
        self._keep(name, self._masked[name].add(data))  # masked before it is cut
        target.write(data)
        target.flush()


def _start(context: StepContext, patterns: Iterable[str]) -> subprocess.Popen[bytes]:
    command, env = context.args.get("command"), context.args.get("env") or {}
    is_list = isinstance(command, list) and all(isinstance(word, str) for word in command)
    if not command or not (is_list or isinstance(command, str)):
        raise FailStep("with.command must be a text or a list of texts")
    if not isinstance(env, Mapping):
        raise FailStep("with.env must be an object of names and values")
    outer = {
        name: text
        for name, text in os.environ.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    own = {name: str(value) for name, value in env.items()}
    with tempfile.TemporaryFile() as stdin:
        stdin.write(str(context.args.get("stdin", "")).encode())
        stdin.seek(0)
        try:
            return subprocess.Popen(
                command,
                shell=isinstance(command, str),
                env={**outer, _MARK: context.idempotency_key, **own},
                cwd=context.args.get("cwd"),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError, TypeError) as error:
            raise FailStep(f"the command does not start: {error}") from error


def _await_end(process: subprocess.Popen[bytes], output: _Output, context: StepContext) -> None:
    """Pass on the output until the command has ended, or the step is cancelled."""
    while process.poll() is None:
        if context.cancelled():
            raise StepCancelled("told to stop")
        if output.is_open:
            output.read(_POLL)
        else:
            time.sleep(_POLL)


def _end_rest(process: subprocess.Popen[bytes], output: _Output, key: str) -> None:
    """End the command and what it has left behind; pass on what they printed last."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    processes.end_session(process.pid, {_MARK: key}, _GRACE)
    process.wait()
    until = time.monotonic() + _GRACE  # somebody else may write to its streams, too
    while output.is_open and output.read(0) and time.monotonic() < until:
        pass


def _end(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
