"""Parsing a spec: each mistake has its pointer, each missing option its default."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidParams, InvalidSpec
from orchestrator.spec.model import RetryPolicy, StepSpec, WorkflowSpec
from orchestrator.spec.params import check_params
from orchestrator.spec.parser import MAX_STEPS, parse_spec

ELSEWHERE = "http://127.0.0.1:1/schema.json"
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 2.5, 10**400, "", "a", "6s", "{{", "{{ params.x }}", "}}{{", "é"),
    *("{{ steps.b.result }}", "{{ steps['c'] }}", "{% if params.x %}", "not run", "1 if", "~"),
    *([], ["a"], ["b", "c"], ["a", "a"], [[]], [None], ["{{ run.id }}"], [{"x": "{{ nope }}"}]),
    *({}, {"a": 1}, {"attempts": 2}, {"delay": "1m"}, {"on": [1]}, {"type": "x"}, {"a/b": [{}]}),
    *({"properties": {"a": {"default": 1}}}, {"$ref": "#"}, {"x": {"y": ["{{ steps.zz }}"]}}),
]
junk = st.sampled_from(JUNK)


def step(key: str = "a", args: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"key": key, "uses": "noop", **({"with": args} if args else {}), **options}


def spec(*steps: Any, **options: Any) -> dict[str, Any]:
    return {"name": "work", "steps": list(steps) or [step()], **options}


def read_step(**options: Any) -> StepSpec:
    return parse_spec(spec(step(**options))).steps[0]


def mistakes_in(document: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidSpec, match="the spec is not a workflow") as refusal:
        parse_spec(document)
    return [(mistake.pointer, mistake.detail) for mistake in refusal.value.mistakes]


def params_refused(schema: dict[str, Any], params: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidParams, match="do not fit the workflow") as refusal:
        check_params(schema, params)
    return [(mistake.pointer, mistake.detail) for mistake in refusal.value.mistakes]


def test_a_workflow_needs_only_a_name_and_steps_with_a_key_and_a_handler() -> None:
    workflow = parse_spec({"name": "work", "steps": [{"key": "a", "uses": "noop"}]})

    assert workflow == WorkflowSpec(name="work", steps=(StepSpec(key="a", uses="noop"),))
    assert (workflow.queue, workflow.priority, workflow.timeout) == ("default", 4, None)


def test_a_step_needs_the_step_before_it_by_default() -> None:
    steps = [step("a"), step("b"), step("c", needs=[]), step("d", needs=["a", "c"]), step("e")]

    workflow = parse_spec(spec(*steps))

    assert [each.needs for each in workflow.steps] == [(), ("a",), (), ("a", "c"), ("d",)]


def test_a_step_may_need_a_step_that_is_written_after_it() -> None:
    workflow = parse_spec(spec(step("a", needs=["b"]), step("b", needs=[])))

    assert workflow.steps[0].needs == ("b",)


def test_every_option_is_read() -> None:
    first, second = parse_spec(
        spec(
            step("a"),
            step(
                "b",
                {"n": "{{ steps.a.result }}"},
                name="Second",
                needs=["a"],
                when="{{ params.on }}",
                retry={"attempts": 5, "delay": "500ms", "max_delay": 60, "on": ["OSError"]},
                timeout="1h30m",
                queue="slow",
                priority=8,
                allow_failure=True,
                enabled=False,
            ),
        )
    ).steps

    assert first.retry is None
    assert second == StepSpec(
        key="b",
        uses="noop",
        name="Second",
        args={"n": "{{ steps.a.result }}"},
        needs=("a",),
        reads=("a",),
        when="params.on",
        retry=RetryPolicy(
            attempts=5,
            delay=timedelta(milliseconds=500),
            max_delay=timedelta(minutes=1),
            on=("OSError",),
        ),
        timeout=timedelta(hours=1, minutes=30),
        queue="slow",
        priority=8,
        allow_failure=True,
        enabled=False,
    )


def test_every_option_of_a_workflow_is_read() -> None:
    options = {"service": "rates", "description": "Daily.", "queue": "slow", "priority": 9}
    schema = {"properties": {"day": {"type": "string"}}}

    workflow = parse_spec(spec(**options, timeout=90, tags=["eu", "fx"], params=schema))

    assert workflow == WorkflowSpec(
        name="work",
        steps=(StepSpec(key="a", uses="noop"),),
        service="rates",
        description="Daily.",
        queue="slow",
        priority=9,
        timeout=timedelta(seconds=90),
        tags=("eu", "fx"),
        params=schema,
    )


def test_a_step_reads_what_it_needs_and_what_its_templates_name() -> None:
    steps = [step("a"), step("b"), step("c", {"x": ["{{ steps.a.result }}"]})]

    assert parse_spec(spec(*steps)).steps[2].reads == ("b", "a")


@pytest.mark.parametrize(
    ("document", "pointer", "detail"),
    [
        (None, "/", "None is not of type 'object'"),
        ([], "/", "[] is not of type 'object'"),
        ({"steps": [step()]}, "/", "'name' is a required property"),
        ({"name": "work"}, "/", "'steps' is a required property"),
        ({"name": "work", "steps": []}, "/steps", "[] should be non-empty"),
        ({"name": "work", "steps": {}}, "/steps", "{} is not of type 'array'"),
        (spec("a"), "/steps/0", "'a' is not of type 'object'"),
        (spec({"uses": "noop"}), "/steps/0", "'key' is a required property"),
        (spec({"key": "a"}), "/steps/0", "'uses' is a required property"),
        (spec(name=1), "/name", "1 is not of type 'string'"),
        (spec(priority="high"), "/priority", "'high' is not of type 'integer'"),
        (spec(priority=10), "/priority", "10 is greater than the maximum of 9"),
        (spec(priority=True), "/priority", "True is not of type 'integer'"),
        (spec(params=True), "/params", "True is not of type 'object'"),
        (spec(tags=[1]), "/tags/0", "1 is not of type 'string'"),
        (spec(step(needs="a")), "/steps/0/needs", "'a' is not of type 'array'"),
        (
            {"name": "w", "steps": [{"key": "a", "uses": "noop", "with": []}]},
            "/steps/0/with",
            "[] is not of type 'object'",
        ),
        (spec(step(enabled="no")), "/steps/0/enabled", "'no' is not of type 'boolean'"),
        (spec(step(retry=None)), "/steps/0/retry", "None is not of type 'object'"),
        (spec(step(retry={"attempts": 0})), "/steps/0/retry/attempts", "0 is less than"),
        (spec(step(retry={"jitter": 2})), "/steps/0/retry/jitter", "2 is greater than"),
    ],
)
def test_what_has_the_wrong_form_is_named_with_its_place(
    document: Any, pointer: str, detail: str
) -> None:
    ((where, what),) = mistakes_in(document)

    assert where == pointer
    assert what.startswith(detail)


@pytest.mark.parametrize(
    ("document", "pointer", "detail"),
    [
        (spec(nmae="w"), "/nmae", "unknown option 'nmae'; did you mean 'name'?"),
        (
            spec(step(tiemout=3)),
            "/steps/0/tiemout",
            "unknown option 'tiemout'; did you mean 'timeout'?",
        ),
        (
            spec(step("a"), step("b", retry={"attemps": 3})),
            "/steps/1/retry/attemps",
            "unknown option 'attemps'; did you mean 'attempts'?",
        ),
        (
            spec(step(retry={"zzz": 3})),
            "/steps/0/retry/zzz",
            "unknown option 'zzz'; known are attempts, delay, backoff, max_delay, jitter, on",
        ),
        (spec(**{"a/b": 1}), "/a~1b", "unknown option 'a/b'; known are name, service,"),
    ],
)
def test_an_unknown_option_is_refused_with_the_closest_known_one(
    document: Any, pointer: str, detail: str
) -> None:
    ((where, what),) = mistakes_in(document)

    assert where == pointer
    assert what.startswith(detail)


def test_every_mistake_is_reported_at_once() -> None:
    mistakes = mistakes_in(spec(step("a", needs=["x"], timeout="soon"), step("a"), timeout=-1))

    assert [pointer for pointer, _ in mistakes] == [
        "/timeout", "/steps/0/timeout", "/steps/1/key", "/steps/0/needs/0"
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["", "a b", "1a", "a.b", "é", "a" * 65])
def test_a_key_is_short_and_plain(key: str) -> None:
    ((where, what),) = mistakes_in(spec(step(key)))

    assert where == "/steps/0/key"
    assert "does not match" in what


@pytest.mark.parametrize(
    "document",
    [spec(step("a\n")), spec(name="work\n"), spec(queue="slow\n"), spec(step(uses="noop\n"))],
    ids=["key", "name", "queue", "uses"],
)
def test_no_name_ends_in_a_new_line(document: Any) -> None:
    assert "does not match" in mistakes_in(document)[0][1]


@pytest.mark.parametrize(
    ("steps", "pointer", "detail"),
    [
        (
            [step("fetch"), step("b", needs=["fetsh"])],
            "/steps/1/needs/0",
            "no step has the key 'fetsh'; did you mean 'fetch'?",
        ),
        ([step("a", needs=["zzz"])], "/steps/0/needs/0", "no step has the key 'zzz'"),
        (
            [step("a"), step("b"), step("c", needs=["a", "x"])],
            "/steps/2/needs/1",
            "no step has the key 'x'",
        ),
        ([step("a"), step("b"), step("a")], "/steps/2/key", "'a' is the key of /steps/0 too"),
        (
            [step("a", needs=["a"])],
            "/steps/0/needs",
            "the steps need each other in a circle: a → a",
        ),
        (
            [step("a", enabled=False), step("b", enabled=False)],
            "/steps",
            "at least one step must be enabled",
        ),
    ],
    ids=["misspelt", "unknown", "second need", "key twice", "needs itself", "all disabled"],
)
def test_steps_that_do_not_fit_together_are_refused(
    steps: list[Any], pointer: str, detail: str
) -> None:
    assert mistakes_in(spec(*steps)) == [(pointer, detail)]


def test_a_circle_is_shown_as_it_goes_round() -> None:
    steps = [step("a", needs=["c"]), step("b", needs=["a"]), step("c", needs=["b"]), step("d")]

    ((where, what),) = mistakes_in(spec(*steps))

    circle = what.removeprefix("the steps need each other in a circle: ").split(" → ")
    needs = {each["key"]: each.get("needs") for each in steps}
    assert where == f"/steps/{'abc'.index(circle[0])}/needs"
    assert circle[0] == circle[-1]
    assert set(circle) == {"a", "b", "c"}
    assert all(needs[one] == [other] for one, other in pairwise(circle))


@pytest.mark.parametrize("written", ["soon", "1d", "-1", "", -1, 0.1e-6, "9" * 400])
def test_a_bad_duration_is_refused_where_it_is(written: Any) -> None:
    assert [where for where, _ in mistakes_in(spec(timeout=written))] == ["/timeout"]
    assert [where for where, _ in mistakes_in(spec(step(timeout=written)))] == ["/steps/0/timeout"]


@pytest.mark.parametrize("name", ["delay", "max_delay"])
def test_an_invalid_delay_is_refused_with_examples(name: str) -> None:
    assert mistakes_in(spec(step(retry={name: "soon"}))) == [
        (f"/steps/0/retry/{name}", "'soon' is not a duration; write 6, 6s, 500ms, 2m or 1h30m")
    ]


def test_a_timeout_is_longer_than_nothing_and_a_delay_need_not_be() -> None:
    assert mistakes_in(spec(step(timeout="0s"))) == [
        ("/steps/0/timeout", "a timeout must be longer than nothing")
    ]
    assert read_step(retry={"delay": 0}).retry == RetryPolicy(delay=timedelta(0))


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "objekt"}, "/params/type"),
        ({"properties": []}, "/params/properties"),
        ({"properties": {"day": {"type": "dat"}}}, "/params/properties/day/type"),
        ({"properties": {"a/b": {"minimum": "1"}}}, "/params/properties/a~1b/minimum"),
        ({"properties": {"day": {"pattern": "("}}}, "/params/properties/day/pattern"),
        ({"required": "day"}, "/params/required"),
    ],
)
def test_params_must_be_a_json_schema(schema: Any, pointer: str) -> None:
    ((where, what),) = mistakes_in(spec(params=schema))

    assert where == pointer
    assert what.startswith("not a JSON Schema: ")


@pytest.mark.parametrize(
    ("template", "detail"),
    [
        ("{{ steps.zzz.result }}", "a template reads step 'zzz', which does not exist"),
        ("{{ steps.c.result }}", "a template reads step 'c', which does not run before this step"),
        ("{{ steps.b.result }}", "a template reads step 'b', which does not run before this step"),
        ("{{ steps['c'].result }}", "a template reads step 'c', which does not run before"),
    ],
    ids=["unknown", "beside", "itself", "by item"],
)
def test_a_template_may_only_read_a_step_that_runs_before(template: str, detail: str) -> None:
    ((where, what),) = mistakes_in(
        spec(step("a"), step("b", {"x": [template]}), step("c", needs=["a"]))
    )

    assert where == "/steps/1"
    assert what.startswith(detail)


def test_a_step_runs_before_those_that_need_it_over_others() -> None:
    parse_spec(spec(step("a"), step("b"), step("c"), step("d", {"x": "{{ steps.a.result }}"})))


@pytest.mark.parametrize(
    ("template", "detail"),
    [
        ("{{ parms.day }}", "unknown name 'parms'; there are params, run, steps"),
        ("{{ params.day", "'{{ params.day': unexpected end of template"),
        ("{{ }}", "'{{ }}': Expected an expression"),
        ("{% if params.day %}", "Unexpected end of template"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str, detail: str) -> None:
    ((where, what),) = mistakes_in(spec(step("a", {"deep": [{"x": template}]})))

    assert where == "/steps/0/with"
    assert detail in what


@pytest.mark.parametrize(
    ("when", "detail"),
    [
        ("", "''"),
        ("params.count =", "'params.count ='"),
        ("{{", "'{{'"),
        ("{{ params.a }} {{ params.b }}", "'{{ params.a }} {{ params.b }}'"),
        ("{% if params.a %}1{% endif %}", "'{% if params.a %}1{% endif %}'"),
        ("params.a, params.b", "'params.a, params.b': it is more than one expression"),
        ("params.a }} and {{ params.b", "'params.a }} and {{ params.b'"),
        ("true }}{{ true", "'true }}{{ true'"),
        ("(" * 1000, "nested too deeply"),
        ("weekday", "unknown name 'weekday'; there are params, run, steps"),
    ],
)
def test_a_condition_that_cannot_work_is_refused(when: str, detail: str) -> None:
    ((where, what),) = mistakes_in(spec(step("a", when=when)))

    assert where == "/steps/0/when"
    assert detail in what


def test_a_condition_reads_only_steps_that_run_before() -> None:
    assert mistakes_in(spec(step("a", when="steps.b.result == 1"), step("b"))) == [
        ("/steps/0", "a template reads step 'b', which does not run before this step")
    ]
    assert parse_spec(spec(step("a"), step("b", when="steps.a.result"))).steps[1].reads == ("a",)


@pytest.mark.parametrize(
    ("when", "kept"),
    [(True, "true"), (False, "false"), ("{{ params.on }}", "params.on"), ("params.on",) * 2],
)
def test_a_condition_may_be_a_boolean_or_an_expression(when: Any, kept: str) -> None:
    assert read_step(when=when).when == kept


def test_a_workflow_has_at_most_ten_thousand_steps() -> None:
    ((where, what),) = mistakes_in(spec(*[step()] * (MAX_STEPS + 1)))

    assert MAX_STEPS == 10_000
    assert where == "/steps"
    assert len(what) < 500


@pytest.mark.parametrize(
    "document",
    [spec(description="x" * 4001), spec(step(when="x" * 4001)), spec(tags=["a tag"] * 200)],
    ids=["description", "when", "tags"],
)
def test_a_value_that_is_too_long_is_not_repeated_in_the_message(document: Any) -> None:
    ((_, what),) = mistakes_in(document)

    assert what.endswith("is too long")
    assert len(what) < 500


@pytest.mark.parametrize(
    ("document", "pointer", "detail"),
    [
        (spec(name="wo\x00rk"), "/name", "U+0000 cannot be stored"),
        (spec(step(args={"x": ["\x00"]})), "/steps/0/with/x/0", "U+0000 cannot be stored"),
        (spec(step(args={"\x00": 1})), "/steps/0/with", "is not a usable member name"),
        (spec(params={"default": "\ud800"}), "/params/default", "half a surrogate pair"),
        (spec(step(args={"x": float("nan")})), "/steps/0/with/x", "NaN and infinity"),
        (dict[Any, Any]({1: 2}), "/", "1 is not a usable member name"),
    ],
    ids=["name", "value", "member", "surrogate", "nan", "number as name"],
)
def test_what_postgres_could_not_store_is_refused(document: Any, pointer: str, detail: str) -> None:
    ((where, what),) = mistakes_in(document)

    assert where == pointer
    assert detail in what


@pytest.mark.parametrize("place", ["with", "params"])
def test_deep_nesting_is_refused_and_exhausts_nothing(place: str) -> None:
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"not": deep}

    mistakes = mistakes_in(spec(step(args=deep)) if place == "with" else spec(params=deep))

    assert [what for _, what in mistakes] == ["nested deeper than 64 levels"]


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries({"name": st.just("work")}, optional={"timeout": junk, "params": junk}),
    st.lists(
        st.fixed_dictionaries(
            {"key": st.sampled_from("abc"), "uses": st.just("noop")},
            optional={"with": junk, "needs": junk, "when": junk, "retry": junk, "timeout": junk},
        ),
        max_size=3,
    ),
)
def test_any_json_is_a_workflow_or_refused(document: dict[str, Any], steps: list[Any]) -> None:
    try:
        workflow = parse_spec(document | {"steps": steps})
    except InvalidSpec:
        return

    assert [each.key for each in workflow.steps] == [each["key"] for each in steps]


@pytest.mark.parametrize("word", ["$ref", "$dynamicRef"])
def test_a_schema_elsewhere_is_never_fetched(word: str) -> None:
    workflow = parse_spec(spec(params={word: ELSEWHERE}))

    with pytest.raises(InvalidParams, match=f"cannot be used: Unresolvable: {ELSEWHERE}"):
        check_params(workflow.params, {})


def test_a_schema_may_refer_to_itself() -> None:
    schema = {"$defs": {"day": {"type": "string"}}, "properties": {"d": {"$ref": "#/$defs/day"}}}

    assert check_params(schema, {"d": "monday"}) == {"d": "monday"}
    assert params_refused(schema, {"d": 1}) == [("/params/d", "1 is not of type 'string'")]


def test_an_endless_schema_is_refused_as_unusable() -> None:
    with pytest.raises(InvalidParams, match="JSON Schema cannot be used"):
        check_params({"$ref": "#"}, {})


def test_the_defaults_of_the_schema_are_filled_in() -> None:
    schema = {"properties": {"day": {"default": "today"}, "n": {"default": 1}, "on": True}}

    assert check_params(schema, {"n": 2, "more": None}) == {"day": "today", "n": 2, "more": None}
    assert check_params({}, {}) == {}


def test_parameters_may_come_later_but_those_that_are_there_must_be_right() -> None:
    schema = {"required": ["day"], "properties": {"n": {"type": "integer", "default": 1}}}

    assert check_params(schema, {}, complete=False) == {"n": 1}
    with pytest.raises(InvalidParams):
        check_params(schema, {"n": "x"}, complete=False)
    with pytest.raises(InvalidParams):
        check_params(schema, {})


def test_a_default_must_fit_the_schema_too() -> None:
    schema = {"properties": {"n": {"type": "integer", "default": "one"}}}

    assert params_refused(schema, {}) == [("/params/n", "'one' is not of type 'integer'")]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("date-time", "2024-01-02T03:04:05Z", "2024-01-02 03:04"),
        ("uuid", "0192f0c1-8f7e-7c3a-9d7b-1f2e3d4c5b6a", "0192"),
        ("uri", "https://example.com/", "example"),
    ],
)
def test_formats_are_checked(kind: str, good: str, bad: str) -> None:
    schema = {"properties": {"x": {"type": "string", "format": kind}}}

    assert check_params(schema, {"x": good}) == {"x": good}
    assert params_refused(schema, {"x": bad}) == [("/params/x", f"{bad!r} is not a {kind!r}")]


def test_an_unknown_parameter_is_refused_with_the_closest_known_one() -> None:
    schema = {"properties": {"date": {}, "base": {}}, "additionalProperties": False}

    assert params_refused(schema, {"dat": 1, "zzz": 2}) == [
        ("/params/dat", "unknown option 'dat'; did you mean 'date'?"),
        ("/params/zzz", "unknown option 'zzz'; known are date, base"),
    ]


def test_every_parameter_that_does_not_fit_is_named() -> None:
    schema = {
        "required": ["day"],
        "properties": {"n": {"type": "integer"}, "a/b": {"items": {"type": "string"}}},
    }

    assert params_refused(schema, {"n": "1", "a/b": ["x", 2]}) == [
        ("/params", "'day' is a required property"),
        ("/params/n", "'1' is not of type 'integer'"),
        ("/params/a~1b/1", "2 is not of type 'string'"),
    ]


def test_parameters_are_not_changed_in_place() -> None:
    params = {"n": 1}

    check_params({"properties": {"day": {"default": "today"}}}, params)

    assert params == {"n": 1}


def test_only_the_unknown_parameters_are_called_unknown() -> None:
    schema = {"patternProperties": {"^x-": {}}, "additionalProperties": False}

    assert [where for where, _ in params_refused(schema, {"x-a": 1, "b": 2})] == ["/params/b"]
