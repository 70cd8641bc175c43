"""What can be said of an exception that a step raised, whatever its class does.

Its `__str__`, `__notes__`, `__getattr__` and the like are user code: they may raise, recurse,
return what is no text, or a text of any size.
"""

import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from orchestrator.access.references import SecretMissing, SecretUnavailable
from orchestrator.engine.outcomes import Failed
from orchestrator.sdk.masking import NO_MASK, Mask
from orchestrator.sdk.signals import FailStep, RetryStep, StepSignal
from orchestrator.spec.templates import TemplateError

_MAX_MESSAGE = 8_000  # characters
_MAX_TRACEBACK = 8_000  # characters, the last ones
_FINAL = (TemplateError, SecretMissing, FailStep)
_MAX_CLASSES = 20  # of an exception, for the retry policy


def failure_of(error: BaseException, mask: Mask = NO_MASK) -> Failed:
    """The failure that an exception makes of an attempt. Raises nothing but an order to stop.

    Its texts are masked before they are cut.
    """
    match error:
        case TemplateError() | SecretMissing() | FailStep():
            kind = next(each.__name__ for each in _FINAL if isinstance(error, each))
            return Failed(text_of(error, mask), (kind,), final=True)
        case SecretUnavailable():
            return Failed(text_of(error, mask), _kinds(error))
        case RetryStep():
            after = error.after if isinstance(error.after, timedelta) else None
            attempts = error.attempts if isinstance(error.attempts, int) else 1
            kinds = _all_kinds(error)
            return Failed(text_of(error, mask), kinds, after=after, attempts=attempts)
        case SoftTimeLimitExceeded():
            kinds = ("Timeout", *_kinds(error))
            message = f"the step ran longer than its soft time limit{_limit_of(error)}"
            return Failed(message, kinds, traceback=_traceback(error, mask))
        case _:
            kinds, trace = _kinds(error), _traceback(error, mask)
            return Failed(_message(error, mask), kinds, traceback=trace)


def text_of(error: BaseException, mask: Mask = NO_MASK) -> str:
    """The masked text of an exception; empty if it cannot be had."""
    text = mask.text(_try(lambda: str(error), ""))
    if len(text) <= _MAX_MESSAGE:
        return text
    return f"{text[:_MAX_MESSAGE]}… ({len(text):,} characters)"


def _message(error: BaseException, mask: Mask) -> str:
    """The class and the text of an exception."""
    name, text = _attribute(type(error), "__name__"), text_of(error, mask)
    return f"{name}: {text}" if text else name


def _kinds(error: BaseException) -> tuple[str, ...]:
    """The names of an exception's classes, short and with their module, nearest first."""
    kinds: list[str] = []
    for each in type.mro(type(error))[:_MAX_CLASSES]:
        if each not in (object, BaseException):
            name = _attribute(each, "__name__")
            kinds += [name, f"{_attribute(each, '__module__')}.{name}"]
    return tuple(kinds)


def _all_kinds(error: RetryStep) -> tuple[str, ...]:
    """Its classes, and those of the exception for which the step is retried."""
    cause: Any = vars(BaseException)["__cause__"].__get__(error)  # not the class's own
    return (*_kinds(error), *(() if cause is None else _kinds(cause)))


def _limit_of(error: SoftTimeLimitExceeded) -> str:
    match error.args:
        case (int() | float() as seconds,):
            return f" of {seconds:g} s"
    return ""


def _traceback(error: BaseException, mask: Mask) -> str:
    """The traceback without our own frame that called the handler.

    Of an exception that cannot be formatted, the frames alone.
    """
    first: Any = vars(BaseException)["__traceback__"].__get__(error)  # not the class's own
    below = first.tb_next if first else None
    text = _try(lambda: "".join(traceback.format_exception(type(error), error, below)), "")
    text = text or _try(lambda: "".join([*traceback.format_tb(below), _message(error, mask)]), "")
    return mask.text(text)[-_MAX_TRACEBACK:]


def _attribute(of: type, name: str) -> str:
    """A text that Python keeps for a class, past what its metaclass makes of it."""
    return _try(lambda: type.__getattribute__(of, name), "") or "Exception"


def _try(read: Callable[[], str], otherwise: str) -> str:
    """The plain text that is read; the other one if that fails, in whatever way."""
    try:
        return str.__getitem__(read(), slice(None))  # of a subclass: a plain text
    except StepSignal:  # the step's timeout passed meanwhile
        raise
    except BaseException:
        return otherwise
