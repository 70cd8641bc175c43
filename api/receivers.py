"""Fields for who is told about what: types of events, URLs and mail addresses."""

from collections.abc import Callable, Sequence
from typing import Any

from marshmallow import ValidationError, fields, validate

from api.context import settings
from config.settings import PREFIX
from orchestrator import targets
from orchestrator.outbox import TOLD

_MOST = 20  # of one list


def event_types(**options: Any) -> fields.List[str]:
    """Types of events that somebody can be told about."""
    names = sorted(TOLD)
    each = fields.String(
        validate=validate.OneOf(names, error=f"unknown; there are {', '.join(names)}")
    )
    return fields.List(each, validate=[validate.Length(1, _MOST), _each_once], **options)


def urls() -> fields.List[str]:
    """Where a webhook of a run goes."""
    return _many(lambda url: targets.read_url(url, allow_private=_private()))


def mail_addresses(*, needs_server: bool = True) -> fields.List[str]:
    """Who gets mail about a run; refused where no mail server is set, if it needs one."""
    return _many(_read_mail if needs_server else targets.read_mail)


def boolean(about: str | None = None, **options: Any) -> fields.Raw:
    """true or false, and nothing that may mean one of them."""
    told = {"type": "boolean", **({"description": about} if about else {})}
    return fields.Raw(validate=_is_boolean, metadata=told, **options)


def _many(read: Callable[[str], object]) -> fields.List[str]:
    def check(text: str) -> None:
        try:
            read(text)
        except targets.Refused as error:
            raise ValidationError(str(error)) from None

    each = fields.String(validate=check)
    return fields.List(each, validate=[validate.Length(max=_MOST), _each_once])


def _read_mail(address: str) -> None:
    if not settings().smtp_url:
        raise targets.Refused(f"no mail is sent from here: {PREFIX}SMTP_URL is not set")
    targets.read_mail(address)


def _private() -> bool:
    return settings().allow_private_targets


def _each_once(values: Sequence[str]) -> None:
    if len(set(values)) < len(values):
        raise ValidationError("name each only once")


def _is_boolean(value: Any) -> None:
    if not isinstance(value, bool):
        raise ValidationError("true or false")
