"""The check of a hostile spec, schema or parameter ends soon, with a mistake or without one."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest

from orchestrator.errors import MAX_MISTAKES, Invalid, InvalidParams, InvalidSpec
from orchestrator.json_values import dump_json, find_unstorable
from orchestrator.spec.cron import Rule, instants_between, read_timezone
from orchestrator.spec.durations import parse_duration
from orchestrator.spec.graph import plan
from orchestrator.spec.json_schema import format_checker
from orchestrator.spec.params import check_params
from orchestrator.spec.parser import MAX_QUEUES, parse_spec

SECONDS = 2.0  # of processor time; some of these took minutes
TOO_LONG = "takes more than 0.5 s of processor time"


@contextmanager
def soon() -> Iterator[None]:
    start = time.thread_time()
    yield
    assert time.thread_time() - start < SECONDS


def refusal(schema: dict[str, Any], params: dict[str, Any]) -> str:
    """The first mistake of the parameters, or the error without one."""
    with soon(), pytest.raises(InvalidParams) as refused:
        check_params(schema, params)
    mistakes = refused.value.mistakes
    return mistakes[0].detail if mistakes else str(refused.value)


def spec(*steps: dict[str, Any], **options: Any) -> dict[str, Any]:
    one = {"key": "a", "uses": "noop"}
    return {"name": "x", "steps": [{**one, **step} for step in steps or ({},)], **options}


def spec_mistake(document: dict[str, Any]) -> str:
    with soon(), pytest.raises(InvalidSpec) as refused:
        plan(parse_spec(document))
    mistakes = refused.value.mistakes
    return f"{mistakes[0].pointer}: {mistakes[0].detail}" if mistakes else str(refused.value)


def of(schema: Any) -> dict[str, Any]:
    return {"properties": {"a": schema}}


def doubling(keyword: str, leaf: Any, times: int = 2, levels: int = 24) -> dict[str, Any]:
    """Definitions each of which applies the next one several times."""
    defs = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * times} for n in range(levels)}
    return {"$defs": {**defs, f"d{levels}": leaf}, **of({"$ref": "#/$defs/d0"})}


EVIL, VICTIM = "^(a+)+$", "a" * 28 + "!"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (of({"pattern": EVIL}), VICTIM),
        (of({"patternProperties": {EVIL: True}, "additionalProperties": False}), {VICTIM: 1}),
        (of({"patternProperties": {EVIL: True}, "unevaluatedProperties": False}), {VICTIM: 1}),
        (of({"propertyNames": {"pattern": EVIL}}), {VICTIM: 1}),
        (of({"anyOf": [{"pattern": EVIL}] * 50}), VICTIM),
        # A draft named within a schema does not bring the patterns of `re` back.
        (of({"$schema": "http://json-schema.org/draft-07/schema#", "pattern": EVIL}), VICTIM),
    ],
)
def test_a_pattern_takes_linear_time(schema: dict[str, Any], value: Any) -> None:
    refusal(schema, {"a": value})
    with soon():
        check_params(of({"pattern": EVIL}), {"a": "a" * 100_000})


def test_a_large_pattern_is_not_searched_for_in_a_large_text() -> None:
    schema = of({"pattern": "(a|b)*a(a|b){900}c"})
    assert "too long a text for the pattern" in refusal(schema, {"a": "ab" * 500_000})
    refusal(schema, {"a": "ab" * 3000})


@pytest.mark.parametrize(
    "pattern", ["(?=a)b", "(?!a)b", "(?<=a)b", r"(a)\1", "(?P<n>a)(?P=n)", "a" * 1001, "("]
)
@pytest.mark.parametrize("place", ["pattern", "patternProperties"])
def test_a_pattern_that_is_not_linear_is_refused_at_registration(pattern: str, place: str) -> None:
    schema = of({place: pattern if place == "pattern" else {pattern: {}}})
    mistake = spec_mistake(spec(params=schema))
    assert mistake.startswith(f"/params/properties/a/{place}")
    assert "the pattern" in mistake or "a pattern has at most 1,000 characters" in mistake
    # A version that an earlier release took is refused when it is run.
    assert "pattern" in refusal(schema, {"a": "b" if place == "pattern" else {"b": 1}})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (doubling("allOf", {"type": "integer"}), 1),
        (doubling("anyOf", False, times=4), "x" * 1_000_000),
        (doubling("oneOf", True, times=4), 1),
        ({**doubling("allOf", {}), "unevaluatedProperties": False}, {}),
        (
            {
                "$defs": {
                    **{
                        f"d{n}": {
                            "dependentSchemas": {
                                key: {"$ref": f"#/$defs/d{n + 1}"} for key in ("a", "b")
                            }
                        }
                        for n in range(24)
                    },
                    "d24": {},
                },
                "$ref": "#/$defs/d0",
                "unevaluatedProperties": False,
            },
            1,
        ),
        (of({"items": {"enum": [{"n": n} for n in range(3000)]}}), [{"n": 2999}] * 5000),
        (
            {
                "$defs": {"z": {"$anchor": "n"}, **{f"d{n}": {} for n in range(3000)}},
                **of({"items": {"$ref": "#n"}}),
            },
            [1] * 10_000,
        ),
    ],
    ids=["allOf", "anyOf", "oneOf", "unevaluated", "dependentSchemas", "enum", "anchors"],
)
def test_work_that_grows_beyond_all_sizes_is_ended(schema: dict[str, Any], value: Any) -> None:
    assert TOO_LONG in refusal(schema, {"a": value, "b": 1})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (of({"uniqueItems": True}), [{"n": n, "deep": {"n": n}} for n in range(5000)]),
        (of({"uniqueItems": True}), [n * (2**61 - 1) for n in range(5000)]),  # of equal hashes
        (of({"contains": True}), [1] * 100_000),
        (of({"contains": {"const": 5}, "minContains": 0}), [1] * 10_000),
        (of({"multipleOf": 7}), 7 * 10**3900),
        (of({"items": {"type": "integer"}}), [1] * 20_000),
        (of({"enum": [{"n": n} for n in range(3000)]}), {"n": 2999}),
    ],
)
def test_a_large_value_is_checked_in_linear_time(schema: dict[str, Any], value: Any) -> None:
    with soon():
        check_params(schema, {"a": value})


@pytest.mark.parametrize(
    ("values", "unique"),
    [
        ([1, True, "1", [1], {"a": 1}], True),
        ([1, 1.0], False),
        ([0, False], True),
        ([{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], False),
        (["a", '"a"'], True),
        ([[1, [2]], [1, [2]]], False),
        ([None, "null"], True),
    ],
)
def test_items_are_equal_as_json_schema_says(values: list[Any], unique: bool) -> None:
    if unique:
        check_params(of({"uniqueItems": True}), {"a": values})
        check_params(of({"enum": values}), {"a": values[0]})
    else:
        assert "has non-unique elements" in refusal(of({"uniqueItems": True}), {"a": values})
        check_params(of({"const": values[0]}), {"a": values[1]})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, 1, 4),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "x", None),
        ({"contains": {"type": "integer"}, "minContains": 2, "maxContains": 3}, [1, 2], [1]),
        ({"contains": {"type": "integer"}, "maxContains": 1}, [1, "x"], [1, 2]),
        ({"prefixItems": [{}], "unevaluatedItems": False}, [1], [1, 2]),
        ({"contains": {"const": 1}, "unevaluatedItems": False}, [1, 1], [1, 2]),
        ({"allOf": [{"items": {}}], "unevaluatedItems": False}, [1, 2], None),
        (
            {"allOf": [{"properties": {"b": {}}}], "unevaluatedProperties": False},
            {"b": 1},
            {"c": 1},
        ),
        ({"patternProperties": {"^b": {}}, "unevaluatedProperties": False}, {"bb": 1}, {"c": 1}),
        (
            {
                "if": {"properties": {"b": {"const": 1}}, "required": ["b"]},
                "then": {"properties": {"c": {}}},
                "unevaluatedProperties": False,
            },
            {"b": 1, "c": 2},
            {"c": 2},
        ),
        (
            {
                "dependentSchemas": {"b": {"properties": {"b": {}, "c": {}}}},
                "unevaluatedProperties": {"type": "integer"},
            },
            {"b": "x", "c": "x", "d": 1},
            {"b": "x", "d": "x"},
        ),
        ({"additionalProperties": {"type": "integer"}}, {"b": 1}, {"b": "x"}),
        ({"const": [1, {"b": True}]}, [1.0, {"b": True}], [1, {"b": 1}]),
    ],
)
def test_the_keywords_mean_what_the_standard_says(schema: Any, good: Any, bad: Any) -> None:
    check_params(of(schema), {"a": good})
    if bad is not None:
        refusal(of(schema), {"a": bad})


def test_many_unknown_parameters_get_few_hints_and_a_last_word() -> None:
    known = {f"parameter_{n}": {} for n in range(300)}
    schema = {"properties": known, "additionalProperties": False}
    with soon(), pytest.raises(InvalidParams) as refused:
        check_params(schema, {f"paramter_{n}": 1 for n in range(20_000)})
    mistakes = refused.value.mistakes
    assert len(mistakes) == MAX_MISTAKES + 1
    assert "did you mean 'parameter_0'?" in mistakes[0].detail
    assert "known are" in mistakes[-2].detail
    assert mistakes[-1].detail == "there are more mistakes; correct these first"


def test_names_and_values_of_a_caller_are_cut_in_mistakes() -> None:
    schema = {"properties": {"k" * 5000: {}}, "additionalProperties": False}
    with soon(), pytest.raises(InvalidParams) as refused:
        check_params(schema, {"n" * 1_000_000: 1})
    (mistake,) = refused.value.mistakes
    assert len(mistake.pointer) < 600
    assert len(mistake.detail) < 1100


def test_a_pointer_is_made_for_the_mistake_only() -> None:
    with soon():
        assert find_unstorable({"k" * 60_000: [1] * 50_000}) is None
        mistake = find_unstorable({"k" * 60_000: [1] * 50_000 + [float("nan")]})
    assert mistake is not None
    assert len(mistake.pointer) < 600


UNITS = ["a", "a.", "a-", "{a", "/", "%41", "a:", "1:", "1", "~1", "{a,", "../", "\u00df."]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", sorted(format_checker().checkers))
def test_no_format_backtracks(name: str, unit: str) -> None:
    for text in (unit * (1990 // len(unit)) + "!", unit * 1_000_000):
        with soon(), suppress(InvalidParams):
            check_params(of({"format": name}), {"a": text})


@pytest.mark.parametrize(
    ("document", "mistake"),
    [
        (spec({"with": {"a": "{{ params.a }}" * 240_000}}), "templates of 3,360,000 characters"),
        (spec({"with": {"a": "{{ params.a }}" * 8000}}), "too long a template"),
        (
            spec(*({"key": f"s{n}", "with": {"a": "{" * 90_000}} for n in range(10))),
            "templates of 900,000 characters; 500,000 are taken",
        ),
        (spec({"with": {"a": "{{" + "a+" * 40_000 + "1}}"}}), ""),
        (spec({"with": {"a": "{{ params" + ".a" * 40_000 + "}}"}}), ""),
        (spec({"with": {"a": "{{" + "(" * 40_000 + "}}"}}), "nested too deeply"),
        (spec({"with": {"a": "{{ [" + "1," * 20_000 + "] }}"}}), "20,000 names, values and signs"),
        (spec({"with": {"a": "{" * 90_000}}), ""),
        (spec({"with": {"a": "{#" * 40_000}}), ""),
        (spec({"when": "a+" * 1500 + "1"}), "nested too deeply"),
        (
            spec(*({"key": f"s{n}", "queue": f"q{n}"} for n in range(3000))),
            f"3,000 queues are too many; {MAX_QUEUES} are taken",
        ),
        (spec({"needs": [{"n": n} for n in range(9000)]}), "is not of type 'string'"),
        (spec({"needs": [f"n{n}" for n in range(9000)]}), "no step has the key"),
        (spec(*({"key": f"s{n}", "needs": ["x"]} for n in range(10_000))), "no step has the key"),
        (
            spec(params={"enum": list(range(20_000))}),
            "20,003 values are too large a schema; 10,000 are taken",
        ),
        (
            spec(
                *({"key": f"r{n}", "needs": []} for n in range(3000)),
                {"key": "d", "enabled": False, "needs": [f"r{n}" for n in range(3000)]},
                *({"key": f"e{n}", "needs": ["d"]} for n in range(3000)),
            ),
            "more than 250,000 others",
        ),
        (spec({"timeout": "1s" * 1_000_000}), "too long for a duration"),
        (spec({"timeout": 10**3900}), "too long for a duration"),
        (spec({"unknown" * 100_000: 1}), "unknown option"),
    ],
)
def test_a_spec_of_too_much_work_is_refused(document: dict[str, Any], mistake: str) -> None:
    assert mistake in spec_mistake(document)


@pytest.mark.parametrize(
    "document",
    [
        spec({"with": {"a": "{{ params.a }}" * 1000}}),
        spec(*({"key": f"s{n}", "queue": f"q{n % MAX_QUEUES}"} for n in range(1000))),
        spec(params={"properties": {f"p{n}": {"type": "integer"} for n in range(300)}}),
        spec({"with": {"script": "echo '{'\n" * 5000}}),
    ],
)
def test_a_large_spec_is_taken(document: dict[str, Any]) -> None:
    with soon():
        parse_spec(document)


@pytest.mark.parametrize("cron", ["0 0 29 2 1", "0 0 31 12 1", "* * * * *", "59 23 29 2 *"])
def test_the_next_instants_of_a_rare_rule_are_computed_soon(cron: str) -> None:
    start, end = datetime(2027, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    with soon():
        assert list(islice(instants_between(Rule(cron=cron), start, end), 1000))


def test_a_long_word_gets_no_hint() -> None:
    with soon(), pytest.raises(Invalid, match="no such time zone"):
        read_timezone("Europe/" * 100_000)
    with soon(), pytest.raises(ValueError, match="too long for a duration"):
        parse_duration("9" * 4_000_000)


def test_long_integers_beside_a_power_of_ten_are_written_in_linear_time() -> None:
    numbers = [10**3900 + n for n in range(300)]
    with soon():
        text = dump_json({"power": 1e300, "numbers": numbers, "negative": -1e22})
    assert json.loads(text) == {"power": 1e300, "numbers": numbers, "negative": -1e22}
    assert "e+" not in text
