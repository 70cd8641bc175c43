"""What JSON or Postgres would refuse is found, with its pointer."""

import json
import math
import re
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import Mistake
from orchestrator.json_values import (
    MAX_DEPTH,
    MAX_RESULT_IN_ROW,
    dump_json,
    escape_pointer,
    find_unstorable,
    load_json,
    pointer_to,
    result_excess,
    result_mistake,
    result_text,
    truncate_text,
)

texts = st.text('aZ~/01é€😀 \n"\\\x01\u2028', max_size=8)
keys = texts | st.sampled_from(["", "/", "~", "~1", "a/b~c", "0"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
documents = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=12
)


def nested(levels: int) -> Any:
    document: Any = None
    for _ in range(levels):
        document = [document]
    return document


def follow(pointer: str, document: Any) -> Any:
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        document = document[int(key) if isinstance(document, list) else key]
    return document


@settings(max_examples=20, deadline=None)
@given(documents)
def test_json_has_no_mistake(document: Any) -> None:
    assert find_unstorable(document) is None
    assert json.loads(json.dumps(document)) == document
    assert load_json(json.dumps(document).encode()) == document
    assert load_json(json.dumps(document, ensure_ascii=False)) == document


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (b'{"a": 1, "a": 1}', "/a"),
        (b'[{"a": {"b/": [], "c": 0, "b/": {}}}]', "/0/a/b~1"),
        (b'{"a": {"b": 1}, "b": {"a": 1}}', None),
        (b'[{"a": 1}, {"a": 1}]', None),
        (b"[1, " + b"9" * 4301 + b"]", "/1"),
        (b'{"a": -' + b"9" * 50_000 + b"}", "/a"),
        (b'{"a": 1, "a": ' + b"9" * 5000 + b"}", "/a"),
        (b'{"a": NaN}', "/a"),
        (b'["' + b"9" * 5000 + b'", 1]', None),
    ],
)
def test_what_json_allows_and_nobody_can_store_is_pointed_at(
    text: bytes, pointer: str | None
) -> None:
    mistake = find_unstorable(load_json(text))

    assert (mistake and mistake.pointer) == pointer


@pytest.mark.parametrize("text", [b"", b" ", b"{", b'"', b"\xff", b"\x00", b"{}x", b"nul", b"01"])
def test_what_is_not_json_has_a_place(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^line \d+, column \d+: \w"):
        load_json(text)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("a\x00b", "the character U+0000 cannot be stored"),
        ("\ud800", "half a surrogate pair is not text"),
        ("\udfff rest", "half a surrogate pair is not text"),
        (float("nan"), "NaN and infinity are not JSON"),
        (float("inf"), "NaN and infinity are not JSON"),
        (-float("inf"), "NaN and infinity are not JSON"),
        (b"bytes", "bytes is not JSON"),
        ({1, 2}, "set is not JSON"),
        (Decimal("1.1"), "Decimal is not JSON"),
        (datetime(2024, 1, 2, tzinfo=UTC), "datetime is not JSON"),
        (object, "type is not JSON"),
        (iter("abc"), "str_ascii_iterator is not JSON"),
    ],
    ids=lambda each: each if isinstance(each, str) and each.isprintable() else "",
)
def test_a_value_that_is_not_json_is_found_wherever_it_is(value: object, detail: str) -> None:
    assert find_unstorable(value) == Mistake("/", detail)
    assert find_unstorable({"a": 1, "b": [True, value, "c"]}) == Mistake("/b/1", detail)


@pytest.mark.parametrize("key", [1, None, True, ("a",), "a\x00", "\ud800"], ids=repr)
def test_a_member_needs_a_name_that_is_text(key: object) -> None:
    assert find_unstorable({"a": {key: 1}}) == Mistake("/a", f"{key!r} is not a usable member name")


@settings(max_examples=20, deadline=None)
@given(st.lists(keys | st.integers(0, 3), min_size=1, max_size=6))
def test_a_pointer_leads_to_the_mistake(path: list[str | int]) -> None:
    mistake = object()
    document: Any = mistake
    for part in reversed(path):
        document = {part: document} if isinstance(part, str) else [*range(part), document]

    unstorable = find_unstorable(document)

    assert unstorable is not None
    assert follow(unstorable.pointer, document) is mistake
    assert unstorable.pointer == pointer_to(path)


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ([], "/"),
        (["steps", 0, "with"], "/steps/0/with"),
        (["a/b", "c~d", "~1"], "/a~1b/c~0d/~01"),
        ([""], "/"),
    ],
)
def test_a_pointer_is_written_as_rfc_6901_says(path: list[str | int], pointer: str) -> None:
    assert pointer_to(path) == pointer
    assert escape_pointer("~/") == "~0~1"


def test_a_document_may_be_nested_so_deep_and_no_deeper() -> None:
    detail = f"nested deeper than {MAX_DEPTH} levels"

    assert find_unstorable(nested(MAX_DEPTH)) is None
    assert find_unstorable(nested(MAX_DEPTH + 1)) == Mistake("/0" * (MAX_DEPTH + 1), detail)


