"""Cursors: round trips, and rejection of forged ones."""

import base64
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.toolkit import paging
from orchestrator.errors import Invalid, Mistake

RUN = UUID("0192f0c1-8f7e-7c3a-9d7b-1f2e3d4c5b6a")
KINDS = [(UUID,), (int, UUID), (int,), (str,)]

texts = st.text('aZ09 -_~/%é€😀\n"\\')
hostile = st.text("aWzQ09=+/-_%é\x00\ud800 \n")
numbers = st.integers(-(2**63), 2**63 - 1)
JUNK: list[Any] = [
    *(None, True, 0, -1, 2**63, -(2**63) - 1, 10**40, 1.5, float("nan"), float("-inf")),
    *("", "a", "\x00", str(RUN), RUN.hex, f"{{{RUN}}}", "{", "é" * 36, [], [1], {}, {"a": 1}),
]
positions = st.lists(st.sampled_from(JUNK), max_size=2) | st.sampled_from(JUNK)


def cursor_of(document: str | bytes) -> str:
    raw = document.encode() if isinstance(document, str) else document
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decoded(cursor: str) -> list[tuple[tuple[type, ...], tuple[Any, ...]]]:
    """The positions that lists of each kind read from a cursor, without those that reject it."""
    positions: list[tuple[tuple[type, ...], tuple[Any, ...]]] = []
    for kinds in KINDS:
        try:
            position = paging.decode(cursor, *kinds)
        except Invalid:
            continue
        assert position is not None
        positions.append((kinds, position))
    return positions


@settings(max_examples=40, deadline=None)
@given(numbers, st.uuids(), texts)
def test_a_cursor_leads_to_the_position_it_was_made_of(number: int, id: UUID, name: str) -> None:
    cursor = paging.encode(number, id, name)

    assert paging.decode(cursor, int, UUID, str) == (number, id, name)
    assert set(cursor).isdisjoint("+/= &?#%")


def test_no_cursor_is_no_position() -> None:
    assert paging.decode(None, UUID) is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "garbage",
        "é",
        "=",
        "\ud800",
        "\x00",
        "a" * 5,
        cursor_of("not json"),
        cursor_of(b"\xff\xfe"),
        cursor_of("null"),
        cursor_of("{}"),
        cursor_of("[]"),
        cursor_of("[null]"),
        cursor_of("[true]"),
        cursor_of("[1.5]"),
        cursor_of("[NaN]"),
        cursor_of("[[1]]"),
        cursor_of('["not a uuid"]'),
        cursor_of(f"[{2**63}]"),
        cursor_of("[1" + "0" * 5000 + "]"),
        cursor_of("[" * 100_000),
        paging.encode(RUN, RUN),
        paging.encode(str(RUN)) + "!",
    ],
    ids=lambda cursor: ascii(cursor)[:20],
)
@pytest.mark.parametrize("kinds", [(UUID,), (int,), (int, UUID)], ids=str)
def test_a_cursor_that_is_not_ours_is_refused(cursor: str, kinds: tuple[type, ...]) -> None:
    with pytest.raises(Invalid) as refusal:
        paging.decode(cursor, *kinds)

    assert refusal.value.mistakes == (
        Mistake("/query/cursor", "use `next_cursor` of the page before, unchanged"),
    )


@pytest.mark.parametrize(
    ("position", "kinds"),
    [
        ((RUN,), (int,)),
        ((1,), (UUID,)),
        ((1,), (str,)),
        (("a\x00",), (str,)),
        ((RUN, 1), (int, UUID)),
        ((1,), (int, UUID)),
        ((True,), (int,)),
    ],
)
def test_a_cursor_of_another_list_is_refused(
    position: tuple[Any, ...], kinds: tuple[type, ...]
) -> None:
    with pytest.raises(Invalid):
        paging.decode(paging.encode(*position), *kinds)


def test_a_cursor_with_text_that_postgres_cannot_take_is_refused() -> None:
    with pytest.raises(Invalid):
        paging.decode(paging.encode("\ud800"), str)


@settings(max_examples=50, deadline=None)
@given(hostile | st.binary().map(cursor_of))
@example(cursor_of("[[[[") + "=")
def test_any_text_is_a_cursor_or_refused(cursor: str) -> None:
    decoded(cursor)


@settings(max_examples=50, deadline=None)
@given(positions)
def test_a_forged_position_has_the_right_kinds_or_is_refused(position: Any) -> None:
    for kinds, values in decoded(cursor_of(json.dumps(position))):
        assert tuple(type(each) for each in values) == kinds
