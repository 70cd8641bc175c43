"""Everything the core raises on purpose.

    OrchestratorError
    ├── NotFound             no such thing for this tenant
    ├── Conflict             not in this state
    │   ├── InvalidTransition    the run or step is somewhere this verb does not start from
    │   └── LeaseLost            another attempt answers for the step now
    ├── Invalid              the request itself is wrong, `mistakes` says where
    │   ├── InvalidSpec          a workflow's spec
    │   ├── InvalidParams        a run's parameters
    │   ├── InvalidScope         a token's scope
    │   └── IdempotencyMismatch  this key came before with another request
    ├── Unauthenticated      no key, or one we do not know
    ├── Forbidden            a key whose role does not reach this far
    └── Unavailable          Postgres is away or its schema is old; nothing was written
        └── InDoubt              it went away while it committed; perhaps it was written

What the author of a step raises is a tree of its own, in `handlers`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: where (a JSON pointer) and what would be right."""

    pointer: str
    detail: str


class OrchestratorError(Exception):
    """Something a caller can be told about."""

    code = "error"


class NotFound(OrchestratorError):
    """No such thing for this tenant."""

    code = "not_found"


class Conflict(OrchestratorError):
    """The thing is not in a state that allows this."""

    code = "conflict"


class InvalidTransition(Conflict):
    """The run or step is somewhere this verb does not start from."""

    code = "invalid_transition"


class LeaseLost(Conflict):
    """Another attempt answers for the step now."""

    code = "lease_lost"


class Invalid(OrchestratorError):
    """The request is wrong; `mistakes` says where."""

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
    """The client does not have this scope, or it is none."""

    code = "invalid_scope"


class IdempotencyMismatch(Invalid):
    """This idempotency key came before with another request."""

    code = "idempotency_mismatch"


class Unauthenticated(OrchestratorError):
    """No key, or one we do not know."""

    code = "unauthenticated"


class Forbidden(OrchestratorError):
    """The key's role does not reach this far."""

    code = "forbidden"


class Unavailable(OrchestratorError):
    """The database cannot be reached or has another schema; nothing was written."""

    code = "unavailable"


class InDoubt(Unavailable):
    """The database went away while it committed: what was asked for may have been done."""

    code = "in_doubt"
