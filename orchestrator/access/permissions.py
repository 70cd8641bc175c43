"""The rights of the native API and of all contracts: who may do what with which resource.

A resource is the first word of an address of the native API. Each route of each API names the
resources that it reads or changes, and this table says which role and scope that takes.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple

from orchestrator.models import Role

DEFAULT_TENANT = "default"  # of who operates the deployment
READ_SUFFIX = ":read"  # of a scope that does not include changes


class Verb(enum.StrEnum):
    """What is done with a resource."""

    READ = "read"
    CHANGE = "change"  # also to create, delete, start, stop, and to be shown its secrets
    LEND = "lend"  # let runs use the rights of another user
    IDENTIFY = "identify"  # see the hosts and process ids of the deployment, only as its operator


class Right(NamedTuple):
    """The lowest role and the scope that something needs."""

    role: Role
    scope: str


_VIEWER, _OPERATOR, _ADMIN = Role
_ROLES: Mapping[str, Mapping[Verb, Role]] = {
    "workflows": {Verb.READ: _VIEWER, Verb.CHANGE: _ADMIN},
    "runs": {Verb.READ: _VIEWER, Verb.CHANGE: _OPERATOR, Verb.LEND: _ADMIN},
    "events": {Verb.READ: _VIEWER},
    "outputs": {Verb.READ: _VIEWER},  # log lines
    "artifacts": {Verb.READ: _VIEWER, Verb.CHANGE: _OPERATOR},
    "schedules": {Verb.READ: _VIEWER, Verb.CHANGE: _OPERATOR, Verb.LEND: _ADMIN},
    "backfills": {Verb.READ: _VIEWER, Verb.CHANGE: _OPERATOR},
    "system": {Verb.READ: _VIEWER, Verb.IDENTIFY: _ADMIN},  # workers, queues, status
    "tenants": {Verb.READ: _VIEWER, Verb.CHANGE: _ADMIN},
    "projects": {Verb.READ: _VIEWER, Verb.CHANGE: _ADMIN},
    "webhooks": {Verb.READ: _VIEWER, Verb.CHANGE: _ADMIN},
    "deliveries": {Verb.READ: _VIEWER, Verb.CHANGE: _OPERATOR},
    "keys": {Verb.READ: _ADMIN, Verb.CHANGE: _ADMIN},
    "audit": {Verb.READ: _ADMIN},
}
RIGHTS: Mapping[tuple[str, Verb], Right] = {
    (resource, verb): Right(
        role, f"{resource}{READ_SUFFIX}" if verb in (Verb.READ, Verb.IDENTIFY) else resource
    )
    for resource, roles in _ROLES.items()
    for verb, role in roles.items()
}
