"""The errors that the core raises; the signals of a step's author are in `sdk.signals`."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

MAX_MISTAKES = 100  # of one answer
_MAX_POINTER, _MAX_DETAIL = 500, 1000  # characters


@dataclass(frozen=True)
class Mistake:
    """One mistake in a request: a JSON pointer to it, and what would be right.

    Long texts are cut: a caller's names and values, which are in them, may be megabytes.
    """

    pointer: str
    detail: str

    def __post_init__(self) -> None:
        for name, limit in (("pointer", _MAX_POINTER), ("detail", _MAX_DETAIL)):
            text = getattr(self, name)
            if len(text) > limit:
                object.__setattr__(self, name, f"{text[:limit]}…")


def first_mistakes(mistakes: Iterable[Mistake]) -> tuple[Mistake, ...]:
    """At most `MAX_MISTAKES`; after the last of them one that says that there are more."""
    first = tuple(islice(mistakes, MAX_MISTAKES + 1))
    if len(first) <= MAX_MISTAKES:
        return first
    return *first[:MAX_MISTAKES], Mistake("/", "there are more mistakes; correct these first")


class OrchestratorError(Exception):
    """The base class; its message is for the caller."""

    code = "error"


class NotFound(OrchestratorError):
    """No such thing for this tenant."""

    code = "not_found"


class Conflict(OrchestratorError):
    """The thing is not in a state that allows this."""

    code = "conflict"


class InvalidTransition(Conflict):
    """The run or step is in a state that this operation does not start from."""

    code = "invalid_transition"


class LeaseLost(Conflict):
    """Another attempt has the step now."""

    code = "lease_lost"


class Invalid(OrchestratorError):
    """The request is wrong; `mistakes` has each place."""

    code = "invalid"

    def __init__(self, message: str, *mistakes: Mistake) -> None:
        super().__init__(message)
        self.mistakes = first_mistakes(mistakes)


class InvalidSpec(Invalid):
    """The spec of a workflow is wrong."""

    code = "invalid_spec"


class InvalidParams(Invalid):
    """The parameters do not fit the workflow's JSON Schema."""

    code = "invalid_params"


class InvalidScope(Invalid):
    """The client does not have this scope, or there is no such scope."""

    code = "invalid_scope"


class InvalidGrant(Invalid):
    """A code or refresh token is not this client's, has expired, or was used."""

    code = "invalid_grant"


class IdempotencyMismatch(Invalid):
    """This idempotency key was used with another request."""

    code = "idempotency_mismatch"


class Unauthenticated(OrchestratorError):
    """No key, or an unknown one."""

    code = "unauthenticated"


class Forbidden(OrchestratorError):
    """The key's role or scopes do not suffice."""

    code = "forbidden"


class Unavailable(OrchestratorError):
    """The database cannot be reached or has another schema; nothing was written."""

    code = "unavailable"


class InDoubt(Unavailable):
    """The database became unavailable during a commit: the operation may have been done."""

    code = "in_doubt"
