"""Parses the ECB's rate history, and computes cross rates.

The file's first line names the currencies; each later line is a day, the newest first, so a day is
read without the days before it. A file that breaks these rules is refused.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal

EURO = "EUR"
_NO_RATE = "N/A"
_CURRENCY = re.compile(r"[A-Z]{3}")
# Stricter than Decimal(), which also takes "NaN", "1e5" and "1_000".
_RATE = re.compile(r"[0-9]+(\.[0-9]+)?")
# One digit more than the seven that the ECB publishes at most.
_CROSS = Context(prec=8, rounding=ROUND_HALF_EVEN)


class RatesError(ValueError):
    """The file is malformed, or has no rates of the day or currency."""


@dataclass(frozen=True, kw_only=True)
class Day:
    """The reference rates of one day: how much of each currency one euro buys."""

    on: date
    rates: Mapping[str, Decimal]


def find_day(rows: Iterable[Sequence[str]], day: date) -> Day:
    """Return the rates of one day; raises RatesError if it has none or the file is malformed."""
    lines = (_without_trailing_comma(row) for row in rows if row)
    currencies = _currencies(next(lines, []))
    begins = "the file holds no day"
    for on, cells in _newest_first(lines):
        rates = _rates(currencies, cells, on=on) if on <= day else {}
        if rates:
            return _exact(Day(on=on, rates=rates), day)
        begins = f"the file begins with {_with_weekday(on)}"
    raise RatesError(f"the ECB set no rates on or before {_with_weekday(day)}; {begins}")


def _without_trailing_comma(row: Sequence[str]) -> Sequence[str]:
    # The ECB ends every line with a comma, the first one too.
    return row[:-1] if len(row) > 1 and row[-1] == "" else row


def _currencies(header: Sequence[str]) -> Sequence[str]:
    if header[:1] != ["Date"] or len(header) == 1:
        raise RatesError("the first line does not begin with 'Date' and name currencies")
    currencies = header[1:]
    if invalid := [name for name in currencies if not _CURRENCY.fullmatch(name)]:
        raise RatesError(f"the first line names {invalid[0]!r}, which is no currency code")
    if EURO in currencies:
        raise RatesError(f"the first line names {EURO}, in which the others are quoted")
    if twice := [name for name in currencies if currencies.count(name) > 1]:
        raise RatesError(f"the first line names {twice[0]} twice")
    return currencies


def _newest_first(lines: Iterable[Sequence[str]]) -> Iterator[tuple[date, Sequence[str]]]:
    newer = date.max
    for cells in lines:
        on = _date(cells[0])
        if on >= newer:
            raise RatesError(f"{on} follows {newer}, but days must go from new to old")
        yield on, cells[1:]
        newer = on


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RatesError(f"a line begins with {text!r}, which is no date") from None


def _rates(currencies: Sequence[str], cells: Sequence[str], *, on: date) -> dict[str, Decimal]:
    if len(cells) != len(currencies):
        raise RatesError(f"{on} has {len(cells)} values for {len(currencies)} currencies")
    pairs = zip(currencies, cells, strict=True)
    return {name: _rate(text, name, on=on) for name, text in pairs if text != _NO_RATE}


def _rate(text: str, currency: str, *, on: date) -> Decimal:
    if not _RATE.fullmatch(text) or not (rate := Decimal(text)):
        raise RatesError(f"{on}: the rate of {currency} is {text!r}, not a positive decimal")
    return rate


def _exact(nearest: Day, day: date) -> Day:
    if nearest.on != day:
        raise RatesError(
            f"the ECB set no rates on {_with_weekday(day)};"
            f" the nearest earlier day with rates is {_with_weekday(nearest.on)}"
        )
    return nearest


def _with_weekday(day: date) -> str:
    return f"{day:%A} {day}"


def cross_rates(rates: Mapping[str, Decimal], base: str) -> dict[str, Decimal]:
    """Return how much of each other currency, the euro included, one unit of `base` buys.

    Rounded once, half to even, to eight significant digits. Raises RatesError if `base` has none.
    """
    if base not in rates:
        raise RatesError(f"there is no rate of {base} that day, so there are no cross rates")
    quotes = {**rates, EURO: Decimal(1)}
    return {name: _CROSS.divide(rate, rates[base]) for name, rate in quotes.items() if name != base}