def test_a_document_that_holds_itself_is_too_deep() -> None:
    endless: list[Any] = []
    endless += [endless, endless]

    mistake = find_unstorable(endless)

    assert mistake is not None
    assert mistake.detail == f"nested deeper than {MAX_DEPTH} levels"


@pytest.mark.parametrize("end", [[], [math.nan]], ids=["right", "wrong at its end"])
def test_a_check_takes_no_more_memory_for_values_below_a_long_name(end: list[float]) -> None:
    document: Any = {"k" * 60_000: [1] * 50_000 + end, "n": dict.fromkeys(map(str, range(9)))}
    for _ in range(5):
        document = {"k" * 60_000: document}

    tracemalloc.start()
    try:
        mistake = find_unstorable(document)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (mistake is None) is (end == [])
    assert peak < 2_000_000  # bytes: the pointer of the mistake, while it is made


def test_no_depth_exhausts_the_stack() -> None:
    assert find_unstorable(nested(10_000)) is not None


@pytest.mark.parametrize(
    "text", ["x" * (MAX_RESULT_IN_ROW - 2), "é" * ((MAX_RESULT_IN_ROW - 2) // 2)]
)
def test_a_result_in_a_row_may_have_256_kib_as_json_and_not_a_byte_more(text: str) -> None:
    assert MAX_RESULT_IN_ROW == 256 * 1024
    whole, longer = result_text(text), result_text(text + "x")
    assert whole is not None
    assert longer is not None
    assert len(whole.encode()) == MAX_RESULT_IN_ROW
    assert result_excess(whole, MAX_RESULT_IN_ROW) is None
    assert result_excess(longer, MAX_RESULT_IN_ROW) == (
        "the result has 262,145 bytes as JSON; at most 262,144 are kept"
    )


def test_no_result_is_no_text() -> None:
    assert result_text(None) is None
    assert result_text(0) == "0"


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("plain", "plain"),
        ("a\x00b", "a\ufffdb"),
        ("half \ud800", "half ?"),
        ("é\x00\udfff", "é\ufffd?"),
        ("0123456789ab", "0123456789…"),
    ],
)
def test_any_text_can_be_made_storable(text: str, stored: str) -> None:
    assert truncate_text(text, 10) == stored
    assert find_unstorable(stored) is None


@pytest.mark.parametrize("result", [None, True, 0, "", [], {}, (1, 2), {"a": [1.5, "é"]}], ids=repr)
def test_any_json_is_a_result(result: Any) -> None:
    assert result_mistake(result) is None


@given(documents)
def test_a_document_is_written_as_what_it_is(document: Any) -> None:
    assert repr(json.loads(dump_json(document))) == repr(json.loads(json.dumps(document)))


@pytest.mark.parametrize("number", [1e16, -1.5e300, 1.7976931348623157e308, 1e22])
def test_a_large_float_is_written_with_a_fraction_and_a_text_like_it_stays(number: float) -> None:
    text = dump_json({'e+1 \\" 1e+22': ["1e+22", number, "\\"]}, ensure_ascii=False)

    assert text.startswith('{"e+1 \\\\\\" 1e+22": ["1e+22", ')
    assert text.endswith('.0, "\\\\"]}')
    assert json.loads(text)['e+1 \\" 1e+22'][1] == number


def test_a_result_that_is_not_json_is_refused_with_its_place() -> None:
    assert result_mistake({"rates": {"a/b": float("nan")}}) == (
        "the result is not JSON at /rates/a~1b: NaN and infinity are not JSON"
    )


def test_an_integer_too_long_to_write_is_refused_instead_of_breaking_the_worker() -> None:
    assert result_mistake([10**5000]) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,}', "line 1, column 8: Illegal trailing comma before end of object"),
        ('{"a": 1\n, }', "line 2, column 1: Illegal trailing comma before end of object"),
        ("[1,]", "line 1, column 3: Illegal trailing comma before end of array"),
        ("[[1 , \n ]]", "line 1, column 5: Illegal trailing comma before end of array"),
        ("[,]", "line 1, column 2: Expecting value"),
        ("[1,,]", "line 1, column 4: Expecting value"),
        ("[1,}", "line 1, column 4: Expecting value"),
        ("{,}", "line 1, column 2: Expecting property name enclosed in double quotes"),
        ('{"a":,}', "line 1, column 6: Expecting value"),
        ('{"a" 1}', "line 1, column 6: Expecting ':' delimiter"),
        ("[1 2]", "line 1, column 4: Expecting ',' delimiter"),
        ("[1] 2", "line 1, column 5: Extra data"),
        ('["a', "line 1, column 2: Unterminated string starting at"),
        ("", "line 1, column 1: Expecting value"),
    ],
)
def test_what_is_no_json_has_the_same_message_on_every_python(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        load_json(text)
