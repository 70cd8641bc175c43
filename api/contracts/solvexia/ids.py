"""SolveXia's ids: a prefix for the kind, and the number of the row.

The steps of a run are rows, the steps of a process are not: they are counted from a number that
no row reaches, so that the id alone says whose step it is. So are properties, in their step.
"""

import re
from typing import NamedTuple

from orchestrator.errors import NotFound
from orchestrator.spec.parser import MAX_STEPS

_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
_FIRST_OF_PROCESSES = 9_000_000_000_000
MOST_PARAMETERS = 500  # of one process that have an id
MOST_FILES = 500  # of one step that have an id as properties, behind the parameters
_PROPERTIES = MOST_PARAMETERS + MOST_FILES


class ProcessStep(NamedTuple):
    """One step of a process, which is a part of its spec."""

    process: int
    position: int  # from 0


def number_in(wire: str, kind: str, *prefixes: str) -> int:
    """The number in an id. Raises NotFound for what is no id of this kind."""
    prefix, _, digits = wire.partition("-")
    if prefix not in prefixes or not _NUMBER.fullmatch(digits):
        raise NotFound(f"there is no {kind} {wire[:100]!r}; its id looks like {prefixes[0]}-123")
    return int(digits)


def number_of(step: ProcessStep) -> int:
    """The number in the id of a process's step."""
    return _FIRST_OF_PROCESSES + step.process * MAX_STEPS + step.position


def process_step(number: int) -> ProcessStep | None:
    """The step of a process that a number stands for; None for a step of a run."""
    if number < _FIRST_OF_PROCESSES:
        return None
    return ProcessStep(*divmod(number - _FIRST_OF_PROCESSES, MAX_STEPS))


def property_id(step: int, position: int) -> str:
    """The id of a parameter, or of a file, as a property of a step."""
    return f"dsprop-{step * _PROPERTIES + position}"


def property_in(wire: str, step: int) -> int:
    """The position in the id of a property. Raises NotFound for another step's."""
    of, position = divmod(number_in(wire, "property", "dsprop"), _PROPERTIES)
    if of != step:
        raise NotFound(f"step ds-{step} has no property {wire}")
    return position
