"""Templates: their values, their errors, and the steps that they reference."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.spec.templates import (
    TemplateError,
    check_condition,
    evaluate,
    referenced_steps,
    render,
)

NAMES: dict[str, Any] = {
    "params": {
        "count": 3,
        "half": 0.5,
        "on": True,
        "off": False,
        "nothing": None,
        "name": "Ada",
        "days": ["mon", "tue"],
        "rates": {"USD": "1.1"},
        "items": ["apple", "pear"],
    },
    "steps": {"fetch": {"result": {"rows": [1, 2]}}, "load-all": {"result": 7}},
    "run": {"id": "r1", "number": 5},
}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ params.count }}", 3),
        ("{{params.half}}", 0.5),
        ("  {{ params.on }}\n", True),
        ("{{- params.count -}}", 3),
        ("{{ params.nothing }}", None),
        ("{{ params.days }}", ["mon", "tue"]),
        ("{{ params.rates }}", {"USD": "1.1"}),
        ("{{ steps.fetch.result.rows }}", [1, 2]),
        ("{{ steps['load-all'].result + 1 }}", 8),
        ("{{ params.days[0] }}", "mon"),
        ("{{ params.days | length }}", 2),
        ("{{ params.count > 2 and not params.off }}", True),
        ("{{ params.missing | default(9) }}", 9),
        ("{{ params.missing is defined }}", False),
        ("{{ '}}' }}", "}}"),
        ("{{ '- not a sign -' }}", "- not a sign -"),
    ],
)
def test_a_string_that_is_one_expression_keeps_the_values_type(template: str, value: Any) -> None:
    rendered = render(template, NAMES)

    assert rendered == value
    assert type(rendered) is type(value)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hello {{ params.name }}", "Hello Ada"),
        ("{{ params.count }}{{ params.count }}", "33"),
        ("{{ params.name }}.", "Ada."),
        ("run {{ run.number }} of {{ run.id }}", "run 5 of r1"),
        ("{% if params.on %}yes{% else %}no{% endif %}", "yes"),
        ("{% for day in params.days %}{{ day }} {% endfor %}", "mon tue "),
        ("<{{ params.name }} & co>", "<Ada & co>"),
    ],
)
def test_any_other_string_is_rendered_to_text(template: str, text: str) -> None:
    assert render(template, NAMES) == text


@pytest.mark.parametrize("value", [1, 1.5, None, True, "", "plain", "a } b", "50 %", [], {}])
def test_what_holds_no_template_is_left_alone(value: Any) -> None:
    assert render(value, NAMES) is value or render(value, NAMES) == value


def test_templates_are_filled_at_every_depth_and_nothing_is_changed_in_place() -> None:
    document = {"a": ["{{ params.count }}", {"b": "{{ params.name }}!"}], "{{ params.count }}": 1}
    before = repr(document)

    rendered = render(document, NAMES)

    assert rendered == {"a": [3, {"b": "Ada!"}], "{{ params.count }}": 1}
    assert repr(document) == before


@pytest.mark.parametrize(("template", "value"), [("{{ -params.count }}", -3), ("{{ -1 }}", -1)])
def test_a_sign_belongs_to_the_expression(template: str, value: int) -> None:
    assert render(template, NAMES) == value


def test_a_member_named_like_a_method_of_dict_is_found() -> None:
    assert render("{{ params.items }}", NAMES) == ["apple", "pear"]
    assert render("{{ params.items | length }} fruits", NAMES) == "2 fruits"


def test_text_keeps_the_end_of_its_last_line() -> None:
    assert render("{{ params.name }},\n", NAMES) == "Ada,\n"
    assert render('{"a": 1}\n', NAMES) == '{"a": 1}\n'


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        ("{{ params.missing }}", "missing"),
        ("{{ params.missing.deeper }}", "missing"),
        ("Hello {{ params.missing }}", "missing"),
        ("{{ steps.fetch.result.cells }}", "cells"),
        ("{{ params['missing'] }}", "missing"),
        ("{{ other }}", "other"),
        ("{% if params.missing %}{% endif %}", "missing"),
        ("{{ params.missing + 1 }}", "missing"),
    ],
)
def test_an_undefined_name_is_an_error_that_names_it(template: str, missing: str) -> None:
    with pytest.raises(TemplateError, match=missing):
        render(template, NAMES)


@pytest.mark.parametrize(
    "template",
    [
        "{{ [params.missing] }}",
        "{{ {'a': params.missing} }}",
        "{{ 1 if params.off }}",
        "{{ (params.missing, 1) }}",
    ],
)
def test_no_undefined_value_reaches_a_handler(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template, NAMES)


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__",
        "''.__class__.__mro__[1].__subclasses__()",
        "params.__class__",
        "params['__class__']",
        "params | attr('__class__')",
        "'{0.__class__}'.format(params)",
        "'{0.__class__.__init__.__globals__}'.format(params)",
        "lipsum.__globals__",
        "cycler.__init__.__globals__",
        "self.__init__",
        "params.update({'count': 4})",
        "params.days.append('wed')",
        "params.rates.clear()",
        "range(10 ** 9)",
    ],
)
def test_the_sandbox_gives_no_access_to_internals(expression: str) -> None:
    for template in (f"{{{{ {expression} }}}}", f"text {{{{ {expression} }}}}"):
        with pytest.raises(TemplateError):
            render(template, NAMES)

    assert NAMES["params"]["count"] == 3
    assert NAMES["params"]["days"] == ["mon", "tue"]


@pytest.mark.parametrize(
    "template",
    ["{% include 'x' %}", "{% import 'x' as x %}", "{% extends 'x' %}", "{{ 1 // 0 }}", "{{ nope("],
)
def test_whatever_goes_wrong_in_a_template_is_one_kind_of_error(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template, NAMES)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("params.on", True), ("params.count == 3", True), ("steps.fetch.result.rows | sum", 3)],
)
def test_a_bare_expression_has_a_value(expression: str, value: Any) -> None:
    assert evaluate(expression, NAMES) == value


def test_a_bare_expression_over_a_missing_name_is_an_error() -> None:
    with pytest.raises(TemplateError, match="missing"):
        evaluate("params.missing", NAMES)


@pytest.mark.parametrize(
    ("written", "bare"),
    [
        ("params.on", "params.on"),
        ("{{ params.on }}", "params.on"),
        (" {{params.count > 2}} ", "params.count > 2"),
        ("{{ params.name == '}}' }}", "params.name == '}}'"),
        ("true", "true"),
    ],
)
def test_a_condition_is_written_with_braces_or_without(written: str, bare: str) -> None:
    assert check_condition(written) == bare


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ("{{ steps.fetch.result }}", {"fetch"}),
        ("{{ steps['load-all'].result }}", {"load-all"}),
        ('{{ steps["a"]["result"] }} and {{ steps.b.result }}', {"a", "b"}),
        ("{% if steps.a.result %}{{ steps.b.result }}{% endif %}", {"a", "b"}),
        ("{{ steps.a.result.steps.b }}", {"a"}),
        ("{{ params.steps.a }} {{ run.id }}", set()),
        ({"x": ["{{ steps.a.result }}", {"y": "{{ steps.b.result }}"}], "z": 1}, {"a", "b"}),
        ("steps.a.result", set()),
        ("{% raw %}{{ steps.a }}{% endraw %}", set()),
        ("{# steps.a #}", set()),
        ([None, 1, True, ""], set()),
    ],
)
def test_the_steps_that_templates_read_are_found(value: Any, keys: set[str]) -> None:
    assert referenced_steps(value) == keys


@pytest.mark.parametrize(
    "template", ["{{ parms.count }}", "{% for day in parms %}{% endfor %}", "{{ fetch.result }}"]
)
def test_an_unknown_name_is_refused_with_the_known_ones(template: str) -> None:
    with pytest.raises(TemplateError, match=r"unknown name '\w+'; there are params, run, steps"):
        referenced_steps(template)


def test_a_name_that_the_template_defines_is_known() -> None:
    assert referenced_steps("{% for day in params.days %}{{ day }}{% endfor %}") == set()
    assert referenced_steps("{% set total = params.count %}{{ total }}") == set()


@pytest.mark.parametrize("template", ["{{", "{{ }}", "{% if %}", "{{ a b }}", "{% endfor %}"])
def test_a_template_that_does_not_parse_is_refused_with_its_text(template: str) -> None:
    with pytest.raises(TemplateError) as refusal:
        referenced_steps(template)

    assert template in str(refusal.value)


@pytest.mark.parametrize(
    ("template", "detail"),
    [
        ("{{ params.name | nope }}", "there is no filter 'nope'"),
        ("{{ params.name is nope }}", "there is no test 'nope'"),
        ("{{ params.name | defined }}", "there is no filter 'defined'"),
        ("{{ params.name is join }}", "there is no test 'join'"),
    ],
)
def test_a_filter_or_test_that_does_not_exist_is_refused(template: str, detail: str) -> None:
    with pytest.raises(TemplateError, match=detail):
        referenced_steps(template)


def test_a_template_nested_too_deeply_is_refused() -> None:
    with pytest.raises(TemplateError, match="nested too deeply"):
        referenced_steps("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}")


def test_a_template_that_is_too_long_a_sum_is_refused() -> None:
    with pytest.raises(TemplateError, match="nested too deeply"):
        referenced_steps("{{ 1" + " + 1" * 2000 + " }}")


@pytest.mark.parametrize("template", ["{{ 'x' * 10 ** 7 }}", "{{ 'x' | center(10 ** 7) }}"])
def test_the_check_of_a_template_does_not_evaluate_it(template: str) -> None:
    tracemalloc.start()

    referenced_steps(template)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="{}%#'\"()[]|.~=-+ \nabeinfsrpt"))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    for template in (text, f"{{{{ {text} }}}}"):
        try:
            referenced_steps(template)
            render(template, NAMES)
        except TemplateError:
            continue
