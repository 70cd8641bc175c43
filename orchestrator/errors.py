"""The errors that the core raises; the signals of a step's author are in `sdk.signals`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One mistake in a request: a JSON pointer to it, and what would be right."""

    pointer: str
    detail: str


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
        self.mistakes = mistakes


class InvalidSpec(Invalid):
    """The spec of a workflow is wrong."""

    code = "invalid_spec"


class InvalidParams(Invalid):
    """The parameters do not fit the workflow's JSON Schema."""

    code = "invalid_params"


class InvalidScope(Invalid):
    """The client does not have this scope, or there is no such scope."""

    code = "invalid_scope"


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
